// Package hnsw finds the most similar vectors with a hierarchical navigable small world
// graph (Malkov and Yashunin: "Efficient and robust approximate nearest neighbor search
// using Hierarchical Navigable Small World graphs", 2016), with their algorithm 4 to
// choose neighbours in different directions.
//
// The graph is walked on 4-bit vectors, seen from the mean of all: an eighth of the memory
// that a walk would otherwise wait for. The best of what was found is compared exactly: scores
// are exact cosines, and nothing below a threshold is ever returned. What is similar may be
// missed; how often depends on the data and on the width of the search.
//
// Everything lies in a few tables: vectors, 4-bit vectors, and lists of neighbours of
// fixed length. A removed vector's place is used again. Those who pointed to it are
// found among its neighbours' neighbours and get others in its place; a pointer that is
// overlooked leads to whatever lies there then, which costs a comparison and no more.
package hnsw

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/slab"
)

// Options shape a graph. The zero value has the defaults.
type Options struct {
	// M is the number of neighbours on the upper layers, half of that on the
	// lowest. Default: 16.
	M int
	// Build is the width of the search for neighbours (efConstruction).
	// Default: 200.
	Build int
	// Search is the greatest width of a search (ef), at least twice what is
	// asked for; most end before they use it. Default: 128.
	Search int
}

// maxLevel bounds the layers: one node in M^16 would be higher.
const maxLevel = 16

// exactDims is up to how many dimensions the walk is on exact vectors, which are a few
// cache lines then: the fewer the dimensions, the larger the error of 4 bits (0.013 of a
// cosine at 64). With 10,000 vectors of 64 dimensions in 100 groups a width of 20 found
// 0.999 of the ten nearest where codes found 0.975, in the same 11 µs (Xeon with AVX-512).
const exactDims = 64

// none is no node; most is how many there may be.
const (
	none = math.MaxUint32
	most = 1 << 31
)

// Index is an index.Index. Searches, and the search for neighbours that makes up most
// of an Add, go on side by side and beside changes of the graph: of these there is one
// at a time. Searches wait only while tables grow, and once for 64 removals. The zero
// value is not usable; see New.
//
// Searches see a change half done without harm: lists are read and written element by
// element, atomically. A node is there while its term is not 0, which is set after all
// else of it is written and before anybody points to it, and cleared before its place
// is used again; and that waits for the searches that may have seen it before.
type Index struct {
	o     Options
	dims  int
	turn  rotation
	ef    atomic.Int32 // Options.Search
	exact bool         // walks are on exact vectors

	size  atomic.Int64 // vectors
	gone  atomic.Int64 // places of removed ones
	bytes atomic.Int64 // of the tables
	hot   atomic.Int64 // of them, without rows

	entry atomic.Uint32 // where searches begin, on the highest layer; none: nowhere

	// writers guards what follows up to mu, and changes of the graph: one at a
	// time. It is taken before mu.
	writers   sync.Mutex
	at        map[uint64]uint32
	nodes     int                    // places made use of so far
	lists     int                    // rows of upper made use of so far
	listRoom  int                    // rows of upper
	free      [maxLevel + 1][]uint32 // places to be used again, by their layers
	limbo     []uint32               // removed nodes that searches may still read
	snapshots int                    // being written: nothing leaves limbo, codes stay
	since     int                    // vectors added since the last look at the centre

	// mu guards the tables: held for reading by who reads them and does not hold
	// writers, for writing, with writers, where they grow or places are freed.
	mu     sync.RWMutex
	era    uint64    // how often places were freed or codes made anew
	centre []float32 // what codes are seen from
	terms  []uint64  // of codes by node, as all that follows; 0: not there
	ids    []uint64
	levels []uint8          // highest layer, which the place keeps for ever
	above  []uint32         // where a node's lists in upper begin, from layer 1
	rows   slab.Of[float32] // unit vectors
	codes  slab.Of[byte]    // the same rotated, in 4 bits
	lowest slab.Of[uint32]  // 2M neighbours on layer 0
	upper  slab.Of[uint32]  // M neighbours for each node and layer above
}

// New returns an empty index for vectors of dims components with the default options;
// dims < 1 is a programmer's mistake and panics.
func New(dims int) *Index { return NewWith(dims, Options{}) }

// NewWith is New with options.
func NewWith(dims int, o Options) *Index { return newIndex(dims, o, rand.Uint64()) }

