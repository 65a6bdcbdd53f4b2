package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/semcached/semcached/store"
)

func TestExactHitNeedsNoEmbedding(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	calls := r.emb.calls
	res := r.want(ask(paris), Exact, "Paris")
	if r.emb.calls != calls {
		t.Errorf("an exact hit made %d embedding calls", r.emb.calls-calls)
	}
	if res.Similarity != 1 || res.Entry.Hits != 1 || res.Entry.Model != "m:latest" {
		t.Errorf("result %+v", res)
	}
}

func TestRephrasedQuestionHits(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	res := r.want(ask(capital), Semantic, "Paris")
	if res.Entry.ID != id || res.Similarity < 0.94 || res.Similarity > 0.96 || res.Threshold != 0.9 {
		t.Errorf("result %+v", res)
	}
}

func TestSemanticHitIsNotPromotedToExact(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	r.want(ask(capital), Semantic, "Paris")
	r.want(ask(capital), Semantic, "Paris")
	if n := len(r.store.ids()); n != 1 {
		t.Errorf("%d records after semantic hits, want 1", n)
	}
}

func TestNearMissIsVetoed(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	res := r.Lookup(t.Context(), ask(tower))
	if res.Kind != Miss || !strings.HasPrefix(res.Reason, "guard-") {
		t.Errorf("%v %q, want a guard's veto", res.Kind, res.Reason)
	}
	if res.Nearest == nil || res.Nearest.ID != id || res.Nearest.Similarity < 0.98 {
		t.Errorf("nearest %+v", res.Nearest)
	}
}

func TestVetoedCandidateGivesWayToTheNext(t *testing.T) {
	r := newRig(t)
	r.learn(tower, "Paris, then as now")
	r.learn(paris, "Paris")
	q := ask(capital)
	r.emb.vectors[capital] = r.emb.vectors[tower] // tower is the best candidate now
	r.want(q, Semantic, "Paris")
}

func TestOnlyThePromptMayDiffer(t *testing.T) {
	changes := map[string]func(*Query){
		"tenant":    func(q *Query) { q.Tenant = "b" },
		"namespace": func(q *Query) { q.Namespace = "n" },
		"op":        func(q *Query) { q.Op = "generate" },
		"model":     func(q *Query) { q.Model = "m:7b" },
		"provider":  func(q *Query) { q.Provider = "cloud" },
		"request":   func(q *Query) { q.Canonical, q.Scope = []byte("other "+q.Prompt), []byte("other") },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.learn(paris, "Paris")
			r.want(ask(paris, change), Miss, ReasonAbsent)
			r.want(ask(capital, change), Miss, ReasonAbsent)
			r.want(ask(paris), Exact, "Paris")
		})
	}
}

func TestFieldsDoNotRunIntoEachOther(t *testing.T) {
	a := &Query{Tenant: "ab", Namespace: "c"}
	b := &Query{Tenant: "a", Namespace: "bc"}
	if a.Key() == b.Key() || a.partition("s") == b.partition("s") {
		t.Error("two different requests share a key")
	}
	if a.Key() == a.partition("") {
		t.Error("key and partition are the same hash")
	}
}

func TestWithProviderKeepsWhatHolds(t *testing.T) {
	r := newRig(t)
	q := ask(paris)
	r.Lookup(t.Context(), q)
	calls := r.emb.calls
	other := q.WithProvider("cloud")
	r.Lookup(t.Context(), other)
	if r.emb.calls != calls {
		t.Error("the prompt was embedded twice")
	}
	r.keep(other, "Lutetia")
	r.want(ask(paris), Miss, ReasonAbsent)
	r.want(ask(capital), Miss, ReasonAbsent)
	if res := r.Lookup(t.Context(), ask(capital).WithProvider("cloud")); res.Kind != Semantic || string(res.Answer) != "Lutetia" {
		t.Errorf("%+v", res)
	}
	if q.WithProvider("").Key() != q.Key() || other.Key() == q.Key() || q.WithProvider("b").Key() == other.Key() {
		t.Error("keys do not tell providers apart")
	}
}

