// Package indextest is the conformance suite that every index.Index passes.
package indextest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/semcached/semcached/index"
)

// Config says what to test.
type Config struct {
	New  func(dims int) index.Index
	Load func(r io.Reader) (index.Index, error)
	// Exact: searches find everything that brute force finds. Otherwise
	// they may miss hits, but nothing more.
	Exact bool
	// MinRecall is the share of questions with an answer that get one, of an
	// index that is not exact.
	MinRecall float64
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	t.Run("EmptyAndSingle", c.emptyAndSingle)
	t.Run("UnusableVectors", c.unusableVectors)
	t.Run("ReplaceAndRemove", c.replaceAndRemove)
	t.Run("EqualVectors", c.equalVectors)
	t.Run("ThresholdBoundary", c.thresholdBoundary)
	t.Run("AppendsToDst", c.appendsToDst)
	t.Run("KeepsNoSlices", c.keepsNoSlices)
	t.Run("DeleteAllAndRefill", c.deleteAllAndRefill)
	t.Run("SortedOrder", c.sortedOrder)
	t.Run("DominatingDirection", c.dominatingDirection)
	t.Run("NearDuplicates", c.nearDuplicates)
	t.Run("AgainstBruteForce", c.againstBruteForce)
	t.Run("Concurrent", c.concurrent)
	t.Run("Snapshot", c.snapshot)
	t.Run("DamagedSnapshot", c.damagedSnapshot)
}

