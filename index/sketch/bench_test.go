package sketch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
)

// embeddings draws vectors like those of text encoders: a common mean with three
// tenths of the energy and some thousand groups of uneven size.
func embeddings(rng *rand.Rand, dims int) func() []float32 {
	return clusters(rng, dims, 4000, 0.8, 0.75)
}

const benchThreshold = 0.92

// BenchmarkThreshold asks for the nearest vector at or above a cosine of 0.92, half of
// the time where there is one (hit) and half where there is none (miss). recall is the
// share of hits whose true nearest vector was found.
func BenchmarkThreshold(b *testing.B) {
	const dims = 384
	sizes := []int{1_000, 10_000, 100_000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		rng := rand.New(rand.NewPCG(3, uint64(n)))
		draw := embeddings(rng, dims)
		rows := make([][]float32, n)
		for i := range rows {
			rows[i] = unit(draw())
		}
		hits, misses := make([][]float32, 500), make([][]float32, 500)
		for i := range hits {
			hits[i] = at(rows[rng.IntN(n)], normal(rng, dims, 1), 0.93+0.06*rng.Float64())
			misses[i] = draw()
		}
		exact := filled(index.NewFlat(dims), rows)
		rivals := map[string]index.Index{"sketch": filled(New(dims), rows), "flat": exact}
		if n <= 10_000 { // it takes minutes beyond
			rivals["rival-coder-hnsw"] = filled(coder.New(dims), rows)
		}
		for _, name := range []string{"sketch", "flat", "rival-coder-hnsw"} {
			ix := rivals[name]
			if ix == nil {
				continue
			}
			for kind, questions := range map[string][][]float32{"hit": hits, "miss": misses} {
				b.Run(fmt.Sprintf("n=%d/kind=%s/impl=%s", n, kind, name), func(b *testing.B) {
					dst := make([]index.Hit, 0, 8)
					i := 0
					b.ReportAllocs()
					for b.Loop() {
						dst, _ = ix.Search(dst[:0], questions[i%len(questions)], benchThreshold, 1)
						i++
					}
					b.ReportMetric(recall(ix, exact, questions), "recall")
				})
			}
		}
	}
}

func filled(ix index.Index, rows [][]float32) index.Index {
	for id, v := range rows {
		if err := ix.Add(uint64(id), v); err != nil {
			panic(err)
		}
	}
	return ix
}

// recall compares answers with those of an exact scan; where there is nothing to be
// found it is 1.
func recall(ix, exact index.Index, questions [][]float32) float64 {
	found, wanted := 0.0, 0.0
	for _, q := range questions[:min(200, len(questions))] {
		want, _ := exact.Search(nil, q, benchThreshold, 1)
		if len(want) == 0 {
			continue
		}
		wanted++
		if got, _ := ix.Search(nil, q, benchThreshold, 1); len(got) == 1 && got[0].ID == want[0].ID {
			found++
		}
	}
	if wanted == 0 {
		return 1
	}
	return math.Round(1000*found/wanted) / 1000
}

func BenchmarkAdd(b *testing.B) {
	const dims = 384
	for name, make := range map[string]func() index.Index{"impl=sketch": func() index.Index { return New(dims) }, "impl=flat": func() index.Index { return index.NewFlat(dims) }} {
		b.Run(name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 1))
			draw := embeddings(rng, dims)
			rows := [256][]float32{}
			for i := range rows {
				rows[i] = draw()
			}
			ix := make()
			id := uint64(0)
			for b.Loop() {
				ix.Add(id%20_000, rows[id%256])
				id++
			}
		})
	}
}
