package hnsw

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/indextest"
	"github.com/semcached/semcached/index/vec"
)

// TestConforms: the vectors of the suite have few dimensions, in which walks are exact, so
// it is run on codes too. The hundred thousand operations are on vectors of 16: with fewer
// neighbours they take a fifth of the time.
func TestConforms(t *testing.T) {
	for name, exact := range map[string]bool{"walk=exact": true, "walk=codes": false} {
		t.Run(name, func(t *testing.T) {
			if exact && underRace {
				t.Skip("the same locks as on codes")
			}
			t.Parallel()
			indextest.Run(t, indextest.Config{
				New: func(dims int) index.Index {
					o := Options{Build: 40}
					if dims == 16 {
						o.M = 8
					}
					ix := NewWith(dims, o)
					ix.exact = exact
					return ix
				},
				Load: func(r io.Reader) (index.Index, error) {
					ix, err := Load(r)
					if err == nil {
						ix.exact = exact
					}
					return ix, err
				},
				MinRecall: 0.995,
			})
		})
	}
}

// grouped draws vectors from groups around a common mean.
func grouped(rng *rand.Rand, dims, groups int) func() []float32 {
	centres := make([][]float32, groups)
	mean := make([]float32, dims)
	for i := range mean {
		mean[i] = float32(rng.NormFloat64()) * 0.7
	}
	for g := range centres {
		centres[g] = make([]float32, dims)
		for i := range centres[g] {
			centres[g][i] = mean[i] + float32(rng.NormFloat64())
		}
	}
	return func() []float32 {
		v := slices.Clone(centres[rng.IntN(groups)])
		for i := range v {
			v[i] += float32(rng.NormFloat64()) * 0.5
		}
		return v
	}
}

// recallOf is the share of the k nearest that are found.
func recallOf(t *testing.T, ix *Index, flat *index.Flat, draw func() []float32, k int) float64 {
	t.Helper()
	found, wanted := 0, 0
	for range 300 {
		q := draw()
		want, _ := flat.TopK(nil, q, k)
		got, err := ix.TopK(nil, q, k)
		if err != nil {
			t.Fatal(err)
		}
		wanted += len(want)
		for _, w := range want {
			if slices.ContainsFunc(got, func(h index.Hit) bool { return h.ID == w.ID }) {
				found++
			}
		}
	}
	return float64(found) / float64(wanted)
}

func TestRecallSurvivesChurn(t *testing.T) {
	n := 2000
	if testing.Short() || underRace {
		n = 1000
	}
	const dims = 80 // walks are on codes
	rng := rand.New(rand.NewPCG(1, 2))
	draw := grouped(rng, dims, 100)
	ix, flat := New(dims), index.NewFlat(dims)
	put := func(id uint64) {
		v := draw()
		if ix.Add(id, v) != nil || flat.Add(id, v) != nil {
			t.Fatal("refused")
		}
	}
	for id := range uint64(n) {
		put(id)
	}
	if r := recallOf(t, ix, flat, draw, 10); r < 0.97 {
		t.Errorf("fresh: recall %v", r)
	}
	for round := range 3 { // two thirds go, as many come
		for id := range uint64(n) {
			if rng.IntN(3) > 0 {
				if !ix.Remove(id) || !flat.Remove(id) {
					t.Fatalf("%d is not there", id)
				}
			}
		}
		if r := recallOf(t, ix, flat, draw, 10); r < 0.95 {
			t.Errorf("round %d, after deletes: recall %v of %d", round, r, flat.Len())
		}
		for id := range uint64(n) {
			put(id)
		}
		if r := recallOf(t, ix, flat, draw, 10); r < 0.96 {
			t.Errorf("round %d, refilled: recall %v", round, r)
		}
	}
	if ix.nodes > n+n/10 {
		t.Errorf("%d places for %d vectors: places are not used again", ix.nodes, n)
	}
}