// newIndex makes an index that turns vectors by this seed.
func newIndex(dims int, o Options, seed uint64) *Index {
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
		o.Search = 128
	}
	ix := &Index{
		o: o, dims: dims, turn: newRotation(dims, seed), exact: dims <= exactDims,
		at: make(map[uint64]uint32), centre: make([]float32, dims),
	}
	ix.rows, ix.codes = slab.New[float32](dims), slab.New[byte](ix.turn.size/2)
	ix.lowest, ix.upper = slab.New[uint32](2*o.M), slab.New[uint32](o.M)
	ix.ef.Store(int32(o.Search))
	ix.entry.Store(none)
	return ix
}

// SetSearch changes Options.Search for the searches that follow.
func (ix *Index) SetSearch(ef int) { ix.ef.Store(int32(max(ef, 1))) }

// Add implements index.Index. It costs a search of Options.Build width, which goes on
// beside other searches and the same of other Adds, and the linking, one at a time.
func (ix *Index) Add(id uint64, v []float32) error {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	if err := s.q.set(ix, v); err != nil {
		return err
	}
	level := min(int(-math.Log(1-rand.Float64())/math.Log(float64(ix.o.M))), maxLevel)

	ix.mu.RLock()
	era := ix.era
	s.q.ask(ix, ix.centre)
	ix.gather(s, id, level)
	ix.mu.RUnlock()

	ix.writers.Lock()
	defer ix.writers.Unlock()
	ix.recentre()
	if era != ix.era || !ix.usable(s.chosen[0]) {
		s.q.ask(ix, ix.centre)
		ix.gather(s, id, level) // what was found has gone, or was nothing
	}
	ix.insert(s, id, level)
	return nil
}

// usable reports whether any of the nodes is there. The caller holds writers.
func (ix *Index) usable(nodes []uint32) bool {
	for _, n := range nodes {
		if ix.live(n) {
			return true
		}
	}
	return false
}

// insert puts s.q under id among the neighbours chosen for it. The caller holds
// writers.
func (ix *Index) insert(s *scratch, id uint64, level int) {
	node := ix.reserve(level)
	term := ix.write(node, id, &s.q)
	ix.since++
	for l := range level + 1 {
		s.chosen[l] = ix.onlyLive(s.chosen[l])
		ix.setLinks(node, l, s.chosen[l])
	}
	old, replaces := ix.at[id]
	if replaces {
		ix.setTerm(old, 0)
	}
	ix.setTerm(node, term)
	ix.at[id] = node
	for l := range level + 1 {
		ix.link(s, node, l)
	}
	if entry := ix.entry.Load(); entry == none || level > int(ix.levels[entry]) {
		ix.entry.Store(node)
	}
	if replaces {
		ix.bury(s, old)
	}
	ix.size.Store(int64(len(ix.at)))
}

// onlyLive drops what is not there.
func (ix *Index) onlyLive(nodes []uint32) []uint32 {
	all := nodes[:0]
	for _, n := range nodes {
		if ix.live(n) {
			all = append(all, n)
		}
	}
	return all
}

// Remove implements index.Index.
func (ix *Index) Remove(id uint64) bool {
	ix.writers.Lock()
	defer ix.writers.Unlock()
	node, ok := ix.at[id]
	if !ok {
		return false
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	delete(ix.at, id)
	ix.setTerm(node, 0)
	ix.bury(s, node)
	ix.size.Store(int64(len(ix.at)))
	return true
}

// bury gives those who pointed to a removed node other neighbours. Its own lists stay,
// for searches that have come to it. The caller holds writers.
func (ix *Index) bury(s *scratch, node uint32) {
	if node == ix.entry.Load() {
		ix.enter()
	}
	ix.unlink(s, node)
	ix.limbo = append(ix.limbo, node)
	ix.gone.Store(int64(ix.nodes - len(ix.at)))
}

// Len implements index.Index.
func (ix *Index) Len() int { return int(ix.size.Load()) }

// Dims implements index.Index.
func (ix *Index) Dims() int { return ix.dims }

// measure counts the bytes of the tables. The caller holds mu for writing.
func (ix *Index) measure() {
	hot := ix.codes.Bytes() + ix.lowest.Bytes() + ix.upper.Bytes() +
		int64(8*cap(ix.terms)+8*cap(ix.ids)+cap(ix.levels)+4*cap(ix.above))
	ix.hot.Store(hot)
	ix.bytes.Store(hot + ix.rows.Bytes())
}

// Stats implements index.Index.
func (ix *Index) Stats() index.Stats {
	const perID = 24 // the ID's share of the map
	n := ix.size.Load()
	return index.Stats{
		Tier: "hnsw", Entries: int(n), Tombstones: int(ix.gone.Load()),
		Bytes: ix.bytes.Load() + perID*n, Hot: ix.hot.Load() + perID*n,
	}
}
