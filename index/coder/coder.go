// Package coder adapts github.com/coder/hnsw to index.Index, as a baseline to
// compare with. It is not meant for serving.
//
// The library (v0.6.1) finds the true neighbour of clustered data about one time
// in four whatever its search effort, has no locks, and panics when a key is
// added again, when the last one has been deleted, on some searches after
// deletes, and after loading a graph that had deletes. This adapter keeps its own
// copy of the vectors, so that scores are exact and removed IDs are never
// returned; it never deletes from the graph but builds it anew when a quarter of
// it is gone; and it turns panics into index.ErrFault.
package coder

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/coder/hnsw"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

const (
	// rebuildShare is the share of stale graph nodes, 1 in 4, that leads to
	// building the graph anew; below rebuildLeast nodes it is not worth it.
	rebuildShare = 4
	rebuildLeast = 64
	// widen is how many more neighbours the graph is asked for than the
	// caller wants: some will be stale.
	widen = 16
)

// Index is a graph of coder/hnsw with the vectors beside it.
type Index struct {
	dims int

	mu    sync.RWMutex // guards everything below, and the graph, which has no lock
	graph *hnsw.Graph[uint64]
	rows  map[uint64]row    // live vectors by ID
	ids   map[uint64]uint64 // ID of a node of the graph; a stale node has none
	next  uint64            // key of the next node: keys are never used twice
	stale int               // nodes of the graph without an ID
}

type row struct {
	node uint64
	unit []float32
}

// New returns an empty index for vectors of dims components; dims < 1 panics.
func New(dims int) *Index {
	if dims < 1 {
		panic("coder: dims must be positive")
	}
	ix := &Index{dims: dims, rows: make(map[uint64]row)}
	ix.reset()
	return ix
}

func (ix *Index) reset() {
	ix.graph = hnsw.NewGraph[uint64]()
	ix.ids = make(map[uint64]uint64)
	ix.stale = 0
}

// Add implements index.Index.
func (ix *Index) Add(id uint64, v []float32) error {
	unit := make([]float32, ix.dims)
	if err := index.Unit(unit, v, ix.dims); err != nil {
		return err
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	node := ix.next
	ix.next++
	if err := guarded(func() { ix.graph.Add(hnsw.MakeNode(node, unit)) }); err != nil {
		// The graph may be half-changed: build it from the vectors we have.
		ix.rebuildLocked()
		return err
	}
	ix.forgetLocked(id)
	ix.rows[id] = row{node, unit}
	ix.ids[node] = id
	ix.tidyLocked()
	return nil
}

// Remove implements index.Index. The node stays in the graph until it is rebuilt.
func (ix *Index) Remove(id uint64) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if !ix.forgetLocked(id) {
		return false
	}
	ix.tidyLocked()
	return true
}

func (ix *Index) forgetLocked(id uint64) bool {
	r, ok := ix.rows[id]
	if ok {
		delete(ix.rows, id)
		delete(ix.ids, r.node)
		ix.stale++
	}
	return ok
}

func (ix *Index) tidyLocked() {
	if nodes := len(ix.ids) + ix.stale; ix.stale*rebuildShare > nodes && nodes >= rebuildLeast || len(ix.rows) == 0 {
		ix.rebuildLocked()
	}
}

// rebuildLocked makes the graph anew, in the order of the nodes. A vector that
// the library cannot take is left out of the graph and stays in rows.
func (ix *Index) rebuildLocked() {
	live := make([]uint64, 0, len(ix.rows))
	for id := range ix.rows {
		live = append(live, id)
	}
	slices.SortFunc(live, func(a, b uint64) int { return int(ix.rows[a].node) - int(ix.rows[b].node) })
	ix.reset()
	for _, id := range live {
		r := ix.rows[id]
		if guarded(func() { ix.graph.Add(hnsw.MakeNode(r.node, r.unit)) }) == nil {
			ix.ids[r.node] = id
		}
	}
}

// guarded turns a panic of the library into an error.
func guarded(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: coder/hnsw: %v", index.ErrFault, p)
		}
	}()
	f()
	return nil
}

// Search implements index.Index.
func (ix *Index) Search(dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	unit := make([]float32, ix.dims)
	if err := index.Unit(unit, q, ix.dims); err != nil {
		return dst, err
	}
	if k <= 0 {
		return dst, nil
	}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if len(ix.ids) == 0 {
		return dst, nil
	}
	var nodes []hnsw.Node[uint64]
	if err := guarded(func() { nodes = ix.graph.Search(unit, k+widen) }); err != nil {
		return dst, err
	}
	from := len(dst)
	for _, n := range nodes {
		id, ok := ix.ids[n.Key]
		if !ok {
			continue
		}
		if s := index.Clamp(vec.Dot(unit, ix.rows[id].unit)); s >= threshold {
			dst = index.Offer(dst, from, k, index.Hit{ID: id, Score: s})
		}
	}
	return dst, nil
}

// TopK implements index.Index.
func (ix *Index) TopK(dst []index.Hit, q []float32, k int) ([]index.Hit, error) {
	return ix.Search(dst, q, -1, k)
}

// Len implements index.Index.
func (ix *Index) Len() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.rows)
}

// Dims implements index.Index.
func (ix *Index) Dims() int { return ix.dims }

// Stats implements index.Index. Bytes counts about 3 KB of graph for each node,
// as measured by others for 384 dimensions, beside the vectors.
func (ix *Index) Stats() index.Stats {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	const perNode = 3 << 10
	return index.Stats{
		Tier: "coder", Entries: len(ix.rows), Tombstones: ix.stale,
		Bytes: int64(len(ix.rows)*(4*ix.dims+64)) + int64((len(ix.ids)+ix.stale)*perNode),
	}
}

// Snapshot implements index.Index. It writes the vectors, not the graph: a saved
// graph of the library panics after loading once it has had deletes.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	ids := make([]uint64, 0, len(ix.rows))
	for id := range ix.rows {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return index.WriteSnapshot(w, ix.dims, len(ids), func(i int) (uint64, []float32) {
		return ids[i], ix.rows[ids[i]].unit
	})
}

// Load reads an index that Snapshot wrote and builds the graph. Errors:
// index.ErrCorrupt, index.ErrVersion, those of r.
func Load(r io.Reader) (*Index, error) {
	var ix *Index
	err := index.ReadSnapshot(r, func(dims int) { ix = New(dims) }, func(id uint64, v []float32) error { return ix.Add(id, v) })
	if err != nil {
		return nil, err
	}
	return ix, nil
}
