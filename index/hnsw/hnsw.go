// Package hnsw finds the most similar vectors with a hierarchical navigable small world
// graph (Malkov and Yashunin: "Efficient and robust approximate nearest neighbor search
// using Hierarchical Navigable Small World graphs", 2016), with their algorithm 4 to
// choose neighbours in different directions.
//
// The graph is walked on 8-bit vectors, a quarter of the memory that a walk would
// otherwise wait for, and the best of what was found is compared exactly: scores are
// exact cosines, and nothing below a threshold is ever returned. What is similar may be
// missed; how often depends on the data and on the width of the search.
//
// Everything lies in a few large slices: vectors, 8-bit vectors, and lists of
// neighbours of fixed length. A removed vector's place is used again. Those who pointed
// to it are found among its neighbours' neighbours and get others in its place; a
// pointer that is overlooked leads to whatever lies there then, which costs a
// comparison and no more.
package hnsw

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

// Options shape a graph. The zero value has the defaults.
type Options struct {
	// M is the number of neighbours on the upper layers, half of that on the
	// lowest. Default: 16.
	M int
	// Build is the width of the search for neighbours (efConstruction).
	// Default: 200.
	Build int
	// Search is the width of a search (ef), at least twice what is asked for.
	// Default: 48.
	Search int
}

// maxLevel bounds the layers: one node in M^16 would be higher.
const maxLevel = 16

// none is no node.
const none = math.MaxUint32

// Index is an index.Index. Searches go on while vectors are added and removed: only
// the last step of a change, the linking, waits for them. The zero value is not
// usable; see New.
type Index struct {
	o      Options
	dims   int
	stride int // bytes of an 8-bit vector: dims, filled up to a multiple of 32

	writers sync.Mutex // one change at a time

	mu     sync.RWMutex // guards everything below; changed only under writers
	at     map[uint64]uint32
	ids    []uint64
	rows   []float32 // unit vectors
	bytes  []int8    // the same in 8 bits
	scales []float32 // of bytes
	levels []int8    // highest layer of a node; -1: removed
	lowest []uint32  // 2M+1 per node: a count and neighbours on layer 0
	upper  []uint32  // M+1 for each node and layer above
	above  []uint32  // where a node's first list in upper begins
	spare  [maxLevel + 1][]uint32
	free   []uint32 // removed nodes
	entry  uint32   // where searches begin, on the highest layer
	top    int      // that layer
}

// New returns an empty index for vectors of dims components with the default options;
// dims < 1 is a programmer's mistake and panics.
func New(dims int) *Index { return NewWith(dims, Options{}) }

// NewWith is New with options.
func NewWith(dims int, o Options) *Index {
	if dims < 1 {
		panic("hnsw: dims must be positive")
	}
	if o.M == 0 {
		o.M = 16
	}
	if o.Build == 0 {
		o.Build = 200
	}
	if o.Search == 0 {
		o.Search = 48
	}
	return &Index{o: o, dims: dims, stride: (dims + 31) &^ 31, at: make(map[uint64]uint32), entry: none}
}

// SetSearch changes Options.Search for the searches that follow.
func (ix *Index) SetSearch(ef int) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.o.Search = max(ef, 1)
}

// links returns the list of a node on a layer: its neighbours, and the room behind
// them. The caller holds mu.
func (ix *Index) links(node uint32, level int) []uint32 {
	if level == 0 {
		width := 2*ix.o.M + 1
		l := ix.lowest[int(node)*width : int(node)*width+width]
		return l[1 : 1+l[0] : width]
	}
	width := ix.o.M + 1
	from := int(ix.above[node]) + (level-1)*width
	l := ix.upper[from : from+width]
	return l[1 : 1+l[0] : width]
}

// setLinks replaces a list. The caller holds mu for writing.
func (ix *Index) setLinks(node uint32, level int, to []uint32) {
	width, all, from := 2*ix.o.M+1, ix.lowest, 0
	if level == 0 {
		from = int(node) * width
	} else {
		width, all = ix.o.M+1, ix.upper
		from = int(ix.above[node]) + (level-1)*width
	}
	l := all[from : from+width]
	l[0] = uint32(copy(l[1:], to))
}

// most is the number of neighbours that a list has room for.
func (ix *Index) most(level int) int {
	if level == 0 {
		return 2 * ix.o.M
	}
	return ix.o.M
}

func (ix *Index) row(node uint32) []float32 {
	i := int(node) * ix.dims
	return ix.rows[i : i+ix.dims : i+ix.dims]
}

func (ix *Index) code(node uint32) []int8 {
	i := int(node) * ix.stride
	return ix.bytes[i : i+ix.stride : i+ix.stride]
}

// between is the similarity of two nodes in 8 bits.
func (ix *Index) between(a, b uint32) float32 {
	return float32(vec.DotInt8(ix.code(a), ix.code(b))) * ix.scales[a] * ix.scales[b]
}

