package admission

import (
	"math/bits"
	"sync/atomic"
)

// Sketch estimates how often keys were asked for lately, stored or not: the frequency
// sketch of TinyLFU (Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache
// Admission Policy", ACM Transactions on Storage 13(4), 2017). It is a count-min
// sketch of four rows whose counters have 4 bits, halved once there have been twenty
// additions for every key that it is made for.
//
// Deviations: the four counters of a key lie in one cache line (a blocked sketch, as
// in Caffeine), so that an addition touches one; there is no doorkeeper; ageing is the
// caller's to start, for it touches all the memory.
//
// An estimate is never below the true count since the last halvings, save for counts
// above 15 and for additions lost when two goroutines meet an ageing. All methods are
// safe for concurrent use.
type Sketch struct {
	table     atomic.Pointer[[]block]
	additions atomic.Int64 // since the last ageing
}

// block is one cache line: 8 words of 16 counters, two words for each row.
type block [8]atomic.Uint64

const (
	mostUse    = 15 // of a 4-bit counter
	keysInside = 2  // keys that a block is made for
	sampleSize = 20 // additions for each key between two ageings (section 3.3 of the paper: W/C)
)

// NewSketch returns a sketch for about n keys in the cache. It takes 32 to 64 bytes
// for each: a hundredth of an entry. With 8 bytes, as in Caffeine, collisions with the
// keys of scans cost a twentieth of the hits (bench/eviction).
func NewSketch(n int) *Sketch {
	s := new(Sketch)
	blocks := make([]block, 1<<bits.Len(uint(max(n, 1)-1)/keysInside))
	s.table.Store(&blocks)
	return s
}

// Bytes returns the memory that the counters take.
func (s *Sketch) Bytes() int64 { return int64(len(*s.table.Load())) * 64 }

// Add counts one use of the key with this hash, whose bits must be well mixed.
func (s *Sketch) Add(hash uint64) {
	b := s.block(hash)
	for row := range 4 {
		word, shift := spot(hash, row)
		for {
			old := b[word].Load()
			if old>>shift&mostUse == mostUse || b[word].CompareAndSwap(old, old+1<<shift) {
				break
			}
		}
	}
	s.additions.Add(1)
}

// Estimate returns how often the key was used lately, at most 15.
func (s *Sketch) Estimate(hash uint64) int {
	b := s.block(hash)
	least := uint64(mostUse)
	for row := range 4 {
		word, shift := spot(hash, row)
		least = min(least, b[word].Load()>>shift&mostUse)
	}
	return int(least)
}

func (s *Sketch) block(hash uint64) *block {
	t := *s.table.Load()
	return &t[hash&uint64(len(t)-1)]
}

// spot returns where in its block a key's counter of one row is. The block comes from
// the low bits of the hash, the spots from the high ones.
func spot(hash uint64, row int) (word int, shift uint) {
	five := uint(hash>>(44+5*row)) & 31
	return 2*row + int(five>>4), five & 15 * 4
}

// Grow makes room for n keys if there is less. Estimates stay as they are. Calls must
// not overlap.
func (s *Sketch) Grow(n int) {
	old := *s.table.Load()
	size := len(old)
	for size*keysInside < n {
		size *= 2
	}
	if size == len(old) {
		return
	}
	// A key's block in the larger table is one of those that its old block is copied
	// to. What is counted meanwhile is lost.
	blocks := make([]block, size)
	for i := range blocks {
		for w := range blocks[i] {
			blocks[i][w].Store(old[i&(len(old)-1)][w].Load())
		}
	}
	s.table.Store(&blocks)
}

// Age halves all counts if enough was counted since the last time. One of several
// callers at a time does the work, which takes about a millisecond for a million keys.
func (s *Sketch) Age() {
	t := *s.table.Load()
	n := s.additions.Load()
	if n < int64(sampleSize*keysInside*len(t)) || !s.additions.CompareAndSwap(n, 0) {
		return
	}
	const halves = 0x7777777777777777
	for i := range t {
		for w := range t[i] {
			t[i][w].Store(t[i][w].Load() >> 1 & halves)
		}
	}
}
