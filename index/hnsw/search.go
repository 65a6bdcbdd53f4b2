package hnsw

import (
	"math"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

// Search implements index.Index. It allocates nothing when dst has room for k hits.
func (ix *Index) Search(dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	return ix.SearchFunc(dst, q, threshold, k, nil)
}

// TopK implements index.Index.
func (ix *Index) TopK(dst []index.Hit, q []float32, k int) ([]index.Hit, error) {
	return ix.SearchFunc(dst, q, -1, k, nil)
}

// keptWidth is how much wider the beam of a filtered search may get.
const keptWidth = 16

// SearchFunc is Search among the vectors that keep accepts; a nil keep accepts all. The
// walk goes through the others too, and goes on until nothing nearer than what has been
// accepted is in reach, or its beam is full at sixteen times its width. Where fewer than
// k have been found then, keep is asked about every vector: few are accepted, and only
// these are compared. keep must not call ix.
func (ix *Index) SearchFunc(dst []index.Hit, q []float32, threshold float32, k int, keep func(id uint64) bool) ([]index.Hit, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	if err := s.q.set(ix, q); err != nil {
		return dst, err
	}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	entry := ix.entry.Load()
	if k <= 0 || entry == none {
		return dst, nil
	}
	s.q.ask(ix, ix.centre)
	ef, near := max(int(ix.ef.Load()), 2*k), max(k, leastNear)
	start := ix.approach(s, entry, min(starts, ef/4))
	var best []found
	if keep == nil {
		best = ix.walk(&s.q, s, start, ef, near, 0)
	} else if best = ix.walkKept(s, start, ef, near, keep); len(best) < k {
		return ix.scan(dst, &s.q, threshold, k, keep), nil
	}
	return ix.rescore(dst, &s.q, best, threshold, k), nil
}

// set makes v, normalised, the vector of q. Errors as of index.Unit.
func (q *question) set(ix *Index, v []float32) error {
	if cap(q.unit) < ix.dims {
		q.unit = make([]float32, ix.dims)
	}
	q.unit = q.unit[:ix.dims]
	return index.Unit(q.unit, v, ix.dims)
}

// walkKept is walk on the lowest layer for what keep accepts.
func (ix *Index) walkKept(s *scratch, start []uint32, ef, near int, keep func(uint64) bool) []found {
	s.begin(ix, start)
	s.kept = s.kept[:0]
	for next := 0; ; {
		first := len(s.beam)
		for i, score := range ix.compare(&s.q, s, s.fresh) {
			f := foundAt(s.fresh[i], score)
			if at := offer(&s.beam, f, keptWidth*ef); at >= 0 {
				first = min(first, at)
			}
			if (len(s.kept) < ef || f > s.kept[ef-1]) && keep(ix.ids[f.node()]) {
				offer(&s.kept, f, ef)
			}
		}
		next = min(next, first)
		for next < len(s.beam) && s.beam[next]&done != 0 {
			next++
		}
		if next == len(s.beam) || len(s.kept) == ef && s.beam[next] < s.kept[ef-1] || tooFar(s.beam[next], s.kept, near) {
			return s.kept
		}
		f := s.beam[next]
		s.beam[next] = f | done
		ix.around(s, f.node(), 0)
	}
}

// least returns how small the similarity by codes may be, for all practical purposes,
// where the exact one is at least score: three and a half standard deviations of the error
// smaller. The error has 0.0115 of the energy of the node seen from the centre
// (vec.QuantizeInt4), spread over all directions; and such a node is no farther from the
// centre than the question and the two from each other.
func (ix *Index) least(q *question, score float32) float32 {
	if ix.exact {
		return score
	}
	far := q.far + float32(math.Sqrt(max(0, 2-2*float64(score))))
	return score - 3.5*0.107*q.far*far/float32(math.Sqrt(float64(ix.turn.size)))
}

// rescore compares what was found exactly, best first, until the rest is too far away.
func (ix *Index) rescore(dst []index.Hit, q *question, best []found, threshold float32, k int) []index.Hit {
	from, least := len(dst), ix.least(q, threshold)
	for _, f := range best {
		if f.score() < least {
			break
		}
		dst = ix.offerExact(dst, from, q, f.node(), threshold, k)
		if len(dst)-from == k {
			least = ix.least(q, dst[len(dst)-1].Score)
		}
	}
	return dst
}

// offerExact puts a node among the hits from dst[from] on if it is there and good
// enough.
func (ix *Index) offerExact(dst []index.Hit, from int, q *question, node uint32, threshold float32, k int) []index.Hit {
	if !ix.live(node) {
		return dst
	}
	score := index.Clamp(vec.Dot(q.unit, ix.row(node)))
	if score < threshold {
		return dst
	}
	return index.Offer(dst, from, k, index.Hit{ID: ix.ids[node], Score: score})
}

// scan compares everything that keep accepts.
func (ix *Index) scan(dst []index.Hit, q *question, threshold float32, k int, keep func(uint64) bool) []index.Hit {
	from := len(dst)
	for n := range uint32(len(ix.terms)) {
		if ix.live(n) && keep(ix.ids[n]) {
			dst = ix.offerExact(dst, from, q, n, threshold, k)
		}
	}
	return dst
}