func TestVectorSpacesNeverMix(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	r.emb.set(func(f *fakeEmbedder) { f.space = "fake-2/3" })
	r.want(ask(capital), Miss, ReasonAbsent)
	r.want(ask(paris), Exact, "Paris")
}

func TestEqualHashesWithOtherBytesMiss(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	forged := ask(other, func(q *Query) { q.Scope = nil })
	forged.key, forged.keyed = ask(paris).Key(), true // as if SHA-256 were broken
	r.want(forged, Miss, ReasonExactOnly)
}

func TestThresholdMayOnlyTighten(t *testing.T) {
	for _, c := range []struct {
		asked float32
		want  Kind
	}{{0, Semantic}, {0.1, Semantic}, {0.94, Semantic}, {0.96, Miss}, {1, Miss}} {
		r := newRig(t)
		r.learn(paris, "Paris")
		res := r.Lookup(t.Context(), ask(capital, func(q *Query) { q.Threshold = c.asked }))
		if res.Kind != c.want {
			t.Errorf("threshold %v: %v, want %v", c.asked, res.Kind, c.want)
		}
	}
	r := newRig(t, func(o *Options) { o.Threshold = 0.99 })
	r.learn(paris, "Paris")
	r.want(ask(capital), Miss, ReasonAbsent)
}

func TestModeExactLooksNoFurther(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	exact := func(q *Query) { q.Mode = ModeExact }
	r.want(ask(capital, exact), Miss, ReasonExactOnly)
	r.want(ask(paris, exact), Exact, "Paris")
}

func TestExactOnlyEntriesAreNoCandidates(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris", func(q *Query) { q.Scope = nil })
	r.want(ask(capital), Miss, ReasonAbsent)
}

func TestTimeSensitiveQuestionsAreExactOnly(t *testing.T) {
	r := newRig(t)
	r.learn(timely, "Sunny")
	r.emb.vectors["Weather in Paris today, please?"] = []float32{1, 0, 0}
	r.want(ask("Weather in Paris today, please?"), Miss, ReasonTimely)
	r.want(ask(timely), Exact, "Sunny")
}

func TestExpiry(t *testing.T) {
	r := newRig(t)
	q := ask(paris)
	r.Lookup(t.Context(), q)
	r.keep(q, "Paris", func(o *StoreOptions) { o.TTL = time.Minute })
	r.now = r.now.Add(59 * time.Second)
	r.want(ask(paris), Exact, "Paris")
	r.now = r.now.Add(time.Second)
	r.want(ask(paris), Miss, ReasonExpired)
	r.want(ask(capital), Miss, ReasonExpired)
	if _, _, err := r.Entry("local", 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("expired entry: %v", err)
	}
	r.sweep(t.Context())
	if s := r.Stats(); s.Entries != 0 || s.Bytes != 0 || s.Partitions != 0 || s.Evictions["ttl"] != 1 {
		t.Errorf("after the sweep: %+v", s)
	}
	if len(r.store.ids()) != 0 {
		t.Error("the record is still in the store")
	}
}

func TestExpiredEntryIsForEmergenciesOnly(t *testing.T) {
	r := newRig(t, func(o *Options) { o.KeepStale = time.Hour })
	q := ask(paris, func(q *Query) { q.Digest = "d1" })
	r.Lookup(t.Context(), q)
	r.keep(q, "Paris", func(o *StoreOptions) { o.TTL = time.Minute })
	stale := func(change ...func(*Query)) Kind { return r.Stale(ask(paris, change...)).Kind }
	if stale() != Stale {
		t.Error("a fresh entry is no answer in an emergency")
	}
	r.now = r.now.Add(time.Hour)
	r.sweep(t.Context())
	r.want(ask(paris), Miss, ReasonExpired)
	r.want(ask(capital), Miss, ReasonExpired)
	if res := r.Stale(ask(paris)); res.Kind != Stale || string(res.Answer) != "Paris" {
		t.Errorf("expired, and kept: %+v", res)
	}
	for name, change := range map[string]func(*Query){
		"another tenant": func(q *Query) { q.Tenant = "b" }, "too old for the client": func(q *Query) { q.MaxAge = time.Minute },
		"another model": func(q *Query) { q.Digest = "d2" }, "refresh": func(q *Query) { q.Refresh = true }, "provider": func(q *Query) { q.Provider = "cloud" },
	} {
		if stale(change) != Miss {
			t.Errorf("%s: served", name)
		}
	}
	r.now = r.now.Add(time.Minute)
	if stale() != Miss {
		t.Error("served after its last hour")
	}
	r.sweep(t.Context())
	if s := r.Stats(); s.Entries != 0 || s.HitsStale != 2 {
		t.Errorf("%+v", s)
	}
}