// Add implements index.Index. It costs a search of Options.Build width, during which
// other searches go on.
func (ix *Index) Add(id uint64, v []float32) error {
	unit := make([]float32, ix.dims)
	if err := index.Unit(unit, v, ix.dims); err != nil {
		return err
	}
	ix.writers.Lock()
	defer ix.writers.Unlock()
	ix.remove(id)

	level := min(int(-math.Log(1-rand.Float64())/math.Log(float64(ix.o.M))), maxLevel)
	q := newQuestion(ix, unit)
	ix.mu.RLock()
	var chosen [maxLevel + 1][]uint32
	if ix.entry != none {
		s := scratchOf(len(ix.ids))
		nearest := ix.descend(q, s, level)
		for l := min(level, ix.top); l >= 0; l-- {
			found := ix.walk(q, s, nearest, ix.o.Build, l)
			chosen[l] = ix.choose(found, ix.o.M)
			nearest = append(nearest[:0], found[0].node)
		}
		scratches.Put(s)
	}
	ix.mu.RUnlock()

	ix.mu.Lock()
	defer ix.mu.Unlock()
	node := ix.place(id, unit, q, level)
	for l := min(level, ix.top); l >= 0; l-- {
		ix.setLinks(node, l, chosen[l])
		for _, other := range chosen[l] {
			ix.connect(other, node, l)
		}
	}
	if ix.entry == none || level > ix.top {
		ix.entry, ix.top = node, level
	}
	return nil
}

// place gives a vector a node. The caller holds mu for writing.
func (ix *Index) place(id uint64, unit []float32, q *question, level int) uint32 {
	var node uint32
	if n := len(ix.free); n > 0 {
		node, ix.free = ix.free[n-1], ix.free[:n-1]
	} else {
		node = uint32(len(ix.ids))
		ix.ids = append(ix.ids, 0)
		ix.rows = append(ix.rows, unit...)
		ix.bytes = append(ix.bytes, q.code...)
		ix.scales = append(ix.scales, 0)
		ix.levels = append(ix.levels, 0)
		ix.above = append(ix.above, 0)
		ix.lowest = append(ix.lowest, make([]uint32, 2*ix.o.M+1)...)
	}
	ix.at[id], ix.ids[node], ix.levels[node], ix.scales[node] = node, id, int8(level), q.scale
	copy(ix.row(node), unit)
	copy(ix.code(node), q.code)
	ix.setLinks(node, 0, nil)
	if level > 0 {
		if n := len(ix.spare[level]); n > 0 {
			ix.above[node], ix.spare[level] = ix.spare[level][n-1], ix.spare[level][:n-1]
		} else {
			ix.above[node] = uint32(len(ix.upper))
			ix.upper = append(ix.upper, make([]uint32, level*(ix.o.M+1))...)
		}
		for l := 1; l <= level; l++ {
			ix.setLinks(node, l, nil)
		}
	}
	return node
}

// connect makes node a neighbour of from. Where there is no room, the neighbours are
// chosen anew. The caller holds mu for writing.
func (ix *Index) connect(from, node uint32, level int) {
	if int(ix.levels[from]) < level || from == node {
		return
	}
	l := ix.links(from, level)
	if slices.Contains(l, node) {
		return
	}
	if len(l) < ix.most(level) {
		ix.setLinks(from, level, append(l, node))
		return
	}
	ix.relink(from, append(slices.Clone(l), node), level)
}

// relink chooses the neighbours of a node among candidates.
func (ix *Index) relink(node uint32, candidates []uint32, level int) {
	found := make([]foundNode, 0, len(candidates))
	for _, c := range candidates {
		if c != node && int(ix.levels[c]) >= level {
			found = append(found, foundNode{node: c, score: ix.between(node, c)})
		}
	}
	slices.SortFunc(found, nearer)
	found = slices.CompactFunc(found, func(a, b foundNode) bool { return a.node == b.node })
	ix.setLinks(node, level, ix.choose(found, ix.most(level)))
}

// choose picks up to m of the candidates, which are sorted best first: those that are
// nearer to the node in question than to any one picked before (algorithm 4), and then,
// while there is room, the best of the others.
func (ix *Index) choose(candidates []foundNode, m int) []uint32 {
	picked := make([]uint32, 0, m)
	var others []uint32
	for _, c := range candidates {
		if len(picked) == m {
			break
		}
		if slices.ContainsFunc(picked, func(p uint32) bool { return ix.between(p, c.node) > c.score }) {
			others = append(others, c.node)
			continue
		}
		picked = append(picked, c.node)
	}
	return append(picked, others[:min(len(others), m-len(picked))]...)
}

// Remove implements index.Index.
func (ix *Index) Remove(id uint64) bool {
	ix.writers.Lock()
	defer ix.writers.Unlock()
	return ix.remove(id)
}

