package sketch

import (
	"math/rand/v2"
	"testing"

	"github.com/semcached/semcached/index"
)

func TestNotesLeaveTheSameIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 7))
	draw := clusters(rng, 64, 30, 0.5, 0.4)
	ix := early(64, 400)
	for id := range uint64(600) {
		ix.Add(id, draw())
	}
	settle(t, ix)
	var n index.Note
	for id := uint64(1000); id < 1300; id++ {
		v := draw()
		if hits, err := ix.SearchNote(nil, v, 0.9999, 1, &n); err != nil || len(hits) != 0 {
			t.Fatalf("%v %v", hits, err)
		}
		if left := n.State.(*noted); left.ix != ix || left.here.space.len() < 2 {
			t.Fatal("nothing is noted")
		}
		add := v
		if id%3 == 0 { // another vector than was asked for
			add = draw()
		}
		if err := ix.AddNote(id, add, &n); err != nil {
			t.Fatal(err)
		}
		if hits, _ := ix.Search(nil, add, 0.9999, 1); len(hits) != 1 || hits[0].ID != id {
			t.Fatalf("%d is not found: %v", id, hits)
		}
	}
	settle(t, ix)
	check(t, ix)
}

// A note that fits no more must do no harm.
func TestStaleNotes(t *testing.T) {
	rng := rand.New(rand.NewPCG(22, 7))
	ix, other := early(32, 400), early(32, 400)
	for id := range uint64(390) {
		v := normal(rng, 32, 1)
		ix.Add(id, v)
		other.Add(id, v)
	}
	q := normal(rng, 32, 1)
	var n, empty index.Note
	ix.SearchNote(nil, q, 0.99, 1, &n)
	for id := uint64(1000); id < 1500; id++ { // lists are made meanwhile
		ix.Add(id, normal(rng, 32, 1))
	}
	settle(t, ix)
	for _, to := range []*Index{ix, other} {
		if err := to.AddNote(7000, q, &n); err != nil {
			t.Fatal(err)
		}
		settle(t, to)
		check(t, to)
		if hits, _ := to.Search(nil, q, 0.99, 1); len(hits) != 1 || hits[0].ID != 7000 {
			t.Errorf("not found: %v", hits)
		}
	}
	if hits, _ := ix.SearchNote(nil, q, 0.99, 1, &n); len(hits) != 1 || n.State.(*noted).ix != nil {
		t.Error("a hit leaves the note of the question before it")
	}
	if err := ix.AddNote(7001, q, &empty); err != nil {
		t.Error(err)
	}
	if _, err := ix.SearchNote(nil, q[:3], 0.9, 1, &n); err == nil {
		t.Error("a question of other dimensions is answered")
	}
	if err := ix.AddNote(1, q[:3], &n); err == nil {
		t.Error("a vector of other dimensions is added")
	}
}

func BenchmarkAddAfterMiss(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	draw := embeddings(rng, 384)
	ix := New(384)
	for id := range uint64(20_000) {
		ix.Add(id, draw())
	}
	v := draw()
	var n index.Note
	ix.SearchNote(nil, v, 0.9999, 1, &n)
	b.Run("note=no", func(b *testing.B) {
		for b.Loop() {
			ix.Add(1<<40, v)
		}
	})
	b.Run("note=yes", func(b *testing.B) {
		for b.Loop() {
			ix.AddNote(1<<40, v, &n)
		}
	})
}