func TestConfigureChangesWhatFollows(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	r.want(ask(capital), Semantic, "Paris")
	r.Configure(0.99, time.Minute)
	r.want(ask(capital), Miss, ReasonAbsent)
	r.Configure(0, 0)
	r.want(ask(capital), Semantic, "Paris")
	r.learn(other, "x")
	r.now = r.now.Add(time.Minute)
	r.want(ask(other), Miss, ReasonExpired)
	r.want(ask(paris), Exact, "Paris")
}

func TestMaxAge(t *testing.T) {
	r := newRig(t)
	r.learn(paris, "Paris")
	r.now = r.now.Add(10 * time.Second)
	for _, c := range []struct {
		max  time.Duration
		kind Kind
		text string
	}{{-1, Exact, "Paris"}, {0, Miss, ReasonMaxAge}, {9 * time.Second, Miss, ReasonMaxAge}, {10 * time.Second, Exact, "Paris"}} {
		r.want(ask(paris, func(q *Query) { q.MaxAge = c.max }), c.kind, c.text)
	}
}

func TestRefreshReplacesTheEntry(t *testing.T) {
	r := newRig(t)
	first := r.learn(paris, "Paris")
	q := ask(paris, func(q *Query) { q.Refresh = true })
	r.want(q, Miss, ReasonRefresh)
	second := r.keep(q, "Paris!")
	r.want(ask(paris), Exact, "Paris!")
	if ids := r.store.ids(); len(ids) != 1 || ids[0] != second || first == second {
		t.Errorf("records %v, want only %d", ids, second)
	}
}

func TestChangedModelDigestIsAMiss(t *testing.T) {
	r := newRig(t)
	digest := func(d string) func(*Query) { return func(q *Query) { q.Digest = d } }
	q := ask(paris, digest("aaa"))
	r.Lookup(t.Context(), q)
	if _, err := r.Store(t.Context(), q, Answer{Encoded: []byte("Paris"), Digest: "aaa"}, StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	r.want(ask(paris, digest("aaa")), Exact, "Paris")
	r.want(ask(paris, digest("")), Exact, "Paris") // the upstream is down: nobody knows better
	r.want(ask(paris, digest("bbb")), Miss, ReasonModelChanged)
	r.want(ask(capital, digest("bbb")), Miss, ReasonModelChanged)
}

func TestEmbedderTroubleIsAMissAndTheAnswerIsKept(t *testing.T) {
	t.Run("error", func(t *testing.T) {
		r := newRig(t)
		r.emb.set(func(f *fakeEmbedder) { f.err = errors.New("down") })
		q := ask(paris)
		r.want(q, Miss, ReasonNoEmbedding)
		r.keep(q, "Paris")
		r.want(ask(paris), Exact, "Paris")
	})
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.emb.hang = true
			start := time.Now()
			r.want(ask(paris), Miss, ReasonEmbedTimeout)
			if d := time.Since(start); d != defaultEmbedTimeout {
				t.Errorf("waited %v, want %v", d, defaultEmbedTimeout)
			}
		})
	})
}

func TestEntryGetsItsVectorLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.emb.set(func(f *fakeEmbedder) { f.err = errors.New("down") })
		r.learn(paris, "Paris")
		r.emb.set(func(f *fakeEmbedder) { f.err = nil })
		r.learn(other, "They attract")
		r.keep(ask(paris), "Paris") // stored without a lookup: embedded in the background
		synctest.Wait()
		r.want(ask(capital), Semantic, "Paris")
		r.reopen()
		r.want(ask(capital), Semantic, "Paris") // its record was written again
		cancel()
		<-done
	})
}

