// Command index measures the indexes beside their rivals and prints one table:
//
//	go run ./bench/index [-n 10000,100000] [-dims 384] [-shapes clustered,mean-heavy,none] [-rivals coder,hnswlib]
//
// Data is generated from a fixed seed. A hit is a stored vector moved to a cosine of
// 0.93 to 0.99, a miss a fresh one; recall is against brute force. hnswlib is driven by
// hnswlib/driver.cpp, if a C++ compiler and its header (Debian: libhnswlib-dev) are there.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/index/hnsw"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/index/vec"
)

// threshold is the cosine from which a vector answers.
const threshold = 0.92

// questions is how many hits and misses are asked each.
const questions = 1000

func main() {
	sizes := flag.String("n", "10000,100000", "numbers of vectors")
	dims := flag.Int("dims", 384, "dimensions")
	shapes := flag.String("shapes", "clustered,mean-heavy,none", "kinds of data")
	rivals := flag.String("rivals", "coder,hnswlib", "rivals beside the flat scan")
	graph := flag.Bool("graph", true, "measure our own graph as well")
	flag.Parse()
	fmt.Printf("%s, %d cores used, %s/%s\n\n", runtime.Version(), 1, runtime.GOOS, runtime.GOARCH)
	fmt.Println("| data | n | index | question | recall | p50 µs | p99 µs | inserts/s | bytes/vector |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, shape := range strings.Split(*shapes, ",") {
		for _, size := range strings.Split(*sizes, ",") {
			n, err := strconv.Atoi(size)
			if err != nil {
				fmt.Fprintln(os.Stderr, "index: -n:", err)
				os.Exit(2)
			}
			measure(shape, n, *dims, *graph, *rivals)
		}
	}
}

// set is one kind of data with its questions and their true answers.
type set struct {
	shape        string
	n, dims      int
	rows         [][]float32
	hits, misses [][]float32
	truth        map[*[][]float32][][]index.Hit // the ten nearest of each question
}

func measure(shape string, n, dims int, graph bool, rivals string) {
	s := newSet(shape, n, dims)
	flat := index.NewFlat(dims)
	s.run("flat float32", flat, true)
	s.run("**sketch**", sketch.New(dims), true)
	if graph {
		s.graph()
	}
	if strings.Contains(rivals, "coder") && n <= 10_000 {
		s.run("coder/hnsw 0.6.1", coder.New(dims), true)
	}
	if strings.Contains(rivals, "hnswlib") {
		s.hnswlib()
	}
}

func newSet(shape string, n, dims int) *set {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(dims)))
	draw := source(shape, rng, dims)
	s := &set{shape: shape, n: n, dims: dims, truth: make(map[*[][]float32][][]index.Hit)}
	flat := index.NewFlat(dims)
	for id := range n {
		v := unit(draw())
		s.rows = append(s.rows, v)
		flat.Add(uint64(id), v)
	}
	for range questions {
		s.hits = append(s.hits, at(s.rows[rng.IntN(min(n, 10_000))], draw, rng, 0.93+0.06*rng.Float64()))
		for {
			v := unit(draw())
			if top, _ := flat.TopK(nil, v, 1); top[0].Score < threshold {
				s.misses = append(s.misses, v)
				break
			}
		}
	}
	for _, qs := range []*[][]float32{&s.hits, &s.misses} {
		for _, q := range *qs {
			top, _ := flat.TopK(nil, q, 10)
			s.truth[qs] = append(s.truth[qs], top)
		}
	}
	return s
}

// source returns a generator: groups of uneven size around a common mean that has 0.30
// (clustered) or 0.62 (mean-heavy) of the energy, or no groups at all.
func source(shape string, rng *rand.Rand, dims int) func() []float32 {
	gauss := func(size float64) []float32 {
		v := make([]float32, dims)
		for i := range v {
			v[i] = float32(rng.NormFloat64() * size)
		}
		return v
	}
	mean, groups := math.Sqrt(0.30/0.70), 4000
	switch shape {
	case "mean-heavy":
		mean = math.Sqrt(0.62 / 0.38)
	case "none":
		groups = 0
	}
	common := gauss(mean)
	centres := make([][]float32, groups)
	for i := range centres {
		centres[i] = gauss(0.8)
	}
	return func() []float32 {
		v := gauss(1)
		if groups > 0 {
			v = gauss(0.6)
			vec2(v, centres[int(float64(groups)*math.Pow(rng.Float64(), 3))], 1)
		}
		vec2(v, common, 1)
		return v
	}
}

// vec2 adds f times w to v.
func vec2(v, w []float32, f float32) {
	for i, x := range w {
		v[i] += f * x
	}
}

func unit(v []float32) []float32 {
	out := make([]float32, len(v))
	vec.Scale(out, v, 1/vec.Norm(v))
	return out
}

