package main

import (
	"fmt"
	"io"
	"math"

	"github.com/semcached/semcached/bench/index/vectors"
)

// goals compares what was measured with what was set out to be reached.
type goals struct {
	rows   []row
	beyond []beyond
	w      io.Writer
}

func (g goals) write() {
	fmt.Fprint(g.w, "\n| goal | wanted | measured | met |\n|---|---|---|---|\n")
	g.threshold()
	g.million()
	g.topTen()
	g.memory()
	g.writing()
	g.sharing()
	g.loading()
}

// line writes one goal: measured must be at least, or with a negative sign at most, what
// is wanted, and ok hold as well. NaN: not measured.
func (g goals) line(goal string, measured float64, bound float64, format string, ok bool, remark string) {
	text, met, sign := "not measured", "–", "≥"
	if bound < 0 {
		bound, sign = -bound, "≤"
	}
	if !math.IsNaN(measured) {
		text, met = fmt.Sprintf(format, measured)+remark, "no"
		if ok && (sign == "≥" && measured >= bound || sign == "≤" && measured <= bound) {
			met = "yes"
		}
	}
	fmt.Fprintf(g.w, "| %s | %s "+format+" | %s | %s |\n", goal, sign, bound, text, met)
}

// find returns a row of the table.
func (g goals) find(system string, shape vectors.Shape, n, dims int, question string) (row, bool) {
	for _, r := range g.rows {
		if r.System == system && r.Shape == shape && r.N == n && r.Dims == dims && r.Question == question {
			return r, true
		}
	}
	return row{}, false
}

const (
	ourSketch, ourGraph, anchor = "**sketch**", "**hnsw**", "hnswlib"
)

// threshold: lookups against hnswlib at a recall of 0.99.
func (g goals) threshold() {
	for _, c := range []struct {
		shape         vectors.Shape
		n, dims       int
		times, recall float64
	}{
		{vectors.Clustered, 10_000, 384, 6, 1}, {vectors.MeanHeavy, 10_000, 384, 6, 1}, {vectors.None, 10_000, 384, 6, 1},
		{vectors.Clustered, 100_000, 384, 10, 0.995}, {vectors.Clustered, 100_000, 768, 10, 0.995},
		{vectors.None, 100_000, 384, 4, 1}, {vectors.None, 100_000, 768, 4, 1},
	} {
		for _, kind := range []string{"hit", "miss"} {
			ours, ok := g.find(ourSketch, c.shape, c.n, c.dims, kind)
			theirs, there := g.find(anchor, c.shape, c.n, c.dims, kind)
			ratio := math.NaN()
			if ok && there {
				ratio = us(theirs.P50) / us(ours.P50)
			}
			name := fmt.Sprintf("%s %d×%d, %s: times faster than hnswlib, recall %.3f, no false hit", c.shape, c.n, c.dims, kind, c.recall)
			g.line(name, ratio, c.times, "%.1f", ours.Recall >= c.recall && ours.False == 0,
				fmt.Sprintf(" (%.1f µs for %.1f, recall %.3f, %d false)", us(ours.P50), us(theirs.P50), ours.Recall, ours.False))
		}
	}
}

func (g goals) million() {
	for _, kind := range []string{"hit", "miss"} {
		r, ok := g.find(ourSketch, vectors.Clustered, 1_000_000, 384, kind)
		p50, tail := math.NaN(), math.NaN()
		if ok {
			p50, tail = us(r.P50), us(r.P99)/us(r.P50)
		}
		g.line("clustered 1000000×384, "+kind+": p50 in µs", p50, -60, "%.1f", true, fmt.Sprintf(" (recall %.3f, %.0f bytes per vector)", r.Recall, r.bytes))
		g.line("clustered 1000000×384, "+kind+": p99 / p50", tail, -4, "%.1f", true, "")
	}
}

func (g goals) topTen() {
	for _, dims := range []int{384, 768} {
		for _, kind := range []string{"hit k=10", "miss k=10"} {
			ours, ok := g.find(ourGraph, vectors.Clustered, 100_000, dims, kind)
			theirs, there := g.find(anchor, vectors.Clustered, 100_000, dims, kind)
			ratio := math.NaN()
			if ok && there {
				ratio = us(theirs.P50) / us(ours.P50)
			}
			g.line(fmt.Sprintf("clustered 100000×%d, %s: times faster than hnswlib at recall %.2f", dims, kind, enoughRecall), ratio, 3, "%.1f",
				ours.Recall >= enoughRecall && theirs.Recall >= enoughRecall,
				fmt.Sprintf(" (%.1f µs at %.3f for %.1f at %.3f)", us(ours.P50), ours.Recall, us(theirs.P50), theirs.Recall))
		}
	}
}

