package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/mem"
)

// lagging is a store whose writes reach its Records some time later, or never: what is
// queued at a crash is lost.
type lagging struct {
	*mem.Store
	mu    sync.Mutex // guards everything below
	queue []func()
	fail  error // of commits
}

func (s *lagging) Put(r *store.Record, urgent bool, done func(error)) error {
	return s.enqueue(func() { s.Store.Put(r, urgent, nil) }, done)
}

func (s *lagging) Delete(ids []uint64, urgent bool, done func(error)) error {
	return s.enqueue(func() { s.Store.Delete(ids, urgent, nil) }, done)
}

func (s *lagging) enqueue(apply func(), done func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, func() {
		if s.fail == nil {
			apply()
		}
		if done != nil {
			done(s.fail)
		}
	})
	return nil
}

// commit commits the first n queued writes.
func (s *lagging) commit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && len(s.queue) > 0; n-- {
		s.queue[0]()
		s.queue = s.queue[1:]
	}
}

func (s *lagging) Sync(context.Context) error {
	s.mu.Lock()
	failed := s.fail
	s.mu.Unlock()
	s.commit(1 << 30)
	return failed
}

// world is an engine on a lagging store, and what outlives a crash.
type world struct {
	*Engine
	t     *testing.T
	rng   *rand.Rand
	disk  *mem.Records
	store *lagging
	now   time.Time
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 11)), disk: new(mem.Records), now: time.Unix(1_700_000_000, 0)}
	w.Engine, w.store = w.open(true)
	return w
}

