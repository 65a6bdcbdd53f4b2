// Package eviction measures eviction policies on streams of questions as a cache in
// front of a language model sees them: popular ones by Zipf's law, and scans of
// one-off prompts in between (a batch job, a crawler). Answers differ in size and in
// the model time that they took.
//
// The command in bench/eviction/otter prints the table, with otter's policy as a
// rival; it is a module of its own, so that nobody else depends on otter.
package eviction

import (
	"container/list"
	"math"
	"math/rand/v2"
	"time"

	"github.com/semcached/semcached/cache/admission"
)

// Question is one request.
type Question struct {
	Key   uint64
	Bytes int64 // of the entry: request, vector, answer
	Cost  time.Duration
}

// Cache is a policy under test. Keys are few and dense for popular questions; a cache
// mixes their bits if it needs that.
type Cache interface {
	// Hit reports whether q's answer is there, and counts the use.
	Hit(q Question) bool
	// Store keeps q's answer, which was not there.
	Store(q Question)
	// Bytes returns what is kept now.
	Bytes() int64
}

// Shape describes a stream.
type Shape struct {
	Seed      uint64
	Requests  int
	Distinct  int     // popular questions
	Skew      float64 // of Zipf's law: the n-th is asked in proportion to n^-Skew
	ScanShare float64 // of the requests that are one-off
	ScanRun   int     // requests of one scan, one after the other
	Shift     int     // every so many requests a hundredth of the popular ones is replaced; 0: never
}

// Stream calls ask with every request of the shape.
func (s Shape) Stream(ask func(Question)) {
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	cumulative := make([]float64, s.Distinct)
	sum := 0.0
	for i := range cumulative {
		sum += math.Pow(float64(i+1), -s.Skew)
		cumulative[i] = sum
	}
	keys := make([]uint64, s.Distinct) // by rank
	for i := range keys {
		keys[i] = uint64(i + 1)
	}
	next := uint64(s.Distinct + 1)
	fresh := func() uint64 { next++; return next - 1 }
	scan := 0
	start := s.ScanShare / (1 - s.ScanShare) / float64(max(s.ScanRun, 1))
	for n := range s.Requests {
		if s.Shift > 0 && n%s.Shift == s.Shift-1 {
			for range s.Distinct / 100 {
				keys[rng.IntN(len(keys))] = fresh()
			}
		}
		if scan > 0 {
			scan--
			ask(question(fresh()))
			continue
		}
		if rng.Float64() < start {
			scan = s.ScanRun
		}
		ask(question(keys[search(cumulative, rng.Float64()*sum)]))
	}
}

// search returns the first index whose value is at least x.
func search(sorted []float64, x float64) int {
	lo, hi := 0, len(sorted)-1
	for lo < hi {
		if mid := (lo + hi) / 2; sorted[mid] < x {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// question returns what a key stands for, the same each time: an answer of about 200
// tokens (log-normal) by a model of 10 to 60 tokens a second, 4 bytes a token, beside
// 2.5 kB of request and vector.
func question(key uint64) Question {
	rng := rand.New(rand.NewPCG(key, 2))
	tokens := min(200*math.Exp(0.9*rng.NormFloat64()), 8192)
	speed := 10 + 50*rng.Float64()
	return Question{
		Key: key, Bytes: 2500 + int64(4*tokens),
		Cost: time.Duration((0.2 + tokens/speed) * float64(time.Second)),
	}
}

// Result is what a policy made of a stream.
type Result struct {
	Requests, Hits int
	Saved, Cost    time.Duration
	MostBytes      int64
}

// HitRate is the share of all requests that hit.
func (r Result) HitRate() float64 { return float64(r.Hits) / float64(r.Requests) }

// TimeSaved is the share of the model time that hits saved.
func (r Result) TimeSaved() float64 { return r.Saved.Seconds() / r.Cost.Seconds() }

// Run plays a stream to c. The first fifth fills the cache and is not counted.
func Run(s Shape, c Cache) Result {
	var r Result
	n := 0
	s.Stream(func(q Question) {
		hit := c.Hit(q)
		if !hit {
			c.Store(q)
			r.MostBytes = max(r.MostBytes, c.Bytes())
		}
		if n++; n <= s.Requests/5 {
			return
		}
		r.Requests++
		r.Cost += q.Cost
		if hit {
			r.Hits++
			r.Saved += q.Cost
		}
	})
	return r
}

// Ours is the engine's policy.
type Ours struct {
	policy *admission.Policy[uint64]
	items  map[uint64]*admission.Item[uint64]
}

// NewOurs returns an empty cache of the engine's policy. seed is not 0.
func NewOurs(maxBytes int64, seed uint64) *Ours {
	return &Ours{admission.New[uint64](maxBytes, seed), make(map[uint64]*admission.Item[uint64])}
}

// mix is splitmix64: the engine's keys are SHA-256 hashes.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

var (
	now   = time.Unix(0, 0)
	never = now.Add(time.Hour)
)

// Hit implements Cache.
func (c *Ours) Hit(q Question) bool {
	c.policy.Use(mix(q.Key))
	return c.items[q.Key] != nil
}

// Store implements Cache.
func (c *Ours) Store(q Question) {
	it := &admission.Item[uint64]{Value: q.Key, Hash: mix(q.Key), Cost: q.Cost, Expires: never}
	c.items[q.Key] = it
	c.policy.Add(it, "", q.Bytes)
	c.policy.Sketch().Age()
	for {
		victim, _ := c.policy.Victim(now)
		if victim == nil {
			return
		}
		c.policy.Remove(victim)
		delete(c.items, victim.Value)
	}
}

// Bytes implements Cache.
func (c *Ours) Bytes() int64 { return c.policy.Bytes() }

// LRU evicts what was used longest ago.
type LRU struct {
	max, bytes int64
	byKey      map[uint64]*list.Element
	order      *list.List // of Question, the last used in front
}

// NewLRU returns an empty LRU cache.
func NewLRU(maxBytes int64) *LRU {
	return &LRU{max: maxBytes, byKey: make(map[uint64]*list.Element), order: list.New()}
}

// Hit implements Cache.
func (c *LRU) Hit(q Question) bool {
	e := c.byKey[q.Key]
	if e != nil {
		c.order.MoveToFront(e)
	}
	return e != nil
}

// Store implements Cache.
func (c *LRU) Store(q Question) {
	c.byKey[q.Key] = c.order.PushFront(q)
	for c.bytes += q.Bytes; c.bytes > c.max; {
		gone := c.order.Remove(c.order.Back()).(Question)
		delete(c.byKey, gone.Key)
		c.bytes -= gone.Bytes
	}
}

// Bytes implements Cache.
func (c *LRU) Bytes() int64 { return c.bytes }
