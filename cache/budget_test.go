package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/store"
)

func exactly(q *Query) { q.Scope = nil }

func of(tenant string) func(*Query) { return func(q *Query) { q.Tenant = tenant } }

func TestHostileTenantFlushesItsOwnOnly(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.MaxBytes = 4 << 20
	})
	r.SetQuotas(map[string]Quota{"hostile": {Bytes: 64 << 10}, "few": {Entries: 5}})
	for i := range 100 {
		r.learn(fmt.Sprint("useful ", i), "answer", exactly, of("good"))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		q := ask(fmt.Sprint("flood ", i), exactly, of("hostile"))
		for range 3 { // it pretends that its questions are popular and dear
			r.Lookup(t.Context(), q)
		}
		if _, err := r.Store(t.Context(), q, Answer{Encoded: make([]byte, rng.IntN(4000)+1), Cost: time.Hour}, StoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if u := r.Usage("hostile"); u.Bytes > 64<<10 {
			t.Fatalf("%d bytes", u.Bytes)
		}
		r.keep(ask(fmt.Sprint("few ", i), exactly, of("few")), "x")
	}
	if u := r.Usage("few"); u.Entries != 5 {
		t.Errorf("%d entries, quota 5", u.Entries)
	}
	for i := range 100 {
		r.want(ask(fmt.Sprint("useful ", i), exactly, of("good")), Exact, "answer")
	}
	s := r.Stats()
	if s.Evictions["quota"] < 5000 || s.Evictions["size"]+s.Evictions["admission"] != 0 {
		t.Errorf("evictions: %v", s.Evictions)
	}
	if s.Tenants[0].Name != "hostile" || s.Tenants[0].Quota.Bytes != 64<<10 {
		t.Errorf("tenants: %+v", s.Tenants)
	}
	_, err := r.Store(t.Context(), ask("huge", of("hostile")), Answer{Encoded: make([]byte, 80<<10)}, StoreOptions{})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("an entry beyond the tenant's quota: %v", err)
	}
	r.checkConsistent()
}

func TestQuotasThatComeDown(t *testing.T) {
	r := newRig(t)
	for i := range 200 {
		r.keep(ask(fmt.Sprint(i), exactly), "x")
	}
	r.SetQuotas(map[string]Quota{"local": {Entries: 20}})
	r.shrink(sweepBatch) // as Run does every second
	if s := r.Stats(); s.Entries != 20 || len(r.store.ids()) != 20 {
		t.Errorf("%d entries, %d records", s.Entries, len(r.store.ids()))
	}
	r.checkConsistent()
}

func TestStatsNameTheLargestTenantsOnly(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		r.keep(ask("q", exactly, of(fmt.Sprintf("tenant-%02d", i))), strings.Repeat("x", 10+i))
	}
	s := r.Stats()
	if len(s.Tenants) != tenantsShown || s.Tenants[0].Name != "tenant-49" || s.Tenants[9].Name != "tenant-40" {
		t.Errorf("%+v", s.Tenants)
	}
}

// TestWhatIsAskedOftenOutlivesAScan: the counts are of hits, exact and semantic, and of
// misses.
func TestWhatIsAskedOftenOutlivesAScan(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBytes = 100 << 10 })
	r.learn(paris, strings.Repeat("p", 1000))
	r.learn(other, strings.Repeat("m", 1000))
	for range 4 {
		r.want(ask(capital), Semantic, strings.Repeat("p", 1000))
		r.want(ask(other), Exact, strings.Repeat("m", 1000))
	}
	for i := range 1000 {
		r.learn(fmt.Sprint("one-off ", i), strings.Repeat("x", 1000), exactly)
	}
	r.want(ask(capital), Semantic, strings.Repeat("p", 1000))
	r.want(ask(other), Exact, strings.Repeat("m", 1000))
	wanted := ask("wanted", exactly)
	for range 8 {
		r.want(wanted, Miss, ReasonExactOnly)
	}
	r.keep(wanted, strings.Repeat("w", 1000))
	for i := range 1000 {
		r.learn(fmt.Sprint("another ", i), strings.Repeat("x", 1000), exactly)
	}
	r.want(wanted, Exact, strings.Repeat("w", 1000))
	r.checkConsistent()
}