func TestFilterIsInsideTheWalk(t *testing.T) {
	const n, dims = 3000, 32
	rng := rand.New(rand.NewPCG(3, 2))
	draw := grouped(rng, dims, 30)
	ix, flat := New(dims), index.NewFlat(dims)
	keep := func(id uint64) bool { return id%20 == 0 } // one in twenty
	for id := range uint64(n) {
		v := draw()
		ix.Add(id, v)
		if keep(id) {
			flat.Add(id, v)
		}
	}
	found, wanted := 0, 0
	for range 200 {
		q := draw()
		want, _ := flat.TopK(nil, q, 5)
		got, err := ix.SearchFunc(nil, q, -1, 5, keep)
		if err != nil || slices.ContainsFunc(got, func(h index.Hit) bool { return !keep(h.ID) }) {
			t.Fatalf("%v %v", got, err)
		}
		wanted += len(want)
		for _, w := range want {
			if slices.ContainsFunc(got, func(h index.Hit) bool { return h.ID == w.ID }) {
				found++
			}
		}
	}
	if float64(found) < 0.9*float64(wanted) {
		t.Errorf("%d of %d", found, wanted)
	}
	few := func(id uint64) bool { return id == 7 || id == 2900 } // where no walk may come by
	if hits, err := ix.SearchFunc(nil, draw(), -1, 5, few); err != nil || len(hits) != 2 || !few(hits[0].ID) || !few(hits[1].ID) {
		t.Errorf("two are accepted, found %v %v", hits, err)
	}
	if hits, err := ix.SearchFunc(nil, draw(), -1, 5, func(uint64) bool { return false }); err != nil || len(hits) != 0 {
		t.Errorf("nothing is accepted, and yet %v %v", hits, err)
	}
}

func TestSnapshotKeepsTheGraph(t *testing.T) {
	const n, dims = 2000, 80
	rng := rand.New(rand.NewPCG(4, 2))
	draw := grouped(rng, dims, 30)
	ix := New(dims)
	for id := range uint64(n) {
		ix.Add(id, draw())
	}
	for id := range uint64(n / 2) { // holes
		ix.Remove(2 * id)
	}
	var b bytes.Buffer
	if err := ix.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Load(&b)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		q := draw()
		want, _ := ix.TopK(nil, q, 5)
		got, err := back.TopK(nil, q, 5)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v %v, want %v", got, err, want)
		}
	}
	if err := back.Add(9_999_999, draw()); err != nil || back.Len() != n/2+1 {
		t.Errorf("it does not go on: %v", err)
	}
}

// slowly is a writer that changes the index whose snapshot it is given.
type slowly struct {
	bytes.Buffer
	change func()
}

func (s *slowly) Write(b []byte) (int, error) {
	s.change()
	return s.Buffer.Write(b)
}

func TestSnapshotIsOfOneMoment(t *testing.T) {
	const n, dims = 1200, 16
	rng := rand.New(rand.NewPCG(8, 2))
	ix, then := New(dims), make(map[uint64][]float32)
	for id := range uint64(n) {
		then[id] = randomOf(rng, dims)
		ix.Add(id, then[id])
	}
	w := &slowly{change: func() { // while the snapshot is written
		for range 150 {
			if id := rng.Uint64N(n); rng.IntN(2) == 0 {
				ix.Add(id, randomOf(rng, dims))
			} else {
				ix.Remove(id)
			}
		}
	}}
	if err := ix.Snapshot(w); err != nil {
		t.Fatal(err)
	}
	back, err := Load(w)
	if err != nil || back.Len() != n {
		t.Fatalf("%v", err)
	}
	for id, v := range then {
		if hits, err := back.Search(nil, v, 1-1e-5, 1); err != nil || len(hits) != 1 || hits[0].ID != id {
			t.Fatalf("%d is found as %v %v", id, hits, err)
		}
	}
	places := ix.nodes
	for range 3 * limboMost {
		ix.Add(rng.Uint64N(n), randomOf(rng, dims))
	}
	if ix.nodes > places+limboMost {
		t.Errorf("places are not used again: %d of %d", ix.nodes, places)
	}
}

func TestSearchAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("pools drop what they are given")
	}
	rng := rand.New(rand.NewPCG(5, 2))
	draw := grouped(rng, 64, 20)
	ix := New(64)
	for id := range uint64(1000) {
		ix.Add(id, draw())
	}
	q := draw()
	dst := make([]index.Hit, 0, 16)
	if n := testing.AllocsPerRun(200, func() { dst, _ = ix.TopK(dst[:0], q, 10) }); n != 0 {
		t.Errorf("%v allocations per search", n)
	}
}

// TestChangesBesideSearches holds what each goroutine knows of its own vectors against
// what it finds, while the others change the graph.
func TestChangesBesideSearches(t *testing.T) {
	const goroutines, each, dims = 4, 60, 80
	rounds := 1500
	if testing.Short() {
		rounds = 300
	}
	ix := NewWith(dims, Options{Build: 40, Search: 40})
	var wg sync.WaitGroup
	for g := range uint64(goroutines) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 8))
			mine := make(map[uint64][]float32)
			missed := 0
			for round := range rounds {
				id := g*1000 + rng.Uint64N(each)
				switch v := mine[id]; {
				case v == nil || rng.IntN(3) == 0: // add, or replace
					v = randomOf(rng, dims)
					if err := ix.Add(id, v); err != nil {
						t.Error(err)
					}
					mine[id] = v
				case rng.IntN(2) == 0:
					if !ix.Remove(id) {
						t.Errorf("%d is not there", id)
					}
					delete(mine, id)
				default:
					hits, err := ix.Search(nil, v, 1-1e-5, 3)
					if err != nil || len(hits) > 1 || len(hits) == 1 && hits[0].ID != id {
						t.Errorf("%d is found as %v %v", id, hits, err)
					}
					missed += 1 - len(hits)
				}
				hits, _ := ix.TopK(nil, randomOf(rng, dims), 10)
				for i, h := range hits {
					if h.ID/1000 == g && mine[h.ID] == nil {
						t.Errorf("round %d: %d has been removed", round, h.ID)
					}
					if slices.ContainsFunc(hits[:i], func(other index.Hit) bool { return other.ID == h.ID }) {
						t.Errorf("%d is found twice", h.ID)
					}
				}
			}
			if missed > rounds/100 {
				t.Errorf("%d of %d rounds did not find a vector by itself", missed, rounds)
			}
		})
	}
	wg.Wait()
	if ix.nodes > goroutines*each+2*limboMost {
		t.Errorf("%d places for at most %d vectors", ix.nodes, goroutines*each)
	}
}

func randomOf(rng *rand.Rand, dims int) []float32 {
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

func TestRotationKeepsDotProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 2))
	for _, dims := range []int{1, 2, 63, 64, 65, 100, 128, 384, 768, 1000} {
		r := newRotation(dims, 5)
		a, b := make([]float32, r.size), make([]float32, r.size)
		v, w := randomOf(rng, dims), randomOf(rng, dims)
		copy(a, v)
		copy(b, w)
		r.turn(a)
		r.turn(b)
		if got, want := vec.Dot(a, b), vec.Dot(v, w); math.Abs(float64(got-want)) > 1e-4*float64(dims) {
			t.Errorf("%d dimensions: %v, want %v", dims, got, want)
		}
		for one := range dims { // one component becomes many of about equal size
			clear(a)
			a[one] = 1
			r.turn(a)
			if most := max(slices.Max(a), -slices.Min(a)); most > 6/float32(math.Sqrt(float64(r.size))) {
				t.Errorf("%d dimensions: component %d becomes one of %v", dims, one, most)
			}
		}
	}
}

func FuzzLoad(f *testing.F) {
	ix := New(3)
	rng := rand.New(rand.NewPCG(6, 2))
	for id := range uint64(40) {
		ix.Add(id, []float32{float32(rng.NormFloat64()), 1, float32(rng.NormFloat64())})
	}
	var b bytes.Buffer
	ix.Snapshot(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		ix, err := Load(bytes.NewReader(raw))
		if err != nil {
			return
		}
		q := make([]float32, ix.Dims())
		q[0] = 1
		ix.TopK(nil, q, 3)
		ix.Add(1, q)
	})
}
