package main

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/semcached/semcached/bench/index/vectors"
)

// measured runs one small part and returns its rows by system and question.
func measured(t *testing.T, systems ...string) map[string]row {
	t.Helper()
	var out strings.Builder
	r := runner{rivals: newRivals(t.TempDir(), systems), systems: systems, out: &out}
	if err := r.part(part{shape: vectors.Clustered, n: 600, dims: 64, topk: true, systems: systems}); err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]row)
	for _, row := range r.rows {
		rows[row.System+" "+row.Question] = row
		if !strings.Contains(out.String(), row.String()) {
			t.Errorf("the table lacks %s", row)
		}
	}
	return rows
}

func TestTheTableSaysWhatIsFound(t *testing.T) {
	rows := measured(t, "flat", "sketch", "hnsw")
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
}

func TestARivalInItsOwnProcessAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the driver: ten seconds")
	}
	if _, err := exec.LookPath("g++"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("no g++")
	}
	rows := measured(t, "hnswlib")
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