// open makes an engine on the disk as it is.
func (w *world) open(snapshots bool) (*Engine, *lagging) {
	w.t.Helper()
	s := &lagging{Store: mem.New(w.disk)}
	o := Options{
		Store: s, NewIndex: func(dims int) index.Index { return sketch.New(dims) }, MaxBytes: 1 << 20, TTL: time.Hour,
		Embedder: oracle{}, Now: func() time.Time { return w.now },
	}
	if snapshots {
		o.LoadIndex = func(r io.Reader) (index.Index, error) { return sketch.Load(r) }
	}
	e, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := e.Load(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return e, s
}

// oracle embeds the text of a number as a vector that the number decides.
type oracle struct{}

func (oracle) Embed(_ context.Context, text string) ([]float32, string, error) {
	return vectorOf(text, 8), "oracle", nil
}

func (oracle) Threshold(string) float32 { return 0.9 }

func vectorOf(text string, dims int) []float32 {
	rng := rand.New(rand.NewPCG(hashFields(text, "", "", "", "", nil).hash(), 5))
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

// step does one random thing.
func (w *world) step() {
	r := w.rng
	q := ask(fmt.Sprint("question ", r.IntN(200)), func(q *Query) {
		q.Tenant, q.Namespace = fmt.Sprint("t", r.IntN(3)), fmt.Sprint("n", r.IntN(2))
		if r.IntN(4) == 0 {
			q.Scope = nil
		}
		if r.IntN(4) == 0 {
			q.Namespace, q.Vector = "own", vectorOf(q.Prompt, 5)
		}
	})
	switch n := r.IntN(100); {
	case n < 60:
		w.Lookup(w.t.Context(), q)
		ttl := time.Duration(1+r.IntN(60)) * time.Minute
		w.Store(w.t.Context(), q, Answer{Encoded: bytes.Repeat([]byte("a"), 1+r.IntN(2000)), Cost: time.Duration(r.IntN(1e9)), Digest: "d"},
			StoreOptions{TTL: ttl, Tags: []string{fmt.Sprint("tag", r.IntN(5))}})
	case n < 65:
		select { // as Run does
		case j := <-w.late:
			w.embedOne(w.t.Context(), j)
		default:
		}
	case n < 75:
		w.Lookup(w.t.Context(), q)
	case n < 80:
		if ids := slices.Sorted(maps.Keys(w.byID)); len(ids) > 0 {
			w.drop(ids[r.IntN(len(ids)):][:1], "invalidate")
		}
	case n < 81:
		w.drop(w.selected(Selection{Tenant: "t1", Tag: fmt.Sprint("tag", r.IntN(5))}), "invalidate")
	case n < 85:
		w.now = w.now.Add(time.Duration(r.IntN(60)) * time.Second)
	case n < 86:
		w.store.mu.Lock()
		w.store.fail = [...]error{nil, errors.New("EIO")}[r.IntN(2)]
		w.store.mu.Unlock()
	case n < 88:
		w.retry()
	default:
		w.store.commit(r.IntN(20))
	}
}

// picture is what can be told of an engine, once every vector is found.
func picture(t *testing.T, e *Engine) map[string]string {
	t.Helper()
	e.mu.RLock()
	for id, en := range e.byID {
		if en.part == nil {
			continue
		}
		hits, err := en.part.index.TopK(nil, vectorOf(en.prompt, en.part.index.Dims()), 1)
		if err != nil || len(hits) != 1 || e.byID[hits[0].ID] == nil || e.byID[hits[0].ID].prompt != en.prompt {
			t.Errorf("entry %d is not found by its own vector: %v, %v", id, hits, err)
		}
	}
	e.mu.RUnlock()
	return e.books()
}

// books is what an engine says of its entries.
func (e *Engine) books() map[string]string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := make(map[string]string)
	for id, en := range e.byID {
		part := "none"
		if en.part != nil {
			part = fmt.Sprintf("%x of %d", en.part.id[:4], en.part.index.Dims())
		}
		d := en.describe()
		d.Hits, d.Created, d.Expires = 0, d.Created.UTC(), d.Expires.UTC()
		p[fmt.Sprint(id)] = fmt.Sprintf("%+v %x %s %d bytes, callers %v, in %s, key %v", d, en.key[:4], en.canonical, en.Bytes(), en.callers, part, e.byKey[en.key] == en)
	}
	for s, c := range e.caller {
		p[fmt.Sprint("caller ", s)] = fmt.Sprint(c)
	}
	for id, part := range e.parts {
		p[fmt.Sprintf("part %x", id[:4])] = fmt.Sprint(part.live, part.index.Len())
	}
	p["sums"] = fmt.Sprint(e.policy.Bytes(), e.answerBytes)
	return p
}

// crash compares what a start with the snapshot gives with what the records give.
func (w *world) crash() (restored *Engine, s *lagging) {
	w.t.Helper()
	plain, _ := w.open(false)
	restored, s = w.open(true)
	a, b := picture(w.t, plain), picture(w.t, restored)
	for k := range a {
		if a[k] != b[k] {
			w.t.Errorf("%s\nfrom records:  %s\nfrom snapshot: %s", k, a[k], b[k])
		}
	}
	for k := range b {
		if a[k] == "" {
			w.t.Errorf("%s is in the snapshot only: %s", k, b[k])
		}
	}
	return restored, s
}

// TestSnapshotAndChangesGiveTheRecords does random things, makes snapshots at random
// moments and crashes at others: a start with the snapshot is as good as one without.
func TestSnapshotAndChangesGiveTheRecords(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 12
	}
	used, replayed := 0, 0
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range 4 {
				for range w.rng.IntN(300) {
					w.step()
					if w.rng.IntN(60) == 0 {
						w.Snapshot(t.Context()) // refused while the disk fails
					}
				}
				w.store.mu.Lock()
				w.store.queue, w.store.fail = nil, nil // the crash
				w.store.mu.Unlock()
				e, s := w.crash()
				report, err := e.restoreOnly(t)
				if err == nil && report.Snapshot {
					used++
					replayed += report.Replayed
				}
				w.Engine, w.store = e, s
			}
		})
	}
	if used < rounds || replayed == 0 {
		t.Errorf("only %d of %d starts used a snapshot; %d changes replayed", used, 4*rounds, replayed)
	}
}

// restoreOnly tells what a restore of e's store reports.
func (e *Engine) restoreOnly(t *testing.T) (LoadReport, error) {
	t.Helper()
	o := e.o
	other, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return other.restore(t.Context())
}

// TestSnapshotWhileEverythingGoesOn makes snapshots beside stores, removals and late
// vectors, and then compares.
func TestSnapshotWhileEverythingGoesOn(t *testing.T) {
	w := newWorld(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.embedLate(ctx) })
	for n := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 3))
			for ctx.Err() == nil {
				q := ask(fmt.Sprint("question ", rng.IntN(300)), func(q *Query) { q.Tenant = fmt.Sprint("t", n) })
				if rng.IntN(2) == 0 {
					w.Lookup(ctx, q) // else the vector comes late
				}
				w.Store(ctx, q, Answer{Encoded: []byte("a")}, StoreOptions{})
				if rng.IntN(3) == 0 {
					w.drop(w.selected(Selection{Tenant: q.Tenant, Prompt: fmt.Sprint("question ", rng.IntN(300))}), "invalidate")
				}
				if rng.IntN(50) == 0 {
					w.drop(w.selected(Selection{Tenant: q.Tenant, All: true}), "invalidate")
				}
				w.store.commit(rng.IntN(4))
			}
		})
	}
	for i := range 30 {
		if err := w.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			w.store.mu.Lock() // a crash here: the disk stands still
			w.crash()
			w.store.mu.Unlock()
		}
	}
	cancel()
	wg.Wait()
	w.store.Sync(t.Context())
	w.crash()
}