func search(t *testing.T, ix index.Index, q []float32, threshold float32, k int) []index.Hit {
	t.Helper()
	hits, err := ix.Search(nil, q, threshold, k)
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

func add(t *testing.T, ix index.Index, id uint64, v ...float32) {
	t.Helper()
	if err := ix.Add(id, v); err != nil {
		t.Fatal(err)
	}
}

func (c Config) emptyAndSingle(t *testing.T) {
	ix := c.New(3)
	if ix.Len() != 0 || ix.Dims() != 3 || ix.Remove(1) {
		t.Error("a new index is not empty")
	}
	if hits := search(t, ix, []float32{1, 0, 0}, 0, 5); len(hits) != 0 {
		t.Errorf("an empty index found %v", hits)
	}
	add(t, ix, 7, 0, 2, 0)
	hits := search(t, ix, []float32{0, 0.1, 0}, 1-1e-6, 5)
	if len(hits) != 1 || hits[0].ID != 7 || hits[0].Score < 1-1e-6 || hits[0].Score > 1 {
		t.Errorf("the stored vector itself: %v", hits)
	}
	for _, k := range []int{0, -1} {
		if hits := search(t, ix, []float32{0, 1, 0}, 0, k); len(hits) != 0 {
			t.Errorf("k=%d found %v", k, hits)
		}
	}
	if top, err := ix.TopK(nil, []float32{0, -1, 0}, 3); err != nil || len(top) != 1 || top[0].Score != -1 {
		t.Errorf("the opposite: %v %v", top, err)
	}
}

func (c Config) unusableVectors(t *testing.T) {
	ix := c.New(3)
	add(t, ix, 1, 1, 0, 0)
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range []struct {
		v    []float32
		want error
	}{
		{nil, index.ErrDimension}, {[]float32{1, 0}, index.ErrDimension}, {[]float32{1, 0, 0, 0}, index.ErrDimension},
		{[]float32{0, 0, 0}, index.ErrZeroVector}, {[]float32{1e-20, 0, 0}, index.ErrZeroVector},
		{[]float32{nan, 0, 1}, index.ErrNotFinite}, {[]float32{inf, 0, 0}, index.ErrNotFinite}, {[]float32{-inf, inf, 1}, index.ErrNotFinite},
	} {
		for _, id := range []uint64{1, 2} {
			if err := ix.Add(id, bad.v); !errors.Is(err, bad.want) {
				t.Errorf("add %v: %v, want %v", bad.v, err, bad.want)
			}
		}
		if hits, err := ix.Search(nil, bad.v, 0, 1); !errors.Is(err, bad.want) || len(hits) != 0 {
			t.Errorf("search %v: %v %v, want %v", bad.v, hits, err, bad.want)
		}
		if _, err := ix.TopK(nil, bad.v, 1); !errors.Is(err, bad.want) {
			t.Errorf("top k %v: %v, want %v", bad.v, err, bad.want)
		}
	}
	if hits := search(t, ix, []float32{1, 0, 0}, 0.99, 5); ix.Len() != 1 || len(hits) != 1 || hits[0].ID != 1 {
		t.Errorf("refused vectors changed the index: %d entries, %v", ix.Len(), hits)
	}
}

func (c Config) replaceAndRemove(t *testing.T) {
	ix := c.New(2)
	add(t, ix, 1, 1, 0)
	add(t, ix, 1, 0, 1)
	if hits := search(t, ix, []float32{1, 0}, 0.5, 5); len(hits) != 0 || ix.Len() != 1 {
		t.Errorf("the replaced vector is still found: %v", hits)
	}
	if hits := search(t, ix, []float32{0, 1}, 0.99, 5); len(hits) != 1 {
		t.Errorf("the new vector is not found: %v", hits)
	}
	if !ix.Remove(1) || ix.Remove(1) || ix.Len() != 0 {
		t.Error("remove does not report what was there")
	}
	if hits := search(t, ix, []float32{0, 1}, -1, 5); len(hits) != 0 {
		t.Errorf("a removed vector is found: %v", hits)
	}
	add(t, ix, 1, 1, 1)
	if hits := search(t, ix, []float32{1, 1}, 0.99, 5); len(hits) != 1 {
		t.Errorf("an ID cannot be used again: %v", hits)
	}
}

func (c Config) equalVectors(t *testing.T) {
	ix := c.New(2)
	for _, id := range []uint64{5, 3, 9, 1, 7} {
		add(t, ix, id, 0.6, 0.8)
	}
	hits := search(t, ix, []float32{3, 4}, 0.99, 3)
	if len(hits) == 0 || c.Exact && (len(hits) != 3 || hits[0].ID != 1 || hits[1].ID != 3 || hits[2].ID != 5) {
		t.Errorf("equal scores are not in the order of IDs: %v", hits)
	}
	if !slices.IsSortedFunc(hits, index.ByScore) {
		t.Errorf("hits are not sorted: %v", hits)
	}
}

func (c Config) thresholdBoundary(t *testing.T) {
	ix := c.New(2)
	add(t, ix, 1, 1, 0)
	q := []float32{0.8, 0.6}
	hits := search(t, ix, q, -1, 1)
	if len(hits) != 1 {
		t.Fatalf("found %v", hits)
	}
	at := hits[0].Score
	if got := search(t, ix, q, at, 1); len(got) != 1 || got[0].Score != at {
		t.Errorf("a score equal to the threshold is no hit: %v", got)
	}
	if got := search(t, ix, q, math.Nextafter32(at, 2), 1); len(got) != 0 {
		t.Errorf("a score below the threshold is a hit: %v", got)
	}
}

func (c Config) appendsToDst(t *testing.T) {
	ix := c.New(2)
	add(t, ix, 2, 0, 1)
	prefix := []index.Hit{{ID: 99, Score: -3}}
	hits, err := ix.Search(prefix, []float32{0, 1}, 0, 1)
	if err != nil || len(hits) != 2 || hits[0] != prefix[0] || hits[1].ID != 2 {
		t.Errorf("%v %v", hits, err)
	}
}

func (c Config) keepsNoSlices(t *testing.T) {
	ix := c.New(2)
	v, q := []float32{3, 4}, []float32{6, 8}
	add(t, ix, 1, v...)
	v = []float32{3, 4}
	if err := ix.Add(2, v); err != nil {
		t.Fatal(err)
	}
	search(t, ix, q, 0, 2)
	if v[0] != 3 || v[1] != 4 || q[0] != 6 || q[1] != 8 {
		t.Errorf("the caller's slices were changed: %v %v", v, q)
	}
	v[0], v[1] = -1, 0
	if hits := search(t, ix, q, 0.99, 2); len(hits) != 2 {
		t.Errorf("the index shares the caller's slice: %v", hits)
	}
}

func (c Config) deleteAllAndRefill(t *testing.T) {
	ix := c.New(8)
	rng := rand.New(rand.NewPCG(3, 3))
	for round := range 3 {
		for id := range uint64(200) {
			add(t, ix, id, randomVector(rng, 8)...)
		}
		for id := range uint64(200) {
			if !ix.Remove(id) {
				t.Fatalf("round %d: %d is not there", round, id)
			}
		}
		if hits := search(t, ix, randomVector(rng, 8), -1, 10); ix.Len() != 0 || len(hits) != 0 {
			t.Fatalf("round %d: %d left, found %v", round, ix.Len(), hits)
		}
	}
	if s := ix.Stats(); s.Entries != 0 || s.Tier == "" {
		t.Errorf("stats %+v", s)
	}
}

// sortedOrder adds vectors along a line, which makes degenerate graphs.
func (c Config) sortedOrder(t *testing.T) {
	ix := c.New(2)
	const n = 500
	for i := range n {
		a := float64(i) / n * math.Pi / 2
		add(t, ix, uint64(i), float32(math.Cos(a)), float32(math.Sin(a)))
	}
	found := 0
	for i := range n {
		a := float64(i) / n * math.Pi / 2
		if hits := search(t, ix, []float32{float32(math.Cos(a)), float32(math.Sin(a))}, 1-1e-6, 5); len(hits) > 0 {
			found++
		}
	}
	if c.Exact && found != n {
		t.Errorf("%d of %d stored vectors find themselves", found, n)
	}
}

// dominatingDirection adds vectors that differ little: nearly all of each is the same
// direction, and what is left comes in ascending order. Each must find something that is
// as near as itself, to three digits.
func (c Config) dominatingDirection(t *testing.T) {
	const n, dims = 1500, 16
	ix, ref := c.New(dims), make(map[uint64][]float32)
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range n {
		v := randomVector(rng, dims)
		for j := range v {
			v[j] *= 0.2 * float32(i+1) / n
		}
		v[0] = 1
		add(t, ix, uint64(i), v...)
		ref[uint64(i)] = v
	}
	found, asked := 0, 0
	for i := 0; i < n; i += 5 {
		threshold := float32(0.999)
		got := search(t, ix, ref[uint64(i)], threshold, 3)
		want := bruteForce(ref, ref[uint64(i)], threshold, 3)
		c.compare(t, ref, ref[uint64(i)], threshold, got, want)
		asked, found = asked+1, found+min(1, len(got))
	}
	c.enough(t, found, asked)
}

// nearDuplicates adds each vector several times, with and without the last bit changed,
// and removes some of the copies: those that are left must be found.
func (c Config) nearDuplicates(t *testing.T) {
	const originals, copies, dims = 150, 6, 24
	ix, ref := c.New(dims), make(map[uint64][]float32)
	rng := rand.New(rand.NewPCG(6, 6))
	vectors := make([][]float32, originals)
	for i := range vectors {
		vectors[i] = randomVector(rng, dims)
		for copy := range copies {
			v := slices.Clone(vectors[i])
			if copy%2 == 1 {
				v[copy] = math.Nextafter32(v[copy], 10)
			}
			id := uint64(copy*originals + i)
			add(t, ix, id, v...)
			ref[id] = v
		}
	}
	for i := range originals {
		for copy := range copies - 1 - i%2 {
			id := uint64(copy*originals + i)
			if !ix.Remove(id) {
				t.Fatalf("%d is not there", id)
			}
			delete(ref, id)
		}
	}
	found, asked := 0, 0
	for _, v := range vectors {
		got := search(t, ix, v, 0.999, copies)
		want := bruteForce(ref, v, 0.999, copies)
		c.compare(t, ref, v, 0.999, got, want)
		asked, found = asked+len(want), found+len(got)
	}
	c.enough(t, found, asked)
}

// enough checks the share of answers that were found.
func (c Config) enough(t *testing.T, found, asked int) {
	t.Helper()
	least := c.MinRecall
	if c.Exact {
		least = 1
	}
	if t.Logf("%d of %d found", found, asked); float64(found) < least*float64(asked) {
		t.Errorf("%d of %d found, want a share of %v", found, asked, least)
	}
}

// againstBruteForce runs random operations on the index and on a map beside it.
func (c Config) againstBruteForce(t *testing.T) {
	ops := 100_000
	if testing.Short() {
		ops = 10_000
	}
	const dims, ids = 16, 300
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	ix, ref := c.New(dims), make(map[uint64][]float32)
	asked, found := 0, 0
	for range ops {
		id := uint64(rng.IntN(ids))
		switch op := rng.IntN(10); {
		case op < 4:
			v := randomVector(rng, dims)
			add(t, ix, id, v...)
			ref[id] = v
		case op < 6:
			_, want := ref[id]
			if got := ix.Remove(id); got != want {
				t.Fatalf("remove %d: %v, want %v", id, got, want)
			}
			delete(ref, id)
		default:
			q, threshold, k := nearSome(rng, ref, dims), rng.Float32(), 1+rng.IntN(6)
			got := search(t, ix, q, threshold, k)
			want := bruteForce(ref, q, threshold, k)
			c.compare(t, ref, q, threshold, got, want)
			asked, found = asked+min(1, len(want)), found+min(1, len(got))
		}
		if ix.Len() != len(ref) {
			t.Fatalf("%d entries, want %d", ix.Len(), len(ref))
		}
	}
	t.Logf("%d of %d questions with an answer got one", found, asked)
	if float64(found) < c.MinRecall*float64(asked) {
		t.Errorf("that is less than %v", c.MinRecall)
	}
}

// compare checks that got is right and, of an exact index, complete.
func (c Config) compare(t *testing.T, ref map[uint64][]float32, q []float32, threshold float32, got, want []index.Hit) {
	t.Helper()
	seen := make(map[uint64]bool)
	for _, h := range got {
		v, ok := ref[h.ID]
		if !ok || seen[h.ID] {
			t.Fatalf("hit %v: removed or twice", h)
		}
		seen[h.ID] = true
		if exact := cosine(q, v); math.Abs(float64(h.Score)-exact) > 1e-5 || h.Score < threshold {
			t.Fatalf("hit %v: the cosine is %v, the threshold %v", h, exact, threshold)
		}
	}
	if !slices.IsSortedFunc(got, index.ByScore) || len(got) > len(want)+1 {
		t.Fatalf("%v, want %v", got, want)
	}
	if !c.Exact {
		return
	}
	// Rounding may move a hit over the threshold or swap equals, no more.
	for i := range max(len(got), len(want)) {
		if i < len(got) && i < len(want) && math.Abs(float64(got[i].Score-want[i].Score)) < 1e-5 {
			continue
		}
		if (i < len(got) && got[i].Score > threshold+1e-5) || (i < len(want) && want[i].Score > threshold+1e-5) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

func bruteForce(ref map[uint64][]float32, q []float32, threshold float32, k int) []index.Hit {
	var hits []index.Hit
	for id, v := range ref {
		if s := float32(cosine(q, v)); s >= threshold {
			hits = append(hits, index.Hit{ID: id, Score: s})
		}
	}
	slices.SortFunc(hits, index.ByScore)
	return hits[:min(k, len(hits))]
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func randomVector(rng *rand.Rand, dims int) []float32 {
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

// nearSome returns a question near one of the stored vectors, or anywhere.
func nearSome(rng *rand.Rand, ref map[uint64][]float32, dims int) []float32 {
	q := randomVector(rng, dims)
	for _, v := range ref {
		for i := range q {
			q[i] = v[i] + q[i]*rng.Float32()*0.5
		}
		break
	}
	return q
}

// concurrent is for the race detector, and for what comes back meanwhile.
func (c Config) concurrent(t *testing.T) {
	ix := c.New(8)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 9))
			for range 500 {
				id := uint64(n*1000 + rng.IntN(50))
				if err := ix.Add(id, randomVector(rng, 8)); err != nil {
					t.Error(err)
				}
				if hits, err := ix.Search(nil, randomVector(rng, 8), 0.1, 4); err != nil || !slices.IsSortedFunc(hits, index.ByScore) {
					t.Error(hits, err)
				}
				if rng.IntN(3) == 0 {
					ix.Remove(id)
				}
				if rng.IntN(100) == 0 {
					if err := ix.Snapshot(io.Discard); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if s := ix.Stats(); s.Entries != ix.Len() {
		t.Errorf("stats %+v, length %d", s, ix.Len())
	}
	all, err := ix.TopK(nil, []float32{1, 0, 0, 0, 0, 0, 0, 0}, 1000)
	if err != nil || c.Exact && len(all) != ix.Len() || len(all) > ix.Len() {
		t.Errorf("%d of %d are there: %v", len(all), ix.Len(), err)
	}
	for i, h := range all {
		if slices.ContainsFunc(all[:i], func(o index.Hit) bool { return o.ID == h.ID }) {
			t.Errorf("%d is there twice", h.ID)
		}
	}
}

func (c Config) filled(t *testing.T, n, dims int) (index.Index, map[uint64][]float32) {
	rng := rand.New(rand.NewPCG(5, 5))
	ix, ref := c.New(dims), make(map[uint64][]float32)
	for range n {
		id, v := rng.Uint64(), randomVector(rng, dims)
		add(t, ix, id, v...)
		ref[id] = v
	}
	return ix, ref
}

func (c Config) snapshot(t *testing.T) {
	for _, n := range []int{0, 1, 3000} {
		ix, ref := c.filled(t, n, 12)
		var b bytes.Buffer
		if err := ix.Snapshot(&b); err != nil {
			t.Fatal(err)
		}
		back, err := c.Load(&b)
		if err != nil || back.Len() != n || back.Dims() != 12 {
			t.Fatalf("%d rows: %v", n, err)
		}
		found := 0
		for _, v := range ref {
			hits := search(t, back, v, 1-1e-5, 1)
			c.compare(t, ref, v, 1-1e-5, hits, bruteForce(ref, v, 1-1e-5, 1))
			if found++; found == 50 {
				break
			}
		}
	}
}

func (c Config) damagedSnapshot(t *testing.T) {
	ix, _ := c.filled(t, 40, 6)
	var b bytes.Buffer
	if err := ix.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	for cut := 0; cut < len(whole); cut += 1 + cut/50 {
		if _, err := c.Load(bytes.NewReader(whole[:cut])); !errors.Is(err, index.ErrCorrupt) {
			t.Fatalf("cut at %d: %v, want ErrCorrupt", cut, err)
		}
	}
	for at := range whole {
		bad := slices.Clone(whole)
		bad[at] ^= 1 << (at % 8)
		if _, err := c.Load(bytes.NewReader(bad)); !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrVersion) {
			t.Fatalf("bit flipped at %d: %v, want ErrCorrupt or ErrVersion", at, err)
		}
	}
	if _, err := c.Load(bytes.NewReader(append(slices.Clone(whole), 0))); !errors.Is(err, index.ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}
