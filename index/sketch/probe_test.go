package sketch

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/semcached/semcached/index/vec"
)

// Where lists miss what is there, probes find that out and widen the margins.
func TestProbesWidenMargins(t *testing.T) {
	const dims = 48
	rng := rand.New(rand.NewPCG(41, 7))
	ix := early(dims, 2000)
	rows := make([][]float32, 2000)
	for id := range rows {
		rows[id] = unit(normal(rng, dims, 1))
		ix.Add(uint64(id), rows[id])
	}
	settle(t, ix)
	narrow := *ix.tier.cur.space
	narrow.margins = [marginCount]float32{}
	ix.tier.cur.space = &narrow
	ix.tier.probe.rest = time.Now().Add(time.Hour) // no others than those below
	ask := func() (missed int) {
		for i := range 400 {
			if hits, _ := ix.Search(nil, at(rows[i], rows[i+400], 0.93), 0.92, 1); len(hits) == 0 || hits[0].ID != uint64(i) {
				missed++
			}
		}
		return missed
	}
	before := ask()
	if before < 5 {
		t.Fatalf("%d missed without margins: this tests nothing", before)
	}
	for i := range 400 {
		ix.probe(ix.tier, at(rows[i], rows[i+400], 0.93), 0.92)
	}
	s := ix.Stats()
	if s.Probed != 400 || s.Recall >= 1 || s.Recall < 0.5 {
		t.Errorf("%+v", s)
	}
	if after := ask(); after > 1 {
		t.Errorf("%d missed, %d before the probes", after, before)
	}
	check(t, ix)
	ix.Add(9999, rows[0]) // the space has changed: places are still right
	check(t, ix)

	// A question without an answer tells nothing.
	ix.probe(ix.tier, unit(normal(rng, dims, 1)), 0.92)
	if s := ix.Stats(); s.Probed != 400 {
		t.Errorf("%d probed", s.Probed)
	}
}

func TestSearchesAreProbedNowAndThen(t *testing.T) {
	const dims = 32
	rng := rand.New(rand.NewPCG(42, 7))
	ix := New(dims)
	for id := range uint64(500) {
		ix.Add(id, normal(rng, dims, 1))
	}
	q := append([]float32(nil), ix.row(7)...)
	for range 2_000_000 {
		ix.Search(nil, q, 0.99, 1)
		if ix.Stats().Probed > 0 {
			break
		}
	}
	for range 10_000 {
		if s := ix.Stats(); s.Probed > 0 {
			if s.Recall != 1 {
				t.Errorf("%+v", s)
			}
			return
		}
		time.Sleep(time.Millisecond) // the probe is in the background
	}
	t.Error("no search is ever probed")
}

// A probe of vectors that come and go meanwhile must not count what has gone.
func TestProbesBesideChanges(t *testing.T) {
	const dims = 24
	rng := rand.New(rand.NewPCG(43, 7))
	ix := early(dims, 300)
	for id := range uint64(600) {
		ix.Add(id, normal(rng, dims, 1))
	}
	settle(t, ix)
	done := make(chan struct{})
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(44, 7))
		for range 3000 {
			id := uint64(rng.IntN(600))
			ix.Remove(id)
			ix.Add(id, normal(rng, dims, 1))
		}
	}()
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
			ix.mu.RLock()
			tier, q := ix.tier, append([]float32(nil), ix.row(rng.IntN(ix.n))...)
			ix.mu.RUnlock()
			vec.Scale(q, q, 1/vec.Norm(q))
			ix.probe(tier, q, 0.95)
		}
	}
	if s := ix.Stats(); s.Probed > 0 && s.Recall < 0.99 {
		t.Errorf("%+v", s)
	}
	settle(t, ix)
	check(t, ix)
}
