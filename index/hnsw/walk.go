package hnsw

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/semcached/semcached/index/vec"
)

// question is a vector to be compared with nodes.
type question struct {
	unit   []float32
	turned []float32 // unit seen from the centre, rotated
	base   float32   // product of unit and the centre
	rest   float32   // base without the square of the centre
	far    float32   // distance of unit from the centre
	code   []int8    // turned in 8 bits
	scale  float32   // of code
	shift  float32   // what levels count too much: 7.5 for each of code
}

// ask prepares q.unit to be compared with codes that are seen from centre.
func (q *question) ask(ix *Index, centre []float32) {
	q.turned = slices.Grow(q.turned[:0], ix.turn.size)[:ix.turn.size]
	q.code = slices.Grow(q.code[:0], ix.turn.size)[:ix.turn.size]
	for i, c := range centre {
		q.turned[i] = q.unit[i] - c
	}
	clear(q.turned[ix.dims:])
	q.base, q.far = vec.Dot(q.unit, centre), float32(vec.Norm(q.turned))
	q.rest = q.base - vec.Dot(centre, centre)
	ix.turn.turn(q.turned)
	q.scale = vec.Quantize(q.code, q.turned)
	sum := int32(0)
	for _, x := range q.code {
		sum += int32(x)
	}
	q.shift = 7.5 * float32(sum)
}

// encode writes the 4-bit vector of a node that q was made of.
func (q *question) encode(code []byte) term {
	factor := vec.QuantizeInt4(code, q.turned)
	if factor == 0 { // it is the centre
		factor = math.SmallestNonzeroFloat32
	}
	return termOf(factor, q.rest)
}

// found is a node and its similarity to the question by their codes, in one number that
// is the greater the more similar: the bits of the similarity, made to sort as numbers
// do, the node, and whether its neighbours have been looked at.
type found uint64

// done marks a node whose neighbours have been looked at.
const done = 1

func foundAt(node uint32, score float32) found {
	b := math.Float32bits(score)
	b ^= uint32(int32(b)>>31) | 1<<31
	return found(b)<<32 | found(node)<<1
}

func (f found) node() uint32 { return uint32(f) >> 1 }

func (f found) score() float32 {
	b := uint32(f >> 32)
	return math.Float32frombits(b ^ (^uint32(int32(b)>>31) | 1<<31))
}

// offer puts f into a list of at most size nodes, best first, and returns where; -1: it
// is not good enough.
func offer(list *[]found, f found, size int) int {
	l := *list
	if len(l) == size {
		if f <= l[size-1] {
			return -1
		}
	} else {
		l = append(l, 0)
		*list = l
	}
	// Among all but the last, by halves, without branches: these could not be
	// foreseen.
	at := 0
	for n := len(l) - 1; n > 0; {
		half := (n + 1) / 2
		_, less := bits.Sub64(uint64(l[at+half-1]), uint64(f), 0)
		at += half & (int(less) - 1)
		n -= half
	}
	copy(l[at+1:], l[at:])
	l[at] = f
	return at
}

