package sketch

import (
	"math/rand/v2"
	"sync"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

const (
	// nearIdentical is the cosine from which a hit is taken for the question
	// itself: when one is asked for, nothing better can come.
	nearIdentical = 0.9999
	// prefetched is how many components of a row are fetched ahead: the processor goes
	// on by itself when it sees the rest being read in order.
	prefetched = 64
	// together is how many rows are gathered before they are compared.
	together = 128
)

// candidate is a row to be compared.
type candidate struct {
	row      uint32
	distance uint16 // of the codes
}

// search is a search or an addition under way, with its scratch space.
type search struct {
	ix        *Index
	unit      []float32 // the question
	threshold float32
	k         int
	dst       []index.Hit
	from      int // where this search's hits begin in dst

	sketched    sketched
	seen        *space // that sketched is of; nil if there were no codes
	code        [maxWords]uint64
	found       []uint32
	distance    []uint16
	wanted      []candidate
	here, there placed
	count       int // of searches
	did         work
}

// A new one begins to count anywhere: pools drop what they hold now and then.
var searches = sync.Pool{New: func() any { return &search{count: rand.IntN(probeEvery)} }}

func borrow() *search { return searches.Get().(*search) }

// release gives the scratch space back, and lets go of what it points to.
func (s *search) release() {
	s.ix, s.dst, s.seen = nil, nil, nil
	s.here.space, s.there.space = nil, nil
	s.wanted = s.wanted[:0]
	searches.Put(s)
}

// Search implements index.Index. It allocates nothing when dst has room for k hits.
func (ix *Index) Search(dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	s := borrow()
	defer s.release()
	return s.run(ix, dst, q, threshold, k)
}

// TopK implements index.Index by an exact scan.
func (ix *Index) TopK(dst []index.Hit, q []float32, k int) ([]index.Hit, error) {
	return ix.Search(dst, q, -1, k)
}

// run is Search with the scratch space s.
func (s *search) run(ix *Index, dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	s.unit = resize(s.unit, ix.dims)
	if err := index.Unit(s.unit, q, ix.dims); err != nil {
		return dst, err
	}
	if k <= 0 {
		return dst, nil
	}
	s.ix, s.dst, s.from, s.threshold, s.k = ix, dst, len(dst), threshold, k
	if t := s.under(ix); t != nil && s.sampled() {
		ix.maybeProbe(t, s, threshold)
	}
	return s.dst, nil
}

// under searches under the lock of readers, and returns the tier if it has used codes.
func (s *search) under(ix *Index) *tier {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if t := ix.tier; t != nil && s.threshold > 0 {
		s.layout(t.cur)
		return t
	}
	s.all()
	return nil
}

// all compares every row.
func (s *search) all() {
	for i := range s.ix.n {
		if s.row(i) {
			return
		}
	}
}

// layout compares the rows whose codes are near enough: first of the nearest list, for
// what is found there spares work in the others.
func (s *search) layout(l *layout) {
	l.sketch(&s.sketched, s.unit)
	s.seen = l.space
	nearest := s.sketched.nearest
	if s.list(l, nearest) || s.settle() {
		return
	}
	if l.len() == 1 {
		return
	}
	margin := l.margin(s.threshold)
	for i := range l.len() {
		if i == nearest || l.list[i].n == 0 || l.far(&s.sketched, i) > margin {
			continue
		}
		if s.list(l, i) {
			return
		}
		if len(s.wanted) >= together {
			if s.settle() {
				return
			}
			margin = l.margin(s.threshold)
		}
	}
	s.settle()
}

// list gathers the rows of a list that must be compared, or compares them all if codes
// tell nothing; it reports whether nothing better can come.
func (s *search) list(l *layout, i int) (done bool) {
	const slack = 1e-5 // for the rounding of dot products
	in := &l.list[i]
	r2 := max(0, 2-2*float64(s.threshold)) + slack
	u2 := max(slack, l.away2(&s.sketched, i))
	least, most := float64(in.least), float64(in.most)
	if v2 := u2 - r2 - most*most; v2 > 0 && v2*v2 > 4*r2*most*most {
		return false // u > r+most: whatever is within r of the question is in other lists
	}
	step := widest(u2, r2, least, most)
	if step < blind {
		return s.whole(in)
	}
	limits := limitsOf(l.r.words())
	s.near(l, i, int(limits.first[step]), int(limits.whole[step]))
	return false
}

// whole compares all rows of a list.
func (s *search) whole(in *list) (done bool) {
	for i := range in.n {
		if s.row(int(in.rows.Row(i)[0])) {
			return true
		}
	}
	return false
}

// settle compares the rows that have been gathered, those with the nearest codes first,
// and reports whether nothing better can come.
func (s *search) settle() (done bool) {
	w := s.wanted
	for i := 1; i < len(w); i++ { // they are few
		for j := i; j > 0 && w[j].distance < w[j-1].distance; j-- {
			w[j], w[j-1] = w[j-1], w[j]
		}
	}
	s.wanted = w[:0]
	for _, c := range w {
		if s.row(int(c.row)) {
			return true
		}
	}
	return false
}

// row compares one row and reports whether nothing better can come.
func (s *search) row(i int) (done bool) {
	s.did.rows++
	score := index.Clamp(vec.Dot(s.unit, s.ix.row(i)))
	if score < s.threshold {
		return false
	}
	s.dst = index.Offer(s.dst, s.from, s.k, index.Hit{ID: s.ix.id(i), Score: score})
	if len(s.dst)-s.from < s.k {
		return false
	}
	s.threshold = s.dst[len(s.dst)-1].Score
	return s.k == 1 && s.threshold >= nearIdentical
}