func TestRestartKeepsEverything(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	r.learn(other, "They attract")
	report := r.reopen()
	if report.Records != 2 {
		t.Errorf("report %+v", report)
	}
	r.want(ask(paris), Exact, "Paris")
	r.want(ask(capital), Semantic, "Paris")
	if r.store.reads != 1 {
		t.Errorf("%d answers read from the store, want 1: the second hit is served from memory", r.store.reads)
	}
	if next := r.learn("And of Spain?", "Madrid", func(q *Query) { q.Scope = nil }); next <= id+1 {
		t.Errorf("ID %d was used before", next)
	}
}

func TestUnfinishedReplacementIsFinishedAtLoad(t *testing.T) {
	r := newRig(t)
	first := r.learn(paris, "old")
	old := r.store.recs[first]
	second := r.keep(ask(paris), "new")
	r.store.recs[first] = old // the crash came before the delete was committed
	r.reopen()
	r.want(ask(paris), Exact, "new")
	if ids := r.store.ids(); len(ids) != 1 || ids[0] != second {
		t.Errorf("records %v, want only %d", ids, second)
	}
	if s := r.Stats(); s.Entries != 1 {
		t.Errorf("%d entries", s.Entries)
	}
}

func TestRottenAnswerIsDroppedNotServed(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	r.reopen()
	r.store.rotten[id] = true
	r.want(ask(paris), Miss, ReasonCorrupt)
	r.want(ask(paris), Miss, ReasonAbsent)
}