// scratch is what a search or a change needs beside the graph.
type scratch struct {
	q      question // what is asked or added
	seen   []uint16 // by node: the epoch in which it was seen
	epoch  uint16
	beam   []found  // the best so far, best first
	kept   []found  // in filtered searches, the best that the filter accepts
	starts []uint32 // where a walk begins
	fresh  []uint32 // neighbours not seen before
	dots   []int32
	scores []float32
	chosen [maxLevel + 1][]uint32
	picked []uint32
	others []uint32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// begin forgets what has been seen but start, which is looked at first. The caller holds mu
// or writers.
func (s *scratch) begin(ix *Index, start []uint32) {
	if len(s.seen) < len(ix.terms) {
		s.seen = make([]uint16, cap(ix.terms))
		s.epoch = 0
	}
	if s.epoch++; s.epoch == 0 { // after 65535 walks
		clear(s.seen)
		s.epoch = 1
	}
	s.beam = s.beam[:0]
	s.fresh = append(s.fresh[:0], start...)
	for _, n := range start {
		s.seen[n] = s.epoch
	}
}

// compare returns the similarities of nodes to q, valid until the next call with s.
func (ix *Index) compare(q *question, s *scratch, nodes []uint32) []float32 {
	s.scores = slices.Grow(s.scores[:0], len(nodes))[:len(nodes)]
	if ix.exact {
		for i, n := range nodes {
			s.scores[i] = vec.Dot(q.unit, ix.row(n))
		}
		return s.scores
	}
	s.dots = slices.Grow(s.dots[:0], len(nodes))[:len(nodes)]
	vec.DotInt4Rows(s.dots, q.code, ix.codes.Chunks(), ix.codes.Shift(), nodes)
	for i, n := range nodes {
		t := ix.termOf(n)
		s.scores[i] = q.base + t.add() + (float32(s.dots[i])-q.shift)*q.scale*t.factor()
	}
	return s.scores
}

// starts is how many nodes of layer 1 a search begins with on the lowest layer, if its width
// is four times that: the best by a walk there. With one alone it may come down in the wrong
// group, and takes long to find out. On clustered data (100,000 x 384, k=10) hits took a width
// of 64 with 16 and of 80 with one for a recall of 0.99, the slowest hundredth of them 208 and
// 306 µs (one run, in turn); at 10,000 it costs a tenth and gains nothing.
const starts = 16

// approach goes from the entry down to layer 1 and returns where to begin on the lowest: at
// most width nodes.
func (ix *Index) approach(s *scratch, entry uint32, width int) []uint32 {
	s.starts = append(s.starts[:0], ix.descend(&s.q, s, entry, 1))
	if ix.levels[entry] > 0 {
		best := ix.walk(&s.q, s, s.starts, max(width, 1), 0, 1)
		s.starts = s.starts[:0]
		for _, f := range best {
			s.starts = append(s.starts, f.node())
		}
	}
	return s.starts
}

// descend goes from the entry down to the layer above level, on each to the nearest
// node, and returns where to begin on level.
func (ix *Index) descend(q *question, s *scratch, entry uint32, level int) uint32 {
	best := entry
	score := ix.compare(q, s, append(s.fresh[:0], entry))[0]
	for l := int(ix.levels[entry]); l > level; l-- {
		for better := true; better; {
			better = false
			s.fresh = s.fresh[:0]
			for i, list := 0, ix.links(best, l); i < len(list); i++ {
				n := atomic.LoadUint32(&list[i])
				if n == none {
					break
				}
				if ix.live(n) {
					s.fresh = append(s.fresh, n)
				}
			}
			for i, x := range ix.compare(q, s, s.fresh) {
				if x > score {
					best, score, better = s.fresh[i], x, true
				}
			}
		}
	}
	return best
}

// reach is how far, as a multiple of the squared distance of the near-th best, a search
// looks at the neighbours of nodes before it ends (Al-Jazzazi et al.: "Distance Adaptive
// Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search", 2025). Most
// questions have their answers together in one place and end after some tens of nodes;
// those that have not take the whole width. On clustered data (100,000 x 384, k=10, width
// 256, on a Xeon with AVX2) 1.15 lost 1 answer in 10,000 of those that the whole width
// found, in 88 for 275 µs; 1.10 lost 20, 1.05 lost 280. 1.25 found no more.
const reach = 1.15

// leastNear is the least near-th best that tells: with fewer, one lucky find would end a
// search.
const leastNear = 10

// walk is a beam search of width ef on a layer (algorithm 2): from the best node whose
// neighbours have not been looked at, until there is none, or none within reach of the
// near-th best. What it returns, best first, is valid until the next walk with s.
func (ix *Index) walk(q *question, s *scratch, start []uint32, ef, near, level int) []found {
	s.begin(ix, start)
	ix.look(q, s, ef, level)
	for next := 0; next < len(s.beam); {
		f := s.beam[next]
		if f&done != 0 {
			next++
			continue
		}
		if tooFar(f, s.beam, near) {
			break
		}
		s.beam[next] = f | done
		ix.around(s, f.node(), level)
		ix.fetchNext(s.beam[next+1:], level)
		next = min(next, ix.look(q, s, ef, level))
	}
	return s.beam
}

// tooFar reports whether f is out of reach of the near-th best. near < 1 reaches
// everything.
func tooFar(f found, best []found, near int) bool {
	return near > 0 && len(best) >= near && 1-f.score() > reach*(1-best[near-1].score())
}

// fetchNext fetches the neighbours of the first node that has not been looked at: they
// are wanted next, unless the walk finds something better before.
func (ix *Index) fetchNext(beam []found, level int) {
	for _, f := range beam {
		if f&done == 0 {
			vec.Fetch(ix.links(f.node(), level))
			return
		}
	}
}

// around makes s.fresh the neighbours of a node that have not been seen.
func (ix *Index) around(s *scratch, node uint32, level int) {
	fresh := s.fresh[:0]
	list := ix.links(node, level)
	for i := range list {
		n := atomic.LoadUint32(&list[i])
		if n == none {
			break
		}
		if s.seen[n] != s.epoch {
			s.seen[n] = s.epoch
			if ix.live(n) {
				fresh = append(fresh, n)
			}
		}
	}
	s.fresh = fresh
}

// look compares the fresh nodes, puts the good ones into the beam, and returns the
// foremost place that has changed.
func (ix *Index) look(q *question, s *scratch, ef, level int) (first int) {
	first = len(s.beam)
	for i, score := range ix.compare(q, s, s.fresh) {
		if at := offer(&s.beam, foundAt(s.fresh[i], score), ef); at >= 0 && at <= first {
			first = at
			vec.Fetch(ix.links(s.fresh[i], level))
		}
	}
	return first
}