// remove takes a node out and gives those who pointed to it other neighbours. The
// caller holds writers.
func (ix *Index) remove(id uint64) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	node, ok := ix.at[id]
	if !ok {
		return false
	}
	level := int(ix.levels[node])
	delete(ix.at, id)
	ix.levels[node] = -1
	for l := level; l >= 0; l-- {
		around := slices.Clone(ix.links(node, l))
		ix.setLinks(node, l, nil)
		for _, other := range ix.pointers(node, around, l) {
			rest := slices.DeleteFunc(slices.Clone(ix.links(other, l)), func(n uint32) bool { return n == node })
			ix.relink(other, append(rest, around...), l)
		}
	}
	if level > 0 {
		ix.spare[level] = append(ix.spare[level], ix.above[node])
	}
	ix.free = append(ix.free, node)
	if node == ix.entry {
		ix.enter()
	}
	return true
}

// pointers returns the nodes around a removed one that point to it.
func (ix *Index) pointers(node uint32, around []uint32, level int) (all []uint32) {
	look := func(n uint32) {
		if int(ix.levels[n]) >= level && !slices.Contains(all, n) && slices.Contains(ix.links(n, level), node) {
			all = append(all, n)
		}
	}
	for _, n := range around {
		if int(ix.levels[n]) < level {
			continue
		}
		look(n)
		for _, m := range ix.links(n, level) {
			look(m)
		}
	}
	return all
}

// enter finds a new node to begin searches at.
func (ix *Index) enter() {
	ix.entry, ix.top = none, 0
	for n, l := range ix.levels {
		if int(l) > ix.top || l >= 0 && ix.entry == none {
			ix.entry, ix.top = uint32(n), int(l)
		}
	}
}

// Search implements index.Index. It allocates nothing when dst has room for k hits.
func (ix *Index) Search(dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	return ix.SearchFunc(dst, q, threshold, k, nil)
}

// TopK implements index.Index.
func (ix *Index) TopK(dst []index.Hit, q []float32, k int) ([]index.Hit, error) {
	return ix.SearchFunc(dst, q, -1, k, nil)
}

// SearchFunc is Search among the vectors that keep accepts; a nil keep accepts all. The
// walk goes through the others, and goes on until as many as are needed have been
// accepted, within sixteen times its width.
func (ix *Index) SearchFunc(dst []index.Hit, q []float32, threshold float32, k int, keep func(id uint64) bool) ([]index.Hit, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	s.q.reset(ix)
	if err := index.Unit(s.q.unit, q, ix.dims); err != nil {
		return dst, err
	}
	s.q.quantize()
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if k <= 0 || ix.entry == none {
		return dst, nil
	}
	s.reset(len(ix.ids))
	nearest := ix.descend(&s.q, s, 0)
	ef := max(ix.o.Search, 2*k)
	from := len(dst)
	const widest = 16
	for width := ef; ; width *= 4 {
		found := ix.walk(&s.q, s, nearest, width, 0)
		dst = ix.rescore(dst[:from], &s.q, found, threshold, k, keep)
		if keep == nil || len(dst)-from >= k || width >= widest*ef || len(found) < width {
			return dst, nil
		}
		nearest = append(s.start[:0], found[0].node)
		s.start = nearest
	}
}

// rescoreSlack is how far the 8-bit similarity of unit vectors may lie from the exact
// one for all practical purposes: each component is off by half a step of about
// max|x|/127, which adds up to some thousandths.
const rescoreSlack = 0.02

// rescore compares the best of what was found exactly.
func (ix *Index) rescore(dst []index.Hit, q *question, found []foundNode, threshold float32, k int, keep func(uint64) bool) []index.Hit {
	from := len(dst)
	worth := max(8, 2*k) // how many are compared exactly
	for _, f := range found {
		if worth == 0 || f.score < threshold-rescoreSlack {
			break
		}
		if keep != nil && !keep(ix.ids[f.node]) {
			continue
		}
		worth--
		if score := index.Clamp(vec.Dot(q.unit, ix.row(f.node))); score >= threshold {
			dst = index.Offer(dst, from, k, index.Hit{ID: ix.ids[f.node], Score: score})
		}
	}
	return dst
}

// Len implements index.Index.
func (ix *Index) Len() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.at)
}

// Dims implements index.Index.
func (ix *Index) Dims() int { return ix.dims }

// Stats implements index.Index.
func (ix *Index) Stats() index.Stats {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return index.Stats{
		Tier: "hnsw", Entries: len(ix.at), Tombstones: len(ix.free),
		Bytes: int64(4*cap(ix.rows) + cap(ix.bytes) + 4*cap(ix.scales) + cap(ix.levels) + 4*cap(ix.lowest) + 4*cap(ix.upper) + 4*cap(ix.above) + 8*cap(ix.ids) + 24*len(ix.at)),
	}
}
