package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
	"github.com/semcached/semcached/index/vec"
)

const (
	// batch is how many questions a system is asked before it is the next one's turn;
	// warmUp questions before them are asked and not counted, for the processor's caches
	// are full of the last one's data.
	batch, warmUp = 100, 20
	// passes is how often all questions are asked of fast systems.
	passes = 3
	// enoughRecall is the recall at which graphs are compared.
	enoughRecall = 0.99
)

// widths are those that a graph may be searched with.
var widths = []int{10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 44, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128,
	144, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024}

// row is a line of the table.
type row struct {
	Shape    vectors.Shape
	N, Dims  int
	System   string
	Question string // "hit", "miss", "hit k=10", "miss k=10"
	Width    int    // 0: none
	Recall   float64
	False    int // answers below the threshold; -1: it was not asked to keep to one
	P50, P99 time.Duration
	filled
	Allocs float64 // per question
}

// job is one line under measurement.
type job struct {
	system    system
	questions *vectors.Questions
	query     query
	count     int // questions
	passes    int
	warmUp    int
	row       row
	times     []time.Duration
	recall    float64
	asked     int
	allocs    uint64
}

// jobs are the lines of one system.
func jobs(s *vectors.Set, sys system, f filled, topk bool) (all []*job, err error) {
	graph := isGraph(sys)
	wide := query{k: 1, threshold: true}
	if graph {
		if wide.width, err = tune(s, sys, &s.Hits, wide); err != nil {
			return nil, err
		}
	}
	for _, q := range []*vectors.Questions{&s.Hits, &s.Misses} {
		kind := "hit"
		if q == &s.Misses {
			kind = "miss"
		}
		line := func(name string, how query) {
			j := &job{system: sys, questions: q, query: how, count: len(q.Vectors), passes: passes, warmUp: warmUp}
			if slow(sys, s) {
				j.count, j.passes, j.warmUp = min(j.count, max(50, 20_000_000/s.N)), 1, 1
			}
			j.row = row{Shape: s.Shape, N: s.N, Dims: s.Dims, System: sys.name(), Question: name, Width: how.width, filled: f}
			if _, own := sys.(*local); !own || !how.threshold {
				j.row.False = -1
			}
			all = append(all, j)
		}
		line(kind, wide)
		if topk && answersTopK(sys) {
			how := query{k: 10}
			if graph {
				if how.width, err = tune(s, sys, q, how); err != nil {
					return nil, err
				}
			}
			line(kind+" k=10", how)
		}
	}
	return all, nil
}

func isGraph(sys system) bool {
	l, own := sys.(*local)
	return !own || l.graph
}

// answersTopK says whether questions without a threshold are what a system is for.
func answersTopK(sys system) bool {
	l, own := sys.(*local)
	return !own || l.kind != "sketch" && l.kind != "flat"
}

// slow says whether a system compares everything.
func slow(sys system, s *vectors.Set) bool {
	l, own := sys.(*local)
	return own && l.kind == "flat" && s.N > 10_000
}

// tune returns the smallest width with which enough is found, or the largest.
func tune(s *vectors.Set, sys system, q *vectors.Questions, how query) (int, error) {
	var a answers
	for _, how.width = range widths {
		if how.width < how.k {
			continue
		}
		if err := sys.ask(how, q.Vectors, &a); err != nil {
			return 0, err
		}
		recall := 0.0
		for i, got := range a.rows {
			recall += s.Recall(q, i, how.k, got)
		}
		if recall >= enoughRecall*float64(len(q.Vectors)) {
			break
		}
	}
	return how.width, nil
}

// measure asks the questions of all jobs, a batch of each in turn.
func measure(s *vectors.Set, all []*job) ([]row, error) {
	most := 0
	for _, j := range all {
		most = max(most, j.count*j.passes)
	}
	for from := 0; from < most; from += batch {
		for _, j := range all {
			if from < j.count*j.passes {
				if err := j.batch(s, from); err != nil {
					return nil, err
				}
			}
		}
	}
	rows := make([]row, 0, len(all))
	for _, j := range all {
		rows = append(rows, j.done())
	}
	return rows, nil
}

// batch asks the questions from the from-th on, which begin anew with every pass.
func (j *job) batch(s *vectors.Set, from int) error {
	var a answers
	n := min(batch, j.count*j.passes-from)
	questions := make([][]float32, 0, j.warmUp+n)
	for i := from - j.warmUp; i < from+n; i++ {
		questions = append(questions, j.questions.Vectors[(i+j.count)%j.count])
	}
	if err := j.system.ask(j.query, questions, &a); err != nil {
		return err
	}
	j.times = append(j.times, a.times[j.warmUp:]...)
	j.allocs += a.allocs
	j.asked += len(questions)
	if from >= j.count {
		return nil // recall and false hits were counted in the first pass
	}
	for i, got := range a.rows[j.warmUp:] {
		at := (from + i) % j.count
		j.recall += j.answered(s, at, got)
		if j.row.False >= 0 {
			j.row.False += falseHits(s, j.questions.Vectors[at], got)
		}
	}
	return nil
}

// answered is the share of what was to be found that was. A miss at a threshold has
// nothing; who cannot be asked for a threshold is asked for the nearest then.
func (j *job) answered(s *vectors.Set, at int, got []int) float64 {
	if j.row.False >= 0 && j.questions.Truth[at][0].Score < vectors.Threshold {
		if len(got) == 0 {
			return 1
		}
		return 0
	}
	return s.Recall(j.questions, at, j.query.k, got)
}

// falseHits counts the rows that lie below the threshold, by a sum in another order than
// any index adds in.
func falseHits(s *vectors.Set, q []float32, got []int) (n int) {
	for _, row := range got {
		sum := 0.0
		for i, x := range s.Row(row) {
			sum += float64(x) * float64(q[i])
		}
		if sum/vec.Norm(q)/vec.Norm(s.Row(row)) < vectors.Threshold-1e-5 {
			n++
		}
	}
	return n
}

func (j *job) done() row {
	r := j.row
	r.Recall = j.recall / float64(j.count)
	r.P50, r.P99 = quantile(j.times, 0.5), quantile(j.times, 0.99)
	r.Allocs = float64(j.allocs) / float64(j.asked)
	return r
}

// quantile sorts the times.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[int(q*float64(len(times)-1))]
}

// head is the beginning of the table.
func head() string {
	cells := []string{"data", "n×dims", "index", "question", "p50 µs", "p99 µs", "recall", "false hits", "inserts/s", "bytes", "hot bytes", "allocations"}
	return "| " + strings.Join(cells, " | ") + " |\n|" + strings.Repeat("---|", len(cells)) + "\n"
}

func (r row) String() string {
	system := r.System
	if r.Width > 0 {
		system += fmt.Sprintf(" ef=%d", r.Width)
	}
	wrong, hot := "–", "–"
	if r.False >= 0 {
		wrong = fmt.Sprint(r.False)
	}
	if r.hot > 0 {
		hot = fmt.Sprintf("%.0f", r.hot)
	}
	return fmt.Sprintf("| %s | %d×%d | %s | %s | %.1f | %.1f | %.3f | %s | %.0f | %.0f | %s | %.1f |\n",
		r.Shape, r.N, r.Dims, system, r.Question, us(r.P50), us(r.P99), r.Recall, wrong, r.rate, r.bytes, hot, r.Allocs)
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
