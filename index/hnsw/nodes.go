package hnsw

import (
	"math"
	"sync/atomic"
)

// limboMost is how many removed nodes wait for the searches that may still read them
// before all searches are waited for, once for all of them.
const limboMost = 64

// growMost bounds the places that are made at a time, and with them how long searches
// are kept waiting.
const growMost = 2048

// term is what makes a similarity of the product of two codes: two float32, the factor of
// the node's code in the upper half, what is to be added in the lower. It is never 0, which
// stands for a node that is not there.
type term uint64

func termOf(factor, add float32) term {
	return term(math.Float32bits(factor))<<32 | term(math.Float32bits(add))
}

func (t term) factor() float32 { return math.Float32frombits(uint32(t >> 32)) }
func (t term) add() float32    { return math.Float32frombits(uint32(t)) }

func (ix *Index) termOf(node uint32) term { return term(atomic.LoadUint64(&ix.terms[node])) }

func (ix *Index) setTerm(node uint32, t term) { atomic.StoreUint64(&ix.terms[node], uint64(t)) }

func (ix *Index) live(node uint32) bool { return ix.termOf(node) != 0 }

// links returns the list of a node on a layer, which must not be above the node's: its
// neighbours, and none from there on. While others search, elements are read and
// written atomically.
func (ix *Index) links(node uint32, level int) []uint32 {
	if level == 0 {
		return ix.lowest.Row(int(node))
	}
	return ix.upper.Row(int(ix.above[node]) + level - 1)
}

// setLinks replaces a list. The caller holds writers.
func (ix *Index) setLinks(node uint32, level int, to []uint32) {
	l := ix.links(node, level)
	for i := range l {
		n := uint32(none)
		if i < len(to) {
			n = to[i]
		}
		if l[i] != n { // only writers write
			atomic.StoreUint32(&l[i], n)
		}
	}
}

// count returns the number of neighbours in a list. The caller holds writers.
func count(l []uint32) int {
	for i, n := range l {
		if n == none {
			return i
		}
	}
	return len(l)
}

func (ix *Index) row(node uint32) []float32 { return ix.rows.Row(int(node)) }
func (ix *Index) code(node uint32) []byte   { return ix.codes.Row(int(node)) }

// reserve returns a node for a vector whose highest layer is level. Nobody finds it
// before setTerm. The caller holds writers, not mu.
func (ix *Index) reserve(level int) uint32 {
	if len(ix.free[level]) == 0 && len(ix.limbo) >= limboMost && ix.snapshots == 0 {
		ix.recycle()
	}
	if n := len(ix.free[level]); n > 0 {
		node := ix.free[level][n-1]
		ix.free[level] = ix.free[level][:n-1]
		return node
	}
	if ix.nodes == len(ix.terms) || ix.lists+level > ix.listRoom {
		ix.grow(level)
	}
	node := uint32(ix.nodes)
	ix.levels[node], ix.above[node] = uint8(level), uint32(ix.lists)
	ix.nodes++
	ix.lists += level
	return node
}

// recycle lets the places of removed nodes be used again. Searches that are under way
// may have seen them, so it waits for these. The caller holds writers.
func (ix *Index) recycle() {
	ix.mu.Lock()
	ix.era++
	ix.mu.Unlock()
	for _, n := range ix.limbo {
		ix.free[ix.levels[n]] = append(ix.free[ix.levels[n]], n)
	}
	ix.limbo = ix.limbo[:0]
}

// grow makes room for one more node of this level at least. The caller holds writers.
func (ix *Index) grow(level int) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.nodes == len(ix.terms) {
		room := ix.nodes + min(max(ix.nodes/4, 16), growMost)
		more := room - len(ix.terms)
		ix.terms = append(ix.terms, make([]uint64, more)...)
		ix.ids = append(ix.ids, make([]uint64, more)...)
		ix.levels = append(ix.levels, make([]uint8, more)...)
		ix.above = append(ix.above, make([]uint32, more)...)
		ix.rows.Grow(room)
		ix.codes.Grow(room)
		ix.lowest.Grow(room)
	}
	if ix.lists+level > ix.listRoom {
		ix.listRoom = ix.lists + level + min(max(ix.lists/4, 16), growMost)
		ix.upper.Grow(ix.listRoom)
	}
	ix.measure()
}

// write puts a vector and its question into a reserved node, without neighbours.
func (ix *Index) write(node uint32, id uint64, q *question) term {
	ix.ids[node] = id
	copy(ix.row(node), q.unit)
	for l := range int(ix.levels[node]) + 1 {
		ix.setLinks(node, l, nil)
	}
	return q.encode(ix.code(node))
}

// enter finds a new node to begin searches at. The caller holds writers.
func (ix *Index) enter() {
	entry := uint32(none)
	for n := range uint32(ix.nodes) {
		if ix.live(n) && (entry == none || ix.levels[n] > ix.levels[entry]) {
			entry = n
		}
	}
	ix.entry.Store(entry)
}
