package cache

import (
	"iter"
	"math/rand/v2"
	"time"
)

const (
	// maxEvictions bounds the work that one Store may cause.
	maxEvictions = 64
	// evictSample is how many entries each eviction compares: enough that
	// the victim is among the worst tenth nine times in ten.
	evictSample = 24
	// dropBatch bounds how long a mass removal holds the engine's lock.
	dropBatch = 1000
)

// shrink evicts entries, at most limit of them, until the byte budget is kept.
//
// The victim is the entry of least worth among a random sample: hyperbolic
// caching (Blankstein, Sen, Freedman: "Hyperbolic Caching", USENIX ATC 2017)
// with the model time that an entry saves as its cost. Unlike LRU it keeps an
// answer that took the GPU a minute over one that took a second, and a scan of
// one-off questions does not flush what is asked again and again.
func (e *Engine) shrink(limit int) {
	for range limit {
		e.mu.Lock()
		if e.bytes <= e.o.MaxBytes || len(e.all) == 0 {
			e.mu.Unlock()
			return
		}
		victim := e.victimLocked(e.o.Now())
		ix := e.removeLocked(victim)
		e.o.Store.Delete([]uint64{victim.id}, false, nil) // only ErrClosed: nothing is served after that
		e.mu.Unlock()
		if ix != nil {
			ix.Remove(victim.id)
		}
		e.evicted("size", 1)
	}
}

func (e *Engine) victimLocked(now time.Time) *entry {
	var victim *entry
	var least float64
	for range evictSample {
		en := e.all[rand.IntN(len(e.all))]
		if w := en.worth(now); victim == nil || w < least {
			victim, least = en, w
		}
	}
	return victim
}

// worth is the model time that en is expected to save per byte and second:
// cost x uses / (bytes x time in cache). What has expired is worth nothing.
func (en *entry) worth(now time.Time) float64 {
	if !en.expires.After(now) {
		return -1
	}
	const least = 10 * time.Millisecond // an answer without a known cost
	cost := max(en.cost, least).Seconds()
	age := max(now.Sub(en.created), time.Second).Seconds()
	return cost * float64(1+en.hits.Load()) / (float64(en.size) * age)
}

func (e *Engine) evicted(reason string, n int) {
	if n == 0 || reason == "" {
		return
	}
	e.count.evicted(reason, n)
	if e.o.Hooks.Evicted != nil {
		e.o.Hooks.Evicted(reason, n)
	}
}

// batches yields ids in slices of at most dropBatch.
func batches(ids []uint64) iter.Seq[[]uint64] {
	return func(yield func([]uint64) bool) {
		for len(ids) > 0 {
			n := min(len(ids), dropBatch)
			if !yield(ids[:n]) {
				return
			}
			ids = ids[n:]
		}
	}
}