func (g goals) memory() {
	allocs := -1.0
	for _, r := range g.rows {
		if r.System == ourSketch || r.System == ourGraph {
			allocs = max(r.Allocs, allocs)
		}
	}
	if allocs < 0 {
		allocs = math.NaN()
	}
	g.line("allocations per lookup of ours, the most", allocs, -0.1, "%.1f", true, "")
	for _, c := range []struct {
		system string
		bytes  float64
	}{{ourSketch, 120}, {ourGraph, 650}} {
		hot := math.NaN()
		if r, ok := g.find(c.system, vectors.Clustered, 100_000, 384, "hit"); ok && r.hot > 0 {
			hot = r.hot
		}
		g.line("clustered 100000×384, "+c.system+": hot bytes per vector", hot, -c.bytes, "%.0f", true, "")
	}
}

func (g goals) writing() {
	for _, c := range []struct {
		system string
		n      int
		times  float64
	}{{ourSketch, 10_000, 100}, {ourSketch, 100_000, 100}, {ourGraph, 10_000, 1}, {ourGraph, 100_000, 1}} {
		ours, ok := g.find(c.system, vectors.Clustered, c.n, 384, "hit")
		theirs, there := g.find(anchor, vectors.Clustered, c.n, 384, "hit")
		ratio, rate := math.NaN(), ours.rate
		if ours.whole > 0 {
			rate = min(ours.rate, ours.whole)
		}
		if ok && there {
			ratio = rate / theirs.rate
		}
		g.line(fmt.Sprintf("clustered %d×384, %s: inserts/s, times hnswlib's", c.n, c.system), ratio, c.times, "%.1f", true, fmt.Sprintf(" (%.0f/s for %.0f)", rate, theirs.rate))
	}
	small, ok := g.other(ourSketch, 10_000)
	large, there := g.other(ourSketch, 100_000)
	ratio := math.NaN()
	if ok && there {
		ratio = us(large.remove) / us(small.remove)
	}
	// A hundred thousand vectors do not fit the caches that ten thousand fit, so O(1) is not 1.
	g.line("sketch: delete, 100000 beside 10000 vectors", ratio, -3, "%.1f", true, fmt.Sprintf(" (%.2f µs for %.2f)", us(large.remove), us(small.remove)))
}

func (g goals) other(system string, n int) (beyond, bool) {
	for _, b := range g.beyond {
		if b.system == system && b.n == n {
			return b, true
		}
	}
	return beyond{}, false
}

func (g goals) sharing() {
	for _, system := range []string{ourSketch, ourGraph} {
		for _, n := range []int{10_000, 100_000} {
			b, ok := g.other(system, n)
			tail, threads, bound := math.NaN(), math.NaN(), 1.8
			if ok {
				tail = b.beside.worst()
				if b.processor >= 1.8 { // else something else runs, and two threads tell nothing
					threads, bound = b.two/b.one, 1.8/2*b.processor
				}
			}
			name := fmt.Sprintf("clustered %d×384, %s: ", n, system)
			g.line(name+"p99 / p50 beside 1,000 inserts/s", tail, -3, "%.1f", b.inserts > 0.95*insertsBeside,
				fmt.Sprintf(" (%s µs at %.0f inserts/s; %.1f without; spin %.1f and %.1f)",
					b.beside, b.inserts, b.alone.worst(), us(b.beside.spin[1])/us(b.beside.spin[0]), us(b.alone.spin[1])/us(b.alone.spin[0])))
			g.line(name+"two threads, times one, of what the processor gives", threads, bound, "%.2f", true, fmt.Sprintf(" (of ×%.2f)", b.processor))
		}
	}
}

func (g goals) loading() {
	for _, system := range []string{ourSketch, ourGraph} {
		seconds := math.NaN()
		if b, ok := g.other(system, 100_000); ok {
			seconds = b.snapshot.Seconds()
		}
		g.line("clustered 100000×384, "+system+": load from a snapshot, s", seconds, -0.5, "%.2f", true, "")
	}
	rows, million := math.NaN(), math.NaN()
	if b, ok := g.other(ourSketch, 100_000); ok {
		rows = b.rows.Seconds()
	}
	if b, ok := g.other(ourSketch, 1_000_000); ok {
		million = b.snapshot.Seconds()
	}
	g.line("clustered 100000×384, "+ourSketch+": load from rows, s", rows, -1, "%.2f", true, "")
	g.line("clustered 1000000×384, "+ourSketch+": load from a snapshot, s", million, -3, "%.2f", true, "")
}
