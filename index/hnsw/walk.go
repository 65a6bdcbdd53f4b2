package hnsw

import (
	"cmp"
	"slices"
	"sync"

	"github.com/semcached/semcached/index/vec"
)

// question is a vector to be compared with nodes.
type question struct {
	unit  []float32
	code  []int8
	scale float32
}

func newQuestion(ix *Index, unit []float32) *question {
	q := &question{unit: unit, code: make([]int8, ix.stride)}
	q.quantize()
	return q
}

func (q *question) reset(ix *Index) {
	q.unit = slices.Grow(q.unit[:0], ix.dims)[:ix.dims]
	q.code = slices.Grow(q.code[:0], ix.stride)[:ix.stride]
}

func (q *question) quantize() { q.scale = vec.Quantize(q.code, q.unit) }

// foundNode is a node and its similarity to the question in 8 bits.
type foundNode struct {
	node  uint32
	done  bool // its neighbours have been looked at
	score float32
}

// nearer orders best first.
func nearer(a, b foundNode) int {
	if c := cmp.Compare(b.score, a.score); c != 0 {
		return c
	}
	return cmp.Compare(a.node, b.node)
}

// scratch is what a walk needs beside the graph.
type scratch struct {
	q      question
	seen   []uint32 // by node: the epoch in which it was seen
	epoch  uint32
	beam   []foundNode // the best so far, best first
	fresh  []uint32    // neighbours not seen before
	scores []int32
	start  []uint32
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func scratchOf(nodes int) *scratch {
	s := scratches.Get().(*scratch)
	s.reset(nodes)
	return s
}

// reset makes room for a graph of so many nodes.
func (s *scratch) reset(nodes int) {
	if len(s.seen) < nodes {
		s.seen = make([]uint32, nodes+nodes/4)
		s.epoch = 0
	}
}

// begin forgets what has been seen.
func (s *scratch) begin() {
	if s.epoch++; s.epoch == 0 { // after four billion walks
		clear(s.seen)
		s.epoch = 1
	}
}

// descend goes from the entry down to the layer above level, each time to the nearest
// node, and returns where to begin on level.
func (ix *Index) descend(q *question, s *scratch, level int) []uint32 {
	s.start = append(s.start[:0], ix.entry)
	for l := ix.top; l > level; l-- {
		best := ix.walk(q, s, s.start, 1, l)
		s.start = append(s.start[:0], best[0].node)
	}
	return s.start
}

// walk is a beam search of width ef on a layer (algorithm 2): from the best node whose
// neighbours have not been looked at, until there is none. What it returns, best first,
// is valid until the next walk with s.
func (ix *Index) walk(q *question, s *scratch, start []uint32, ef, level int) []foundNode {
	s.begin()
	s.beam = s.beam[:0]
	s.fresh = s.fresh[:0]
	for _, n := range start {
		s.seen[n] = s.epoch
		s.fresh = append(s.fresh, n)
	}
	ix.look(q, s, ef)
	for next := 0; next < len(s.beam); {
		if s.beam[next].done {
			next++
			continue
		}
		s.beam[next].done = true
		s.fresh = s.fresh[:0]
		for _, n := range ix.links(s.beam[next].node, level) {
			if s.seen[n] != s.epoch && int(ix.levels[n]) >= level {
				s.seen[n] = s.epoch
				s.fresh = append(s.fresh, n)
			}
		}
		if first := ix.look(q, s, ef); first < next {
			next = first
		}
	}
	return s.beam
}

// look compares the fresh nodes, puts the good ones into the beam, and returns the
// foremost place that has changed.
func (ix *Index) look(q *question, s *scratch, ef int) (first int) {
	first = len(s.beam)
	if len(s.fresh) == 0 {
		return first
	}
	s.scores = slices.Grow(s.scores[:0], len(s.fresh))[:len(s.fresh)]
	vec.DotInt8Rows(s.scores, q.code, ix.bytes, s.fresh)
	for i, n := range s.fresh {
		f := foundNode{node: n, score: float32(s.scores[i]) * q.scale * ix.scales[n]}
		if len(s.beam) == ef && f.score <= s.beam[ef-1].score {
			continue
		}
		at, _ := slices.BinarySearchFunc(s.beam, f, nearer)
		if len(s.beam) < ef {
			s.beam = append(s.beam, foundNode{})
		}
		copy(s.beam[at+1:], s.beam[at:])
		s.beam[at] = f
		first = min(first, at)
	}
	return first
}
