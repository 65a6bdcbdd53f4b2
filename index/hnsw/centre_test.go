package hnsw

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

// alike draws vectors that differ little: a common direction, and a hundredth of the energy
// about it.
func alike(rng *rand.Rand, dims, direction int) func() []float32 {
	return func() []float32 {
		v := randomOf(rng, dims)
		for i := range v {
			v[i] *= float32(0.1 / math.Sqrt(float64(dims)))
		}
		v[direction] += 1
		return v
	}
}

func TestVectorsThatAreAllAlikeAreTold(t *testing.T) {
	const n, dims = 1000, 96
	rng := rand.New(rand.NewPCG(11, 2))
	draw := alike(rng, dims, 5)
	ix, flat := NewWith(dims, Options{Build: 60}), index.NewFlat(dims)
	for id := range uint64(n) {
		v := draw()
		ix.Add(id, v)
		flat.Add(id, v)
	}
	ix.SetSearch(40)
	if r := recallOf(t, ix, flat, draw, 5); r < 0.9 {
		t.Errorf("recall %v", r)
	}
}

// TestCentreFollowsTheVectors replaces what is there by vectors that are about another mean,
// while others search, and compares what codes say with the exact similarities.
func TestCentreFollowsTheVectors(t *testing.T) {
	const n, dims = 200, 96
	rng := rand.New(rand.NewPCG(12, 2))
	ix, last := NewWith(dims, Options{Build: 40}), make([][]float32, n)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(13, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			hits, err := ix.TopK(nil, alike(rng, dims, rng.IntN(3))(), 5)
			if err != nil || !slices.IsSortedFunc(hits, index.ByScore) {
				t.Errorf("%v %v", hits, err)
			}
		}
	})
	for direction := range 3 {
		draw := alike(rng, dims, direction)
		for range 2 { // the mean is looked at before all have been replaced
			for id := range last {
				last[id] = draw()
				ix.Add(uint64(id), last[id])
			}
		}
		if ix.centre[direction] < 0.9 {
			t.Errorf("the centre is %v in direction %d", ix.centre[direction], direction)
		}
		if e := errorOfCodes(ix, last); e > 0.001 { // without a centre 0.004 and more
			t.Errorf("codes are wrong by %v", e)
		}
	}
	close(stop)
	wg.Wait()

	var b bytes.Buffer
	if err := ix.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Load(&b)
	if err != nil {
		t.Fatal(err)
	}
	if e := errorOfCodes(back, last); e > 0.001 {
		t.Errorf("after a snapshot, codes are wrong by %v", e)
	}
}

// errorOfCodes is the largest difference between a similarity by codes and the exact one,
// of each vector and the first. ix must have n vectors, IDs from 0.
func errorOfCodes(ix *Index, vectors [][]float32) (worst float64) {
	s := new(scratch)
	if s.q.set(ix, vectors[0]) != nil {
		return math.Inf(1)
	}
	s.q.ask(ix, ix.centre)
	for id := range vectors {
		node := ix.at[uint64(id)]
		score := ix.compare(&s.q, s, []uint32{node})[0]
		worst = max(worst, math.Abs(float64(score-vec.Dot(s.q.unit, ix.row(node)))))
	}
	return worst
}

func TestTheCentreItselfIsThere(t *testing.T) {
	const dims = 96
	rng := rand.New(rand.NewPCG(14, 2))
	ix := New(dims)
	v := randomOf(rng, dims)
	for id := range uint64(3 * leastMean) {
		ix.Add(id, v)
	}
	hits, err := ix.TopK(nil, v, 3*leastMean)
	if err != nil || len(hits) < leastMean || hits[0].Score < 1-1e-6 {
		t.Errorf("%d of %d equal vectors are found: %v", len(hits), 3*leastMean, err)
	}
}
