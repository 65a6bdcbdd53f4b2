package coder

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/semcached/semcached/index"
)

// The library's own faults, each of which panics when it is used directly (v0.6.1).
func TestWhatTheLibraryPanicsOnWorks(t *testing.T) {
	const n, dims = 400, 16
	rng := rand.New(rand.NewPCG(1, 3))
	draw := func() []float32 {
		v := make([]float32, dims)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	ix, last := New(dims), make(map[uint64][]float32)
	add := func(id uint64) {
		t.Helper()
		last[id] = draw()
		if err := ix.Add(id, last[id]); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(ix *Index) (found int) {
		t.Helper()
		for id, v := range last {
			hits, err := ix.Search(nil, v, 1-1e-5, 1)
			if err != nil || len(hits) == 1 && hits[0].ID != id {
				t.Fatalf("%d is found as %v %v", id, hits, err)
			}
			found += len(hits)
		}
		return found
	}

	add(1) // a vector added again, as the only one
	add(1)
	ix.Remove(1) // the last one gone, then the next
	delete(last, 1)
	if found := ask(ix); found != 0 || ix.Len() != 0 {
		t.Fatalf("%d vectors, found %d", ix.Len(), found)
	}
	for id := range uint64(n) {
		add(id)
	}
	for id := range uint64(n) { // replaced in the middle, a fifth removed
		switch id % 5 {
		case 0:
			ix.Remove(id)
			delete(last, id)
		case 1:
			add(id)
		}
	}
	if found := ask(ix); found == 0 {
		t.Error("nothing is found after deletes")
	}
	var b bytes.Buffer // saved after deletes, loaded and asked
	if err := ix.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Load(&b)
	if err != nil || back.Len() != len(last) {
		t.Fatal(err)
	}
	if found := ask(back); found == 0 {
		t.Error("nothing is found after loading")
	}
}

func TestDeletesLeadToANewGraph(t *testing.T) {
	ix := New(2)
	for id := range uint64(200) {
		ix.Add(id, []float32{float32(id), 1})
	}
	for id := range uint64(150) {
		ix.Remove(id)
		if nodes := len(ix.ids) + ix.stale; ix.stale*rebuildShare > nodes && nodes >= rebuildLeast {
			t.Fatalf("%d of %d nodes are stale", ix.stale, nodes)
		}
	}
	if s := ix.Stats(); s.Entries != 50 || ix.graph.Len() != s.Entries+s.Tombstones {
		t.Errorf("%+v, %d nodes in the graph", s, ix.graph.Len())
	}
}

func TestAFaultIsAnErrorAndTheIndexGoesOn(t *testing.T) {
	ix := New(2)
	for id := range uint64(10) {
		ix.Add(id, []float32{float32(id), 1})
	}
	ix.graph = nil // every call panics
	if hits, err := ix.Search(nil, []float32{1, 1}, 0, 1); !errors.Is(err, index.ErrFault) || len(hits) != 0 {
		t.Errorf("search: %v %v, want ErrFault", hits, err)
	}
	if err := ix.Add(3, []float32{-1, 0}); !errors.Is(err, index.ErrFault) {
		t.Errorf("add: %v, want ErrFault", err)
	}
	// The failed Add had no effect but a new graph.
	hits, err := ix.Search(nil, []float32{3, 1}, 1-1e-6, 1)
	if err != nil || len(hits) != 1 || hits[0].ID != 3 || ix.Len() != 10 {
		t.Errorf("after faults: %v %v", hits, err)
	}
	if err := ix.Add(11, []float32{-1, 0}); err != nil {
		t.Errorf("after faults: %v", err)
	}
}
