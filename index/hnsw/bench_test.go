package hnsw

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/index"
)

// benchSize is how many vectors the benchmarks search among.
const benchSize = 10_000

// benchSet is a filled graph, and questions with their ten nearest.
type benchSet struct {
	ix        *Index
	more      func() []float32
	questions [][]float32
	truth     [][]index.Hit
}

var benchSets = map[string]func() benchSet{
	"data=groups/dims=384": sync.OnceValue(func() benchSet { return newBenchSet(384, 400) }),
	"data=groups/dims=768": sync.OnceValue(func() benchSet { return newBenchSet(768, 400) }),
	"data=spread/dims=384": sync.OnceValue(func() benchSet { return newBenchSet(384, benchSize) }),
}

func newBenchSet(dims, groups int) benchSet {
	draw := grouped(rand.New(rand.NewPCG(uint64(dims), 9)), dims, groups)
	s := benchSet{ix: New(dims), more: draw}
	flat := index.NewFlat(dims)
	for id := range uint64(benchSize) {
		v := draw()
		s.ix.Add(id, v)
		flat.Add(id, v)
	}
	for range 500 {
		q := draw()
		top, _ := flat.TopK(nil, q, 10)
		s.questions, s.truth = append(s.questions, q), append(s.truth, top)
	}
	return s
}

// recall is the share of the ten nearest that are found.
func (s benchSet) recall() float64 {
	var dst []index.Hit
	found := 0
	for j, q := range s.questions {
		dst, _ = s.ix.TopK(dst[:0], q, 10)
		for _, want := range s.truth[j] {
			if slices.ContainsFunc(dst, func(h index.Hit) bool { return h.ID == want.ID }) {
				found++
			}
		}
	}
	return float64(found) / float64(10*len(s.questions))
}

// BenchmarkTopK compares the walk on 4-bit vectors with the same walk on exact ones.
func BenchmarkTopK(b *testing.B) {
	for name, set := range benchSets {
		for _, ef := range []int{48, 128} {
			for _, impl := range []string{"int4", "float32"} {
				b.Run(fmt.Sprintf("%s/n=10k/k=10/ef=%d/impl=%s", name, ef, impl), func(b *testing.B) {
					s := set()
					s.ix.SetSearch(ef)
					s.ix.exact = impl == "float32"
					defer func() { s.ix.exact = false }()
					dst, i := make([]index.Hit, 0, 16), 0
					b.ReportAllocs()
					for b.Loop() {
						dst, _ = s.ix.TopK(dst[:0], s.questions[i%len(s.questions)], 10)
						i++
					}
					b.ReportMetric(s.recall(), "recall")
				})
			}
		}
	}
}

// BenchmarkEqualRecall compares the two walks, each with the smallest width that finds as
// much: walks on codes might need a wider one.
func BenchmarkEqualRecall(b *testing.B) {
	for name, set := range benchSets {
		for _, least := range []float64{0.9, 0.95, 0.98} {
			for _, impl := range []string{"int4", "float32"} {
				b.Run(fmt.Sprintf("%s/n=10k/k=10/recall=%v/impl=%s", name, least, impl), func(b *testing.B) {
					s := set()
					s.ix.exact = impl == "float32"
					defer func() { s.ix.exact = false }()
					width, found := 20, 0.0
					for ; width < 1000; width += max(2, width/20) {
						s.ix.SetSearch(width)
						if found = s.recall(); found >= least {
							break
						}
					}
					dst, i := make([]index.Hit, 0, 16), 0
					for b.Loop() {
						dst, _ = s.ix.TopK(dst[:0], s.questions[i%len(s.questions)], 10)
						i++
					}
					b.ReportMetric(float64(width), "width")
					b.ReportMetric(found, "recall")
				})
			}
		}
	}
}

// BenchmarkThreads shows what a second thread adds: compare -cpu 1,2.
func BenchmarkThreads(b *testing.B) {
	s := benchSets["data=groups/dims=384"]()
	s.ix.SetSearch(128)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]index.Hit, 0, 16)
		for i := rand.IntN(len(s.questions)); pb.Next(); i++ {
			dst, _ = s.ix.TopK(dst[:0], s.questions[i%len(s.questions)], 10)
		}
	})
}

// BenchmarkBesideChanges measures searches while a thousand vectors a second are added
// and as many removed.
func BenchmarkBesideChanges(b *testing.B) {
	for _, changes := range []int{0, 1000} {
		b.Run(fmt.Sprintf("changes=%d/s", changes), func(b *testing.B) {
			s := benchSets["data=groups/dims=384"]()
			s.ix.SetSearch(128)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			made := 0
			if changes > 0 {
				wg.Go(func() {
					tick := time.NewTicker(time.Second / time.Duration(changes))
					defer tick.Stop()
					for id := uint64(benchSize); ; id++ {
						select {
						case <-stop:
							return
						case <-tick.C:
							s.ix.Add(id, s.more())
							s.ix.Remove(id - 500)
							made++
						}
					}
				})
			}
			dst, times, i := make([]index.Hit, 0, 16), make([]time.Duration, 0, b.N), 0
			for b.Loop() {
				start := time.Now()
				dst, _ = s.ix.TopK(dst[:0], s.questions[i%len(s.questions)], 10)
				times = append(times, time.Since(start))
				i++
			}
			close(stop)
			wg.Wait()
			b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "changes/s")
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1000, "p99-µs")
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	s := benchSets["data=groups/dims=384"]()
	id := uint64(1 << 20)
	for b.Loop() {
		s.ix.Add(id, s.more())
		id++
	}
}

func BenchmarkReplace(b *testing.B) {
	s := benchSets["data=groups/dims=384"]()
	i := uint64(0)
	for b.Loop() {
		s.ix.Add(i%benchSize, s.more())
		i++
	}
}

func BenchmarkLoad(b *testing.B) {
	s := benchSets["data=groups/dims=384"]()
	var snapshot bytes.Buffer
	if err := s.ix.Snapshot(&snapshot); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Load(bytes.NewReader(snapshot.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(s.ix.Len()), "ns/vector")
}
