package sketch

import (
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/indextest"
)

// early returns an index that makes lists from n vectors on, of any data.
func early(dims, n int) *Index {
	return newIndex(dims, &options{codesFrom: min(20, n), listsFrom: n, moved: 500, always: true})
}

// settle waits until no lists are being made.
func settle(t testing.TB, ix *Index) {
	t.Helper()
	for range 20_000 {
		ix.mu.RLock()
		busy := ix.tier != nil && ix.tier.building
		ix.mu.RUnlock()
		if !busy {
			return
		}
		time.Sleep(time.Millisecond) // made in the background, announced to nobody
	}
	t.Fatal("the lists are never ready")
}

func TestListsConform(t *testing.T) {
	indextest.Run(t, indextest.Config{
		New:  func(dims int) index.Index { return early(dims, 40) },
		Load: func(r io.Reader) (index.Index, error) { return Load(r) },
		// Random questions at thresholds far from the one that margins are
		// measured at, on data without groups.
		MinRecall: 0.97,
	})
}

// check verifies that every row is in exactly one place, with its own code.
func check(t *testing.T, ix *Index) {
	t.Helper()
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if ix.tier == nil {
		return
	}
	for _, l := range []*layout{ix.tier.cur, ix.tier.next} {
		if l == nil {
			continue
		}
		total := 0
		for i := range l.list {
			total += l.list[i].n
			for at := range l.list[i].n {
				row := l.list[i].row(at)
				if l.at(row) != uint64(i+1)<<32|uint64(at) {
					t.Fatalf("row %d is at %d of list %d, and says otherwise", row, at, i)
				}
			}
		}
		if l == ix.tier.cur && total != ix.n {
			t.Fatalf("%d rows in lists, %d in all", total, ix.n)
		}
		for row := range ix.n {
			if !l.has(row) {
				continue
			}
			var d sketched
			l.sketch(&d, ix.row(row))
			want, got := l.spot(&d), l.spotOf(row)
			if want != got {
				t.Fatalf("row %d has another's place", row)
			}
			if in := l.list[want.list]; want.away < in.near || want.away > in.far {
				t.Fatalf("row %d is %d away, its list %d to %d", row, want.away, in.near, in.far)
			}
		}
	}
}

// Lists are made while vectors come and go, and find what brute force finds.
func TestListsFindWhatBruteForceFinds(t *testing.T) {
	n := 8000
	if testing.Short() {
		n = 3000
	}
	const dims = 96
	rng := rand.New(rand.NewPCG(11, 7))
	draw := clusters(rng, dims, 60, 0.6, 0.5)
	ix, flat := early(dims, n/3), index.NewFlat(dims)
	for step := range 3 * n {
		id := uint64(rng.IntN(n))
		if step > n && rng.IntN(4) == 0 {
			if ix.Remove(id) != flat.Remove(id) {
				t.Fatal("they differ in what is there")
			}
			continue
		}
		v := draw()
		if ix.Add(id, v) != nil || flat.Add(id, v) != nil {
			t.Fatal("refused")
		}
	}
	settle(t, ix)
	check(t, ix)
	if s := ix.Stats(); s.Tier != "lists" || s.Entries != flat.Len() {
		t.Fatalf("%+v", s)
	}
	missed, asked := 0, 0
	for range 2000 {
		q := at(unit(draw()), normal(rng, dims, 1), 0.97)
		if top, _ := flat.TopK(nil, q, 1); rng.IntN(2) == 0 {
			q = at(flat1(ix, top[0].ID), draw(), 0.93)
		}
		want, _ := flat.Search(nil, q, 0.92, 1)
		got, err := ix.Search(nil, q, 0.92, 1)
		if err != nil {
			t.Fatal(err)
		}
		asked += len(want)
		for _, w := range want {
			if !slices.ContainsFunc(got, func(h index.Hit) bool { return h.ID == w.ID && h.Score == w.Score }) {
				missed++
			}
		}
	}
	t.Logf("%d of %d missed", missed, asked)
	if missed > 5+asked/200 {
		t.Errorf("%d of %d missed", missed, asked)
	}
	// And when nearly all has gone, it is small again.
	for id := range uint64(n) {
		if id > 5 {
			ix.Remove(id)
		}
	}
	if s := ix.Stats(); s.Tier != "flat" || s.Entries > 6 {
		t.Errorf("%+v", s)
	}
}

// flat1 returns a stored vector.
func flat1(ix *Index, id uint64) []float32 {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	row, _ := ix.find(id)
	return slices.Clone(ix.row(int(row)))
}

func TestSearchesGoOnWhileListsAreMade(t *testing.T) {
	const dims = 32
	rng := rand.New(rand.NewPCG(12, 7))
	draw := clusters(rng, dims, 20, 0.6, 0.3)
	ix := early(dims, 1500)
	rows := make([][]float32, 4000)
	for i := range rows {
		rows[i] = draw()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for id, v := range rows {
			ix.Add(uint64(id), v)
			if id%7 == 0 {
				ix.Remove(uint64(id / 2))
			}
		}
	})
	for w := range 2 {
		wg.Go(func() {
			for i := range 4000 {
				v := rows[(i*37+w)%len(rows)]
				hits, err := ix.Search(nil, v, 0.9, 3)
				if err != nil || !slices.IsSortedFunc(hits, index.ByScore) {
					t.Errorf("%v %v", hits, err)
				}
			}
		})
	}
	wg.Wait()
	settle(t, ix)
	check(t, ix)
}

// Where data has no groups, lists are wide or are not made at all.
func TestDataWithoutGroupsIsFoundAsWell(t *testing.T) {
	for _, dims := range []int{64, 256} {
		rng := rand.New(rand.NewPCG(13, uint64(dims)))
		ix := newIndex(dims, &options{codesFrom: 256, listsFrom: 2000, moved: 8000})
		rows := make([][]float32, 2100)
		for id := range rows {
			rows[id] = unit(normal(rng, dims, 1))
			ix.Add(uint64(id), rows[id])
		}
		settle(t, ix)
		missed := 0
		const questions = 3000
		for i := range questions {
			id := i % len(rows)
			hits, err := ix.Search(nil, at(rows[id], normal(rng, dims, 1), 0.921), 0.92, 1)
			if err != nil || len(hits) != 1 || hits[0].ID != uint64(id) {
				missed++
			}
		}
		t.Logf("%d dimensions, %s: %d of %d missed", dims, ix.Stats().Tier, missed, questions)
		if missed > 12 {
			t.Errorf("%d of %d missed", missed, questions)
		}
	}
}