func TestStoreRefusals(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBytes = 64 << 10 })
	for _, c := range []struct {
		name string
		q    *Query
		a    Answer
		want error
	}{
		{"empty answer", ask(paris), Answer{}, ErrNoAnswer},
		{"too large", ask(paris), Answer{Encoded: make([]byte, 9<<10)}, ErrTooLarge},
		{"zero vector", ask(paris, func(q *Query) { q.Vector = []float32{0, 0} }), Answer{Encoded: []byte("x")}, ErrVector},
		{"NaN", ask(paris, func(q *Query) { q.Vector = []float32{1, float32(math.NaN())} }), Answer{Encoded: []byte("x")}, ErrVector},
	} {
		if _, err := r.Store(t.Context(), c.q, c.a, StoreOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if s := r.Stats(); s.Entries != 0 || len(r.store.ids()) != 0 {
		t.Errorf("something was stored: %+v", s)
	}
}

func TestCallersVectors(t *testing.T) {
	r := newRig(t)
	vec := func(v ...float32) func(*Query) { return func(q *Query) { q.Vector = v } }
	r.learn("colour red", "FF0000", vec(1, 0))
	r.want(ask("the colour red", vec(0.98, 0.199)), Semantic, "FF0000")
	r.want(ask("the colour red", vec(0.9, 0.43)), Miss, ReasonAbsent) // below the caller threshold
	r.want(ask("scarlet", vec(1, 0, 0)), Miss, ReasonBadVector)
	if err := r.CheckVector("local", "", []float32{1, 2, 3}); !errors.Is(err, ErrVector) {
		t.Errorf("other dimensions: %v", err)
	}
	if err := r.CheckVector("local", "elsewhere", []float32{1, 2, 3}); err != nil {
		t.Errorf("another namespace: %v", err)
	}
	if _, _, err := r.Invalidate(t.Context(), Selection{Tenant: "local", All: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.CheckVector("local", "", []float32{1, 2, 3}); err != nil {
		t.Errorf("dimensions outlive their entries: %v", err)
	}
	if r.emb.calls != 0 {
		t.Error("the embedder was asked although vectors came along")
	}
}

func TestSyncStoreReportsTheDisk(t *testing.T) {
	r := newRig(t)
	r.store.syncErr = errors.New("disk full")
	_, err := r.Store(t.Context(), ask(paris), Answer{Encoded: []byte("Paris")}, StoreOptions{Sync: true})
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("error %v", err)
	}
	r.want(ask(paris), Miss, ReasonAbsent)
	r.store.syncErr, r.store.putErr = nil, store.ErrBusy
	if _, err := r.Store(t.Context(), ask(paris), Answer{Encoded: []byte("Paris")}, StoreOptions{Sync: true}); !errors.Is(err, store.ErrBusy) {
		t.Errorf("error %v", err)
	}
	r.want(ask(paris), Miss, ReasonAbsent)
	r.keep(ask(paris), "Paris") // async: kept in memory, counted
	r.want(ask(paris), Exact, "Paris")
	if s := r.Stats(); s.StoreFailures != 3 {
		t.Errorf("%d failures counted, want 3", s.StoreFailures)
	}
}

func TestInvalidate(t *testing.T) {
	ns, none := "n", ""
	for _, c := range []struct {
		name string
		sel  Selection
		want int
	}{
		{"namespace", Selection{Namespace: &ns}, 1},
		{"default namespace", Selection{Namespace: &none}, 2},
		{"model", Selection{Model: "m:latest"}, 3},
		{"model and namespace", Selection{Model: "m:latest", Namespace: &ns}, 1},
		{"tag", Selection{Tag: "geo"}, 1},
		{"prompt", Selection{Prompt: other}, 1},
		{"all", Selection{All: true}, 3},
		{"nothing there", Selection{Tag: "none"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.keep(ask(paris), "Paris", func(o *StoreOptions) { o.Tags = []string{"geo"} })
			r.keep(ask(other), "They attract")
			r.keep(ask(tower, func(q *Query) { q.Namespace = ns }), "Paris")
			r.keep(ask(paris, func(q *Query) { q.Tenant = "b" }), "theirs")
			c.sel.Tenant, c.sel.DryRun = "local", true
			if m, d, err := r.Invalidate(t.Context(), c.sel); m != c.want || d != 0 || err != nil {
				t.Errorf("dry run: %d %d %v, want %d 0", m, d, err, c.want)
			}
			c.sel.DryRun = false
			if m, d, err := r.Invalidate(t.Context(), c.sel); m != c.want || d != c.want || err != nil {
				t.Errorf("%d %d %v, want %d", m, d, err, c.want)
			}
			if left := len(r.store.ids()); left != 4-c.want {
				t.Errorf("%d records left, want %d", left, 4-c.want)
			}
			r.want(ask(paris, func(q *Query) { q.Tenant = "b" }), Exact, "theirs")
		})
	}
	r := newRig(t)
	if _, _, err := r.Invalidate(t.Context(), Selection{Tenant: "local", DryRun: true}); !errors.Is(err, ErrEmptySelection) {
		t.Errorf("empty selection: %v", err)
	}
}

func TestInvalidationTellsWhenTheDiskDoesNotForget(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	r.learn(other, "They attract")
	r.store.syncErr = errors.New("disk full")
	if err := r.Delete(t.Context(), "local", id); err == nil {
		t.Error("a deletion that is not durable was acknowledged")
	}
	if m, _, err := r.Invalidate(t.Context(), Selection{Tenant: "local", All: true}); m != 1 || err == nil {
		t.Errorf("%d %v: an invalidation that is not durable was acknowledged", m, err)
	}
	r.want(ask(paris), Miss, ReasonAbsent)
	r.want(ask(other), Miss, ReasonAbsent)
}

func TestAnswerMadeDuringAnInvalidationIsNotKept(t *testing.T) {
	r := newRig(t)
	q, unrelated := ask(paris), ask(other, func(q *Query) { q.Tenant = "b" })
	r.Lookup(t.Context(), q)
	r.Lookup(t.Context(), unrelated)
	if _, _, err := r.Invalidate(t.Context(), Selection{Tenant: "local", Model: "m:latest"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Store(t.Context(), q, Answer{Encoded: []byte("stale")}, StoreOptions{}); !errors.Is(err, ErrInvalidated) {
		t.Errorf("error %v, want ErrInvalidated", err)
	}
	r.keep(unrelated, "fine")
	late := ask(paris)
	r.Lookup(t.Context(), late)
	r.keep(late, "fresh")
	r.want(ask(paris), Exact, "fresh")
}

func TestManyInvalidationsRefuseWhatTheyMayCover(t *testing.T) {
	r := newRig(t)
	q := ask(paris)
	r.Lookup(t.Context(), q)
	for range rememberInvalidations + 1 {
		r.Invalidate(t.Context(), Selection{Tenant: "b", All: true})
	}
	if _, err := r.Store(t.Context(), q, Answer{Encoded: []byte("x")}, StoreOptions{}); !errors.Is(err, ErrInvalidated) {
		t.Errorf("error %v: what was forgotten may have covered it", err)
	}
}

func TestTenantsCannotTouchEachOthersEntries(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	if _, _, err := r.Entry("b", id); !errors.Is(err, ErrNotFound) {
		t.Errorf("entry: %v", err)
	}
	if err := r.Delete(t.Context(), "b", id); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if d, answer, err := r.Entry("local", id); err != nil || string(answer) != "Paris" || !d.Semantic || d.Bytes == 0 {
		t.Errorf("%+v %q %v", d, answer, err)
	}
	if err := r.Delete(t.Context(), "local", id); err != nil {
		t.Error(err)
	}
	r.want(ask(capital), Miss, ReasonAbsent)
}

func TestByteBudgetKeepsWhatSavesMost(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBytes = 100 << 10 })
	dear := ask("dear", func(q *Query) { q.Scope = nil })
	if _, err := r.Store(t.Context(), dear, Answer{Encoded: make([]byte, 1024), Cost: time.Minute}, StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Minute)
	for i := range 1000 {
		r.keep(ask(fmt.Sprint("cheap ", i), func(q *Query) { q.Scope = nil }), strings.Repeat("x", 1024))
		if s := r.Stats(); s.Bytes > s.MaxBytes {
			t.Fatalf("%d bytes, budget %d", s.Bytes, s.MaxBytes)
		}
	}
	if res := r.Lookup(t.Context(), ask("dear", func(q *Query) { q.Scope = nil })); res.Kind != Exact {
		t.Error("a scan of cheap answers evicted the dear one")
	}
	if s := r.Stats(); s.Evictions["admission"] < 900 || len(r.store.ids()) != s.Entries {
		t.Errorf("%+v, %d records", s, len(r.store.ids()))
	}
}

func TestLoadingEngineServesNothing(t *testing.T) {
	e, err := New(Options{Store: newFakeStore()})
	if err != nil {
		t.Fatal(err)
	}
	if res := e.Lookup(t.Context(), ask(paris)); res.Reason != ReasonLoading {
		t.Errorf("reason %q", res.Reason)
	}
	if _, err := e.Store(t.Context(), ask(paris), Answer{Encoded: []byte("x")}, StoreOptions{}); !errors.Is(err, ErrLoading) {
		t.Errorf("error %v", err)
	}
}

func TestExplainTellsWhatLookupWouldDo(t *testing.T) {
	r := newRig(t)
	id := r.learn(paris, "Paris")
	for prompt, want := range map[string]struct {
		kind    Kind
		verdict string
	}{paris: {Exact, ""}, capital: {Semantic, ""}, other: {Miss, "below-threshold"}} {
		before := r.Stats()
		x := r.Explain(t.Context(), ask(prompt))
		if x.Kind != want.kind || len(x.Candidates) != 1 || x.Candidates[0].ID != id || x.Candidates[0].Verdict != want.verdict {
			t.Errorf("%q: %+v", prompt, x)
		}
		if after := r.Stats(); after.Misses != before.Misses || after.HitsExact != before.HitsExact {
			t.Error("explaining was counted")
		}
	}
	x := r.Explain(t.Context(), ask(tower))
	if x.Kind != Miss || !strings.HasPrefix(x.Reason, "guard-") || x.Candidates[0].Verdict != x.Reason {
		t.Errorf("near miss: %+v", x)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no store":  {},
		"threshold": {Store: newFakeStore(), Threshold: 1.5},
		"ttl":       {Store: newFakeStore(), TTL: -1},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
