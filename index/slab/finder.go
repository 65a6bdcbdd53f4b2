package slab

import (
	"hash/maphash"
	"math/bits"
	"unsafe"
)

const (
	// perBucket is the mean number of rows in a bucket, a power of two. With 16, an ID takes a
	// byte more; with 64, half a byte less, and finding it takes up to twice as long
	// (go test -bench Finder ./index/slab, on 2 cores of a Xeon).
	perBucket = 32
	// step is by how many slots a bucket grows: 16 bytes, as the allocator's sizes do.
	step = 4
)

// Finder finds the row that holds an ID in a table of IDs. It is a hash table of row numbers
// only, as the IDs are in the table: 5 to 5.7 bytes per ID from a thousand on (TestFinderIsSmall
// logs them).
//
// It grows and shrinks by a bucket at a time, so that no change takes longer than to look
// through a few buckets (Litwin, "Linear hashing: a new tool for file and table addressing",
// 1980). With count buckets and 2^l the highest power of two within that, an ID's bucket is
// the last l bits of its hash; the first count-2^l buckets have been split, and there l+1 bits
// tell. Unlike Litwin's, buckets are not pages with overflow pages but lists without gaps, as
// long as it takes: 32 rows in the mean, twice that before a split.
//
// A slot holds a row number and, in the bits that no row number needs, bits of the ID's hash:
// among a million rows, one slot of two thousand makes a search look at another's ID. How many
// bits are the row's follows from how many find the bucket: l of them do while there are less
// than 2^(l+1) buckets, and so at most 32 * 2^(l+1) rows. From some hundred million rows on
// few bits are left, and a search looks at some more IDs.
//
// The hash has a random key and is that of Go's maps: who chooses IDs without knowing the key
// makes no bucket longer than chance does. More than 128 rows are in one bucket of 10^10,
// whatever the IDs are (the tail of a Poisson variable of mean 64).
//
// There is no lock: Find and Bytes may be called while nobody changes the finder or its table.
// The zero value is not usable; see NewFinder.
type Finder struct {
	ids     *Of[uint64]
	seed    maphash.Seed
	buckets Of[[]uint32]
	count   int   // of buckets
	n       int   // of IDs
	slots   int64 // in all buckets, free ones too
}

// NewFinder returns a finder that knows no row of ids, which must be of width 1. It reads ids
// during each of its operations: a row that has been added must hold its ID until it has been
// removed.
func NewFinder(ids *Of[uint64]) *Finder {
	f := &Finder{ids: ids, seed: maphash.MakeSeed(), buckets: Sized[[]uint32](1, 1<<8), count: 1}
	f.buckets.Grow(1)
	return f
}

// Len returns the number of IDs.
func (f *Finder) Len() int { return f.n }

// Bytes returns the memory held, without that of the IDs.
func (f *Finder) Bytes() int64 {
	return int64(unsafe.Sizeof(*f)) + f.buckets.Bytes() + 4*f.slots
}

// Find returns the row that holds id; ok tells whether one does. It is O(1).
func (f *Finder) Find(id uint64) (row uint32, ok bool) {
	s := f.seek(id)
	return s.row, s.at >= 0
}

// Add adds the row that holds id, unless id is there already, which it tells. It is O(1) as
// long as rows are numbered in turn: memory follows the highest row, as the table's does.
func (f *Finder) Add(id uint64, row uint32) bool {
	f.grow(int(row) + 1)
	s := f.seek(id)
	if s.at >= 0 {
		return false
	}
	if len(*s.bucket) == cap(*s.bucket) {
		f.fit(s.bucket, *s.bucket, step)
	}
	*s.bucket = append(*s.bucket, row|s.tag)
	f.n++
	return true
}

// Move tells that the row of id, which must be there, is another from now on. The table may
// still hold id in both.
func (f *Finder) Move(id uint64, row uint32) {
	f.grow(int(row) + 1)
	s := f.seek(id)
	(*s.bucket)[s.at] = row | s.tag
}

