package index

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/semcached/semcached/index/vec"
)

// minNorm is the shortest vector that can be normalised: below it rounding,
// not the text, decides the direction.
const minNorm = 1e-12

// Unit writes v, scaled to length 1, to dst, which must have dims elements.
// Errors: ErrDimension, ErrNotFinite, ErrZeroVector. Implementations of Index
// call it on everything they are given.
func Unit(dst, v []float32, dims int) error {
	if len(v) != dims {
		return fmt.Errorf("%w: %d, want %d", ErrDimension, len(v), dims)
	}
	n := vec.Norm(v)
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return ErrNotFinite
	case n < minNorm:
		return ErrZeroVector
	}
	vec.Scale(dst, v, 1/n)
	return nil
}

// Clamp keeps a cosine within -1 and 1, whatever rounding did to it.
func Clamp(cosine float32) float32 { return max(-1, min(1, cosine)) }

// ByScore orders hits best first, equal scores by ascending ID.
func ByScore(a, b Hit) int {
	if c := cmp.Compare(b.Score, a.Score); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// Offer puts h into hits, which is ordered by ByScore and keeps at most k,
// starting at position from.
func Offer(hits []Hit, from, k int, h Hit) []Hit {
	best := hits[from:]
	if len(best) == k && ByScore(h, best[k-1]) >= 0 {
		return hits
	}
	at, _ := slices.BinarySearchFunc(best, h, ByScore)
	if len(best) < k {
		hits = append(hits, Hit{})
		best = hits[from:]
	}
	copy(best[at+1:], best[at:])
	best[at] = h
	return hits
}

// Flat compares a question with every vector. It is exact, it has no structure
// that could go wrong, and for some thousands of vectors nothing is faster. The
// zero value is not usable; see NewFlat.
type Flat struct {
	dims int

	mu   sync.RWMutex      // guards the fields below
	rows []float32         // unit vectors, one after the other
	ids  []uint64          // of the rows
	at   map[uint64]uint32 // row of an ID
}

// NewFlat returns an empty index for vectors of dims components; dims < 1 is a
// programmer's mistake and panics.
func NewFlat(dims int) *Flat {
	if dims < 1 {
		panic("index: dims must be positive")
	}
	return &Flat{dims: dims, at: make(map[uint64]uint32)}
}

// Add implements Index in O(1).
func (f *Flat) Add(id uint64, v []float32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	row, replace := f.at[id]
	if !replace {
		row = uint32(len(f.ids))
		f.grow()
	}
	if err := Unit(f.row(row), v, f.dims); err != nil {
		if !replace {
			f.rows = f.rows[:len(f.rows)-f.dims]
		}
		return err
	}
	if !replace {
		f.ids = append(f.ids, id)
		f.at[id] = row
	}
	return nil
}

// grow adds a row. Small indexes grow by a few rows, so that a hundred thousand
// partitions of ten vectors do not pay for twenty; large ones by a quarter.
func (f *Flat) grow() {
	n := len(f.rows) + f.dims
	if n > cap(f.rows) {
		extra := max(4, len(f.ids)/4) * f.dims
		rows := make([]float32, len(f.rows), len(f.rows)+extra)
		copy(rows, f.rows)
		f.rows = rows
	}
	f.rows = f.rows[:n]
}

func (f *Flat) row(i uint32) []float32 {
	at := int(i) * f.dims
	return f.rows[at : at+f.dims : at+f.dims]
}

// Remove implements Index in O(1): the last row takes the place of the removed one.
func (f *Flat) Remove(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	row, ok := f.at[id]
	if !ok {
		return false
	}
	last := uint32(len(f.ids) - 1)
	if row != last {
		copy(f.row(row), f.row(last))
		f.ids[row] = f.ids[last]
		f.at[f.ids[row]] = row
	}
	delete(f.at, id)
	f.ids = f.ids[:last]
	f.rows = f.rows[:int(last)*f.dims]
	return true
}

// Search implements Index. It allocates nothing when dst has room for k hits.
func (f *Flat) Search(dst []Hit, q []float32, threshold float32, k int) ([]Hit, error) {
	unit := unitBuffer(f.dims)
	defer releaseUnit(unit)
	if err := Unit(*unit, q, f.dims); err != nil {
		return dst, err
	}
	if k <= 0 {
		return dst, nil
	}
	from := len(dst)
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i, id := range f.ids {
		at := i * f.dims
		if s := Clamp(vec.Dot(*unit, f.rows[at:at+f.dims])); s >= threshold {
			dst = Offer(dst, from, k, Hit{ID: id, Score: s})
			if len(dst)-from == k {
				threshold = dst[len(dst)-1].Score
			}
		}
	}
	return dst, nil
}

// TopK implements Index.
func (f *Flat) TopK(dst []Hit, q []float32, k int) ([]Hit, error) {
	return f.Search(dst, q, -1, k)
}

// Len implements Index.
func (f *Flat) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.ids)
}

// Dims implements Index.
func (f *Flat) Dims() int { return f.dims }

// Stats implements Index.
func (f *Flat) Stats() Stats {
	f.mu.RLock()
	defer f.mu.RUnlock()
	const perID = 8 + 24 // the ID, and its share of the map
	return Stats{
		Tier: "flat", Entries: len(f.ids),
		Bytes: int64(4*cap(f.rows) + perID*len(f.ids)),
	}
}

// units holds buffers for normalised questions.
var units = sync.Pool{New: func() any { return new([]float32) }}

func unitBuffer(dims int) *[]float32 {
	b := units.Get().(*[]float32)
	if cap(*b) < dims {
		*b = make([]float32, dims)
	}
	*b = (*b)[:dims]
	return b
}

func releaseUnit(b *[]float32) { units.Put(b) }
