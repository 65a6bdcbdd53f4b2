package main

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
)

// measured runs one small part and returns its rows by system and question.
func measured(t *testing.T, p part) (map[string]row, []beyond) {
	t.Helper()
	var out strings.Builder
	r := runner{rivals: newRivals(t.TempDir(), p.systems), systems: p.systems, pace: pace{20 * time.Millisecond, 200 * time.Millisecond}, out: &out}
	p.shape, p.n, p.dims, p.topk = vectors.Clustered, 600, 64, true
	if err := r.part(p); err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]row)
	for _, row := range r.rows {
		rows[row.System+" "+row.Question] = row
		if !strings.Contains(out.String(), row.String()) {
			t.Errorf("the table lacks %s", row)
		}
	}
	return rows, r.beyond
}

func TestTheTableSaysWhatIsFound(t *testing.T) {
	rows, more := measured(t, part{systems: []string{"flat", "sketch", "hnsw"}, beyond: true})
	for _, want := range []string{"flat float32 hit", "flat float32 miss", "**sketch** hit", "**sketch** miss", "**hnsw** hit", "**hnsw** miss", "**hnsw** hit k=10", "**hnsw** miss k=10"} {
		r, ok := rows[want]
		if !ok {
			t.Errorf("no row of %s", want)
			continue
		}
		if r.Recall < enoughRecall || r.False > 0 || r.P50 <= 0 || r.P99 < r.P50 || r.rate <= 0 || r.bytes < 4*64 {
			t.Errorf("%s: %s", want, r)
		}
	}
	if len(more) != 2 {
		t.Fatalf("%d lines beyond lookups, want those of sketch and hnsw", len(more))
	}
	for _, b := range more {
		if b.one <= 0 || b.two <= 0 || b.inserts <= 0 || b.processor <= 0 || b.beside.worst() < 1 || b.alone.worst() < 1 || b.remove <= 0 || b.snapshot <= 0 || (b.system == ourSketch) != (b.rows > 0) {
			t.Errorf("something was not measured: %s", b)
		}
	}
}

func TestGoalsAreMetOrNot(t *testing.T) {
	fast := row{Shape: vectors.Clustered, N: 10_000, Dims: 384, System: ourSketch, Question: "hit", Recall: 1, P50: 5 * time.Microsecond, filled: filled{rate: 2e5, whole: 1e5}}
	anchorRow := row{Shape: vectors.Clustered, N: 10_000, Dims: 384, System: anchor, Question: "hit", Recall: 0.99, P50: 35 * time.Microsecond, filled: filled{rate: 2000}}
	for name, c := range map[string]struct {
		change func(ours, theirs *row)
		line   string // its beginning
		met    string
	}{
		"met":            {func(_, _ *row) {}, "| clustered 10000×384, hit: times", "yes"},
		"too slow":       {func(ours, _ *row) { ours.P50 *= 2 }, "| clustered 10000×384, hit: times", "no"},
		"misses":         {func(ours, _ *row) { ours.Recall = 0.999 }, "| clustered 10000×384, hit: times", "no"},
		"wrong":          {func(ours, _ *row) { ours.False = 1 }, "| clustered 10000×384, hit: times", "no"},
		"not there":      {func(_, theirs *row) { theirs.N = 1 }, "| clustered 10000×384, hit: times", "–"},
		"allocates":      {func(ours, _ *row) { ours.Allocs = 1 }, "| allocations", "no"},
		"no allocations": {func(_, _ *row) {}, "| allocations", "yes"},
		"slow inserts":   {func(_, _ *row) {}, "| clustered 10000×384, **sketch**: inserts", "no"}, // 50 times, by the slower rate
		"fast inserts":   {func(ours, _ *row) { ours.whole = 3e5 }, "| clustered 10000×384, **sketch**: inserts", "yes"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := fast, anchorRow
			c.change(&ours, &theirs)
			var out strings.Builder
			goals{rows: []row{ours, theirs}, w: &out}.write()
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, c.line) {
					if !strings.HasSuffix(line, "| "+c.met+" |\n") {
						t.Errorf("want %q: %s", c.met, line)
					}
					return
				}
			}
			t.Errorf("no line %q in\n%s", c.line, out.String())
		})
	}
}

func TestARivalInItsOwnProcessAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the driver: ten seconds")
	}
	if _, err := exec.LookPath("g++"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("no g++")
	}
	rows, _ := measured(t, part{systems: []string{"hnswlib"}})
	if len(rows) == 0 {
		t.Skip("no header of hnswlib")
	}
	for name, r := range rows {
		// Its width is chosen for hits, misses may find less.
		if r.Recall < 0.9 || r.Recall < enoughRecall && r.Question != "miss" || r.P50 <= 0 || r.rate <= 0 || r.bytes < 4*64 || r.Allocs <= 0 {
			t.Errorf("%s: %s", name, r)
		}
	}
}

// liar answers every question with the first rows, wherever they lie.
type liar struct{ *local }

func (l liar) ask(q query, questions [][]float32, a *answers) error {
	err := l.local.ask(q, questions, a)
	for i := range a.rows {
		a.rows[i] = append(a.rows[i][:0], 0)
	}
	return err
}

func TestFalseHitsAndMissesAreCounted(t *testing.T) {
	s := vectors.New(vectors.Clustered, 300, 64, 100, 1)
	l := newLocal("flat")
	if _, err := l.fill(s); err != nil {
		t.Fatal(err)
	}
	for _, q := range []*vectors.Questions{&s.Hits, &s.Misses} {
		j := job{system: liar{l}, questions: q, query: query{k: 1, threshold: true}, count: 100, passes: 1}
		rows, err := measure(s, []*job{&j})
		if err != nil {
			t.Fatal(err)
		}
		right := 0
		for _, truth := range q.Truth {
			if truth[0].Row == 0 && truth[0].Score >= vectors.Threshold {
				right++
			}
		}
		if got := rows[0]; got.False != 100-right || got.Recall > float64(right)/100 {
			t.Errorf("%d false hits at recall %.2f, want %d at %.2f at most", got.False, got.Recall, 100-right, float64(right)/100)
		}
	}
}