// Remove removes id and tells whether it was there. It is O(1).
func (f *Finder) Remove(id uint64) bool {
	s := f.seek(id)
	if s.at < 0 {
		return false
	}
	b := *s.bucket
	last := len(b) - 1
	b[s.at] = b[last]
	*s.bucket = b[:last]
	if cap(b)-last > 2*step {
		f.fit(s.bucket, b[:last], step)
	}
	f.n--
	if f.n == 0 {
		*f = *NewFinder(f.ids)
	}
	// A quarter less than what a split takes, so that one who adds and removes by turns does
	// not pay for it each time.
	if f.count > 1 && 4*f.n < 3*perBucket*(f.count-1) {
		f.merge()
	}
	return true
}

// Reserve makes room for n rows in a finder that is still empty: adding them takes half the
// time then.
func (f *Finder) Reserve(n int) {
	f.grow(n)
	for b := range f.count {
		f.fit(&f.buckets.Row(b)[0], nil, n>>f.level(b))
	}
}

// grow makes the buckets that rows below n need.
func (f *Finder) grow(n int) {
	for perBucket*f.count < n {
		f.split()
	}
}

// spot is where an ID is, or belongs.
type spot struct {
	bucket *[]uint32
	at     int    // the slot; negative: it is not there
	row    uint32 // 0 if it is not there
	tag    uint32 // the bits of the hash in the slot
}

// seek looks for an ID.
func (f *Finder) seek(id uint64) spot {
	h := f.hash(id)
	b := int(h & (1<<f.full() - 1))
	level := f.level(b)
	b = int(h & (1<<level - 1))
	bucket, tag, most := &f.buckets.Row(b)[0], tag(h, level), highest(level)
	for i, x := range *bucket {
		// Another hash leaves bits above the row's.
		if row := x ^ tag; row <= most && f.ids.Row(int(row))[0] == id {
			return spot{bucket, i, row, tag}
		}
	}
	return spot{bucket, -1, 0, tag}
}

// full returns the number of bits by which every bucket is found at least.
func (f *Finder) full() int { return bits.Len(uint(f.count)) - 1 }

// level returns the number of bits by which bucket b is found.
func (f *Finder) level(b int) int {
	l := f.full()
	if b < f.count-1<<l || b >= 1<<l {
		l++
	}
	return l
}

func (f *Finder) hash(id uint64) uint64 { return maphash.Comparable(f.seed, id) }

// highest returns the highest row number that a slot of a bucket found by level bits can hold.
func highest(level int) uint32 { return uint32(2*perBucket)<<level - 1 }

// tag returns the bits of a hash that such a slot holds. Buckets are found by lower ones.
func tag(h uint64, level int) uint32 { return uint32(h>>32) &^ highest(level) }

// split divides the next bucket in turn by one bit more.
func (f *Finder) split() {
	level := f.full()
	f.buckets.Grow(f.count + 1)
	low, high := &f.buckets.Row(f.count - 1<<level)[0], &f.buckets.Row(f.count)[0]
	f.count++
	rows, lows := *low, 0
	for i, x := range rows {
		row := x & highest(level)
		h := f.hash(f.ids.Row(int(row))[0])
		rows[i] = row | tag(h, level+1)
		if h>>level&1 == 0 {
			rows[i], rows[lows] = rows[lows], rows[i]
			lows++
		}
	}
	f.fit(high, rows[lows:], 0)
	f.fit(low, rows[:lows], 0)
}

// merge undoes the last split, unless a row is too high for the bucket that there was before.
func (f *Finder) merge() {
	level := bits.Len(uint(f.count-1)) - 1
	low, high := &f.buckets.Row(f.count - 1 - 1<<level)[0], &f.buckets.Row(f.count - 1)[0]
	for _, b := range [][]uint32{*low, *high} {
		for _, x := range b {
			if x&highest(level+1) > highest(level) {
				return
			}
		}
	}
	f.fit(low, *low, len(*high))
	*low = append(*low, *high...)
	for i, x := range *low {
		row := x & highest(level+1)
		(*low)[i] = row | tag(f.hash(f.ids.Row(int(row))[0]), level)
	}
	f.fit(high, nil, 0)
	f.count--
	f.buckets.Shrink(f.count)
}

// fit makes a bucket hold rows, in memory of its own with room for so many more. There is none
// for no rows.
func (f *Finder) fit(b *[]uint32, rows []uint32, room int) {
	f.slots -= int64(cap(*b))
	size := (len(rows) + room + step - 1) / step * step
	if size == 0 {
		*b = nil
		return
	}
	*b = append(make([]uint32, 0, size), rows...)
	f.slots += int64(cap(*b))
}