// at moves the unit vector x to a cosine of t, half towards another vector of the kind
// and half anywhere.
func at(x []float32, draw func() []float32, rng *rand.Rand, t float64) []float32 {
	d := unit(draw())
	for i := range d {
		d[i] += float32(rng.NormFloat64()) / float32(math.Sqrt(float64(len(d))))
	}
	vec2(d, x, -vec.Dot(d, x))
	d = unit(d)
	out := make([]float32, len(x))
	vec2(out, x, float32(t))
	vec2(out, d, float32(math.Sqrt(1-t*t)))
	return out
}

// run measures threshold lookups of an index that it fills first.
func (s *set) run(name string, ix index.Index, fill bool) {
	rate := s.fill(ix, fill)
	time.Sleep(time.Duration(s.n/10_000) * 500 * time.Millisecond) // lists are made in the background
	for kind, qs := range map[string]*[][]float32{"hit": &s.hits, "miss": &s.misses} {
		times, found, wrong := make([]time.Duration, 0, questions), 0, 0
		dst := make([]index.Hit, 0, 16)
		for i, q := range *qs {
			start := time.Now()
			dst, _ = ix.Search(dst[:0], q, threshold, 1)
			times = append(times, time.Since(start))
			best := s.truth[qs][i][0]
			switch {
			case best.Score < threshold && len(dst) == 0, len(dst) == 1 && dst[0].ID == best.ID:
				found++
			case len(dst) == 1 && dst[0].Score < threshold:
				wrong++
			}
		}
		if wrong > 0 {
			fmt.Fprintf(os.Stderr, "index: %s: %d false hits\n", name, wrong)
			os.Exit(1)
		}
		s.row(name, kind+" ≥ 0.92", float64(found)/questions, times, rate, ix.Stats().Bytes/int64(s.n))
	}
}

func (s *set) fill(ix index.Index, fill bool) (rate float64) {
	if !fill {
		return 0
	}
	start := time.Now()
	for id, v := range s.rows {
		if err := ix.Add(uint64(id), v); err != nil {
			panic(err)
		}
	}
	return float64(s.n) / time.Since(start).Seconds()
}

// graph measures k-nearest lookups of our graph at growing widths.
func (s *set) graph() {
	ix := hnsw.New(s.dims)
	rate := s.fill(ix, true)
	for _, k := range []int{1, 10} {
		for _, ef := range []int{16, 32, 64, 128} {
			if ef < 2*k {
				continue
			}
			ix.SetSearch(ef)
			for kind, qs := range map[string]*[][]float32{"hit": &s.hits, "miss": &s.misses} {
				times, found := make([]time.Duration, 0, questions), 0
				dst := make([]index.Hit, 0, 16)
				for i, q := range *qs {
					start := time.Now()
					dst, _ = ix.TopK(dst[:0], q, k)
					times = append(times, time.Since(start))
					for _, want := range s.truth[qs][i][:k] {
						if slices.ContainsFunc(dst, func(h index.Hit) bool { return h.ID == want.ID }) {
							found++
						}
					}
				}
				s.row(fmt.Sprintf("**hnsw** ef=%d", ef), fmt.Sprintf("%s, k=%d", kind, k), float64(found)/float64(questions*k), times, rate, ix.Stats().Bytes/int64(s.n))
			}
		}
	}
}

func (s *set) row(name, question string, recall float64, times []time.Duration, rate float64, bytes int64) {
	slices.Sort(times)
	us := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))].Nanoseconds()) / 1000 }
	fmt.Printf("| %s | %d×%d | %s | %s | %.3f | %.1f | %.1f | %.0f | %d |\n", s.shape, s.n, s.dims, name, question, recall, us(0.5), us(0.99), rate, bytes)
}

// hnswlib compiles and runs the C++ driver on the same data.
func (s *set) hnswlib() {
	_, file, _, _ := runtime.Caller(0)
	dir, err := os.MkdirTemp("", "semcached-bench")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "driver")
	if out, err := exec.Command("g++", "-O3", "-march=native", "-std=c++17", "-o", bin, filepath.Join(filepath.Dir(file), "hnswlib", "driver.cpp")).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "index: hnswlib is left out (%v)\n%.300s\n", err, out)
		return
	}
	var in bytes.Buffer
	number := func(n int) { binary.Write(&in, binary.LittleEndian, uint32(n)) }
	number(s.n)
	number(s.dims)
	number(questions)
	for _, v := range s.rows {
		binary.Write(&in, binary.LittleEndian, v)
	}
	for _, qs := range []*[][]float32{&s.hits, &s.misses} {
		for _, q := range *qs {
			binary.Write(&in, binary.LittleEndian, q)
		}
		for _, top := range s.truth[qs] {
			for _, h := range top {
				number(int(h.ID))
			}
		}
	}
	cmd := exec.Command(bin, s.shape)
	cmd.Stdin = &in
	cmd.Stdout, cmd.Stderr = io.Writer(os.Stdout), os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "index: hnswlib:", err)
	}
}
