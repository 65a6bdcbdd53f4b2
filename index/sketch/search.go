package sketch

import (
	"math"
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
	lists       []uint32 // to be looked into
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
	s.ix, s.dst, s.seen, s.sketched.unit = nil, nil, nil, nil
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
	s.lists = l.around(s.lists[:0], &s.sketched, l.margin(s.threshold))
	threshold, margin := s.threshold, l.margin(s.threshold)
	for at, i := range s.lists {
		l.fetch(s.lists[at+1:])
		if s.threshold > threshold {
			threshold, margin = s.threshold, l.margin(s.threshold)
		}
		if l.far(&s.sketched, int(i)) > margin {
			continue
		}
		if s.list(l, int(i)) {
			return
		}
		if len(s.wanted) >= together && s.settle() {
			return
		}
	}
	s.settle()
}

// around appends the lists that d does not lie farther out of than margin, but for its own.
func (s *space) around(out []uint32, d *sketched, margin float32) []uint32 {
	best, n := d.scores[d.nearest], s.len()
	scores, slope, lean := d.scores, s.slope[d.nearest*n:][:n], s.lean[d.nearest*n:][:n]
	for i, score := range scores {
		if farOf(best-score, slope[i], lean[i]) <= margin && i != d.nearest {
			out = append(out, uint32(i))
		}
	}
	return out
}

// fetch brings near what will be read of the next lists: of the one after the next its
// head, of the next, whose head has come by now, the codes.
func (l *layout) fetch(next []uint32) {
	const codes = 256 // the processor goes on by itself when it sees them read in order
	if len(next) > 2 {
		i := int(next[2])
		vec.Prefetch(l.list[i : i+1])
		vec.Prefetch(l.turned[i*l.r.bits:][:min(l.r.bits, 128)])
	}
	if len(next) > 0 {
		first := l.list[next[0]].head.first
		vec.Prefetch(first[:min(len(first), codes)])
	}
}

// list gathers the rows of a list that must be compared, or compares them all if codes
// tell nothing; it reports whether nothing better can come.
func (s *search) list(l *layout, i int) (done bool) {
	in := &l.list[i]
	if in.n == 0 {
		return false
	}
	least, most := lower[in.near], upper[in.far]
	b := ball{r2: max(0, 2-2*float64(s.threshold)) + rounding}
	if within(most.squared, b.r2, l.atLeast2(&s.sketched, i)) {
		return false
	}
	b.u2 = max(rounding, l.away2(&s.sketched, i))
	if within(most.squared, b.r2, b.u2) || within(b.u2, b.r2, least.squared) {
		return false
	}
	b.step = widest(b.u2, b.r2, least.at, most.at)
	if b.step < blind {
		return s.whole(in)
	}
	s.near(l, i, &b)
	return false
}

// rounding is how far sums of squares may be off.
const rounding = 1e-5

// ball is what is within r of a question that is u away from a centre, both squared.
type ball struct {
	u2, r2 float64
	step   int // of the widest angle
}

// within reports whether inner + r < outer, all given squared: nothing that is within r of
// a point at the one distance from a centre is at the other.
func within(inner2, r2, outer2 float64) bool {
	rest := outer2 - inner2 - r2
	return rest > 0 && rest*rest > 4*inner2*r2
}

// stepAt is widest for the distances of a level.
func (b *ball) stepAt(level uint8, perU float64) int {
	v2 := b.u2 - b.r2
	var cosine float64
	if e := &lower[level]; v2 <= e.squared {
		cosine = (v2 + e.squared) * e.per * perU
	} else if e := &upper[level]; v2 >= e.squared {
		cosine = (v2 + e.squared) * e.per * perU
	} else {
		cosine = math.Sqrt(v2) * steps * perU
	}
	return int(max(float64(b.step), min(steps, cosine)))
}

// near gathers the rows of a list whose codes are near enough: by the first word, by two,
// and what is left by the whole and by how far each is from the centre.
func (s *search) near(l *layout, i int, b *ball) {
	in, words := &l.list[i], l.r.words()
	limits, code := limitsOf(words), s.code[:words]
	perU := 1 / math.Sqrt(b.u2)
	l.code(code[:min(words, 2)], 0, &s.sketched, i)
	coded := false
	s.did.lists++
	s.did.codes += in.n
	for c, left := 0, in.n; left > 0; c, left = c+1, left-chunkRows {
		chunk := in.chunk(c)
		first := chunk.first[:min(left, chunkRows)]
		if words == 1 {
			s.found = vec.Near(s.found[:0], first, code[0], int(limits.first[b.step]))
			s.distance = resize(s.distance, len(s.found))
			clear(s.distance)
		} else {
			s.found, s.distance = vec.NearBoth(s.found[:0], s.distance, first, chunk.second, code[0], code[1], int(limits.first[b.step]), int(limits.second[b.step]))
		}
		s.did.whole += len(s.found)
		if words > 2 && len(s.found) > 0 {
			if !coded {
				l.code(code[2:], 2, &s.sketched, i)
				coded = true
			}
			vec.AddHamming(s.distance, s.found, chunk.rest, code[2:])
		}
		for j, at := range s.found {
			if words > 1 && s.distance[j] > limits.whole[b.stepAt(chunk.away[at], perU)] {
				continue
			}
			row := chunk.rows[at]
			vec.Prefetch(s.ix.row(int(row))[:min(prefetched, s.ix.dims)])
			s.wanted = append(s.wanted, candidate{row: row, distance: s.distance[j]})
		}
	}
}

// whole compares all rows of a list.
func (s *search) whole(in *list) (done bool) {
	for i := range in.n {
		if s.row(in.row(i)) {
			return true
		}
	}
	return false
}

// settle compares the rows that have been gathered, the one with the nearest code first,
// and reports whether nothing better can come.
func (s *search) settle() (done bool) {
	w := s.wanted
	s.wanted = w[:0]
	nearest := 0
	for i, c := range w {
		if c.distance < w[nearest].distance {
			nearest = i
		}
	}
	if len(w) > 0 {
		w[0], w[nearest] = w[nearest], w[0]
	}
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
