package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/index/indextest"
)

func TestFlatConforms(t *testing.T) {
	indextest.Run(t, indextest.Config{
		New:   func(dims int) index.Index { return index.NewFlat(dims) },
		Load:  func(r io.Reader) (index.Index, error) { return index.LoadFlat(r) },
		Exact: true,
	})
}

func TestFlatSearchAllocatesNothing(t *testing.T) {
	ix := index.NewFlat(64)
	v := make([]float32, 64)
	for id := range uint64(100) {
		v[id%64]++
		if err := ix.Add(id, v); err != nil {
			t.Fatal(err)
		}
	}
	dst := make([]index.Hit, 0, 8)
	if n := testing.AllocsPerRun(100, func() { dst, _ = ix.Search(dst[:0], v, 0, 8) }); n != 0 {
		t.Errorf("%v allocations per search", n)
	}
}

func TestSmallFlatIsSmall(t *testing.T) {
	ix := index.NewFlat(384)
	v := make([]float32, 384)
	v[0] = 1
	for id := range uint64(10) {
		ix.Add(id, v)
	}
	if s := ix.Stats(); s.Bytes > 12*(4*384+32) {
		t.Errorf("10 vectors hold %d bytes", s.Bytes)
	}
}

func FuzzLoadFlat(f *testing.F) {
	ix := index.NewFlat(2)
	ix.Add(1, []float32{1, 2})
	var b bytes.Buffer
	ix.Snapshot(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		ix, err := index.LoadFlat(bytes.NewReader(raw))
		if err == nil {
			ix.TopK(nil, make([]float32, ix.Dims()), 3)
		} else if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrVersion) {
			t.Fatalf("unnamed error %v", err)
		}
	})
}

// BenchmarkSearch compares the flat scan with coder/hnsw on the same data: hits
// are stored vectors with noise (cosine about 0.95), misses are unrelated.
func BenchmarkSearch(b *testing.B) {
	for _, dims := range []int{384, 768} {
		for _, n := range []int{1_000, 10_000} {
			rng := rand.New(rand.NewPCG(1, uint64(dims)))
			rows := make([][]float32, n)
			for i := range rows {
				rows[i] = gaussian(rng, dims)
			}
			for _, kind := range []string{"hit", "miss"} {
				queries := make([][]float32, 100)
				for i := range queries {
					queries[i] = gaussian(rng, dims)
					if kind == "hit" {
						for j, x := range rows[rng.IntN(n)] {
							queries[i][j] = x + 0.3*queries[i][j]
						}
					}
				}
				for name, ix := range map[string]index.Index{"flat": index.NewFlat(dims), "coder": coder.New(dims)} {
					b.Run(fmt.Sprintf("dims=%d/n=%d/query=%s/impl=%s", dims, n, kind, name), func(b *testing.B) {
						benchmarkSearch(b, ix, rows, queries)
					})
				}
			}
		}
	}
}

func benchmarkSearch(b *testing.B, ix index.Index, rows, queries [][]float32) {
	if testing.Short() && ix.Stats().Tier == "coder" && len(rows) > 1000 {
		b.Skip("takes long to build")
	}
	if ix.Len() == 0 {
		for id, v := range rows {
			if err := ix.Add(uint64(id), v); err != nil {
				b.Fatal(err)
			}
		}
	}
	dst := make([]index.Hit, 0, 8)
	found := 0
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dst, _ = ix.Search(dst[:0], queries[i%len(queries)], 0.9, 4)
		found += min(1, len(dst))
		i++
	}
	b.ReportMetric(float64(found)/float64(i), "found/op")
}

func gaussian(rng *rand.Rand, dims int) []float32 {
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}