func TestHotAnswersStayInMemory(t *testing.T) {
	r := newRig(t, func(o *Options) { o.AnswerMemory = 100_000 })
	answer := func(i int) string { return strings.Repeat(fmt.Sprint(i%10), 1000) }
	hot := func(i int) *Query { return ask(fmt.Sprint("hot ", i), exactly) }
	// Of 100 that fit: all eight of a sample are hot with a chance of 0.02^8, and 400
	// samples are taken, so that a hot one goes once in 10^11 runs.
	const hots, colds = 2, 400
	for i := range hots {
		r.keep(hot(i), answer(i))
		for range 5 {
			r.want(hot(i), Exact, answer(i))
		}
	}
	for i := range colds {
		r.keep(ask(fmt.Sprint("cold ", i), exactly), answer(i))
	}
	r.settle()
	r.keep(ask("last", exactly), answer(1))
	r.settle()
	r.Engine.answers.trim()
	reads := r.store.reads
	for i := range hots {
		r.want(hot(i), Exact, answer(i))
	}
	if n := r.store.reads - reads; n > 0 {
		t.Errorf("%d of %d hot answers were read from the store", n, hots)
	}
	for i := range colds {
		r.want(ask(fmt.Sprint("cold ", i), exactly), Exact, answer(i))
	}
	s := r.Stats() // at most 98 cold ones were in memory
	if s.AnswerReads < colds-98 || s.AnswerMemory > 100_000 || s.AnswersHeld > 100 || s.AnswerBytes != 1000*(hots+colds+1) {
		t.Errorf("%d reads, %d held in %d bytes, of %d", s.AnswerReads, s.AnswersHeld, s.AnswerMemory, s.AnswerBytes)
	}
	r.checkConsistent()
}

// patience is how many milliseconds, at the least, a test waits for goroutines.
const patience = 60_000

// settle waits until the fake store has told of all writes.
func (r *rig) settle() {
	r.t.Helper()
	for range patience {
		r.mu.RLock()
		left := 0
		for _, en := range r.byID {
			if !en.durable.Load() {
				left++
			}
		}
		r.mu.RUnlock()
		if left == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("writes are not durable")
}

func TestAnswersThatAreNotOnDiskStayInMemory(t *testing.T) {
	r := newRig(t, func(o *Options) { o.AnswerMemory = 2000 })
	r.store.set(func(s *fakeStore) { s.putErr = store.ErrBusy })
	for i := range 10 {
		r.keep(ask(fmt.Sprint(i), exactly), strings.Repeat("x", 1000))
	}
	for i := range 10 {
		r.want(ask(fmt.Sprint(i), exactly), Exact, strings.Repeat("x", 1000))
	}
	if s := r.Stats(); s.AnswerReads != 0 || s.Unsaved != 10 {
		t.Errorf("%d reads, %d unsaved", s.AnswerReads, s.Unsaved)
	}
	r.store.set(func(s *fakeStore) { s.putErr = nil })
	r.retry()
	r.settle()
	r.Engine.answers.trim()
	if s := r.Stats(); s.AnswerMemory > 2000 || s.Unsaved != 0 || len(r.store.ids()) != 10 {
		t.Errorf("%d bytes in memory, %d unsaved, %d records", s.AnswerMemory, s.Unsaved, len(r.store.ids()))
	}
	r.checkConsistent()
}

func TestAnswerThatCannotBeReadNowIsKept(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	r.settle()
	r.reopen()
	r.store.set(func(s *fakeStore) { s.readErr = store.ErrClosed })
	r.want(ask(paris), Miss, ReasonStoreFault)
	r.store.set(func(s *fakeStore) { s.readErr = nil })
	r.want(ask(paris), Exact, "Paris")
}

// TestDiskCatchesUp lets writes and deletes fail at commit and then mends the disk: it
// gets what memory has, and nothing else.
func TestDiskCatchesUp(t *testing.T) {
	r := newRig(t)
	gone := r.learn(other, "magnets")
	r.settle()
	r.store.set(func(s *fakeStore) { s.syncErr = errors.New("EIO") })
	kept := r.learn(paris, "Paris")
	removed := r.learn(tower, "removed before the disk came back")
	if err := r.Delete(t.Context(), "local", gone); err == nil {
		t.Error("a delete that failed was told as done")
	}
	r.Delete(t.Context(), "local", removed)
	r.waitUnsaved(4) // two puts, two deletes
	r.retry()
	r.waitUnsaved(3) // the put of what has been removed is out of date
	r.store.set(func(s *fakeStore) { s.syncErr = nil })
	r.retry()
	r.settle()
	r.waitUnsaved(0)
	if ids := r.store.ids(); len(ids) != 1 || ids[0] != kept {
		t.Errorf("records %v, want %d", ids, kept)
	}
	r.checkConsistent()
}

func (r *rig) waitUnsaved(want int) {
	r.t.Helper()
	var n int
	for range patience {
		if n = r.Stats().Unsaved; n == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatalf("%d unsaved, want %d", n, want)
}

func TestHitsAllocateNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector empties pools at random")
	}
	r := newRig(t, func(o *Options) { o.NewIndex = func(dims int) index.Index { return sketch.New(dims) } })
	r.learn(paris, "Paris")
	exact, near := ask(paris), ask(capital)
	for _, q := range []*Query{exact, near} {
		r.Lookup(t.Context(), q)
	}
	if n := testing.AllocsPerRun(200, func() { r.Lookup(t.Context(), exact) }); n != 0 {
		t.Errorf("exact hit: %v allocations", n)
	}
	if n := testing.AllocsPerRun(200, func() { r.Lookup(t.Context(), near) }); n != 0 {
		t.Errorf("semantic hit: %v allocations", n)
	}
}