// TestDamagedSnapshotFallsBackToTheRecords cuts and changes a snapshot at every place.
func TestDamagedSnapshotFallsBackToTheRecords(t *testing.T) {
	w := newWorld(t, 2)
	for range 60 {
		w.step()
	}
	w.store.fail = nil
	w.store.Sync(t.Context())
	w.retry()
	w.store.Sync(t.Context())
	if err := w.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	seq, r, err := w.store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	good, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := w.open(false)
	want := plain.books()
	try := func(name string, b []byte) {
		w.store.SaveSnapshot(seq, func(out io.Writer) error { _, err := out.Write(b); return err })
		e, _ := w.open(true)
		if !maps.Equal(e.books(), want) {
			// A change that leaves a sound snapshot cannot be told: the store's
			// checksums are for that. But nothing may be left half done.
			e.mu.RLock()
			defer e.mu.RUnlock()
			for _, p := range e.parts {
				if p.index.Len() != p.live {
					t.Errorf("%s: %d vectors of %d entries", name, p.index.Len(), p.live)
				}
			}
			if _, err := e.restoreOnly(t); err != nil {
				t.Errorf("%s: refused (%v), and the records are not what was loaded", name, err)
			}
		}
	}
	try("whole", good)
	for n := 0; n < len(good); n += 1 + len(good)/300 {
		try(fmt.Sprint("cut at ", n), good[:n])
		flipped := slices.Clone(good)
		flipped[n] ^= 1 << w.rng.IntN(8)
		try(fmt.Sprint("flipped at ", n), flipped)
	}
	try("longer", append(slices.Clone(good), 0))
}

func TestSnapshotOfManyPartitionsAllocatesLittle(t *testing.T) {
	w := newWorld(t, 3)
	for i := range 2000 {
		q := ask(fmt.Sprint(i), func(q *Query) { q.Scope = fmt.Append(nil, i) })
		w.Lookup(t.Context(), q)
		if _, err := w.Store(t.Context(), q, Answer{Encoded: []byte("a")}, StoreOptions{}); err != nil {
			t.Fatal(err)
		}
		w.store.commit(10)
	}
	bytes := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := w.Snapshot(t.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if parts := len(w.parts); parts < 500 || bytes > int64(parts)*8<<10 {
		t.Errorf("%d bytes for %d partitions", bytes, parts)
	}
}

func TestSnapshotsAreMadeWhenWorthwhile(t *testing.T) {
	w := newWorld(t, 4)
	if w.SnapshotWorthwhile() {
		t.Error("an empty cache is worth a snapshot")
	}
	for i := range 150 {
		w.Store(t.Context(), ask(fmt.Sprint(i)), Answer{Encoded: []byte("a")}, StoreOptions{})
	}
	w.store.commit(1000)
	if !w.SnapshotWorthwhile() {
		t.Error("150 changes without a snapshot")
	}
	if err := w.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.SnapshotWorthwhile() {
		t.Error("there is nothing new")
	}
	w.store.fail = errors.New("EIO")
	w.Store(t.Context(), ask("x"), Answer{Encoded: []byte("a")}, StoreOptions{})
	w.store.commit(10)
	w.store.fail = nil
	if err := w.Snapshot(t.Context()); !errors.Is(err, errUnsaved) {
		t.Errorf("a snapshot of what the disk lacks: %v", err)
	}
}

func TestReadAheadIsTheSameAndEnds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{0, 1, aheadBytes - 1, aheadBytes, aheadBytes + 1, 20*aheadBytes + 7} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		a, done := readAhead(bytes.NewReader(want))
		got, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came, %v", size, len(got), err)
		}
		a.end()
		<-done
		a, done = readAhead(bytes.NewReader(want)) // given up early
		io.ReadFull(a, make([]byte, min(size, 10)))
		a.end()
		<-done
	}
	broken := errors.New("EIO")
	a, done := readAhead(io.MultiReader(bytes.NewReader([]byte("ab")), iotest.ErrReader(broken)))
	if got, err := io.ReadAll(a); string(got) != "ab" || err != broken {
		t.Errorf("%q, %v", got, err)
	}
	a.end()
	<-done
}
