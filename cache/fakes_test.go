package cache

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/store"
)

// fakeStore is a store whose failures the test decides. Writes are durable at once.
type fakeStore struct {
	mu      sync.Mutex // guards everything below
	recs    map[uint64]*store.Record
	last    uint64
	putErr  error           // returned by Put
	syncErr error           // given to done
	readErr error           // returned by Answer
	rotten  map[uint64]bool // answers that cannot be read
	reads   int
	seq     uint64
}

func newFakeStore() *fakeStore {
	return &fakeStore{recs: make(map[uint64]*store.Record), rotten: make(map[uint64]bool)}
}

func (s *fakeStore) Put(r *store.Record, _ bool, done func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.putErr != nil {
		return s.putErr
	}
	if s.syncErr == nil {
		s.seq++
		s.recs[r.ID] = r
		s.last = max(s.last, r.ID)
	}
	if done != nil {
		go done(s.syncErr)
	}
	return nil
}

func (s *fakeStore) Delete(ids []uint64, _ bool, done func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.syncErr == nil {
		s.seq++
		for _, id := range ids {
			delete(s.recs, id)
		}
	}
	if done != nil {
		go done(s.syncErr)
	}
	return nil
}

func (s *fakeStore) Load(_ context.Context, now time.Time, fn func(*store.Record) error) (store.LoadReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*store.Record
	for _, r := range s.recs {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *store.Record) int { return cmp.Compare(a.ID, b.ID) })
	report := store.LoadReport{LastID: s.last}
	for _, r := range all {
		if !r.Expires.After(now) {
			report.Expired++
			continue
		}
		c := *r
		c.Answer = nil
		if err := fn(&c); err != nil {
			return report, err
		}
		report.Records++
	}
	return report, nil
}

func (s *fakeStore) Answer(id uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.readErr != nil {
		return nil, s.readErr
	}
	if s.rotten[id] {
		return nil, store.ErrCorrupt
	}
	r := s.recs[id]
	if r == nil {
		return nil, store.ErrNotFound
	}
	return slices.Clone(r.Answer), nil
}

func (s *fakeStore) Expired(now time.Time, limit int) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint64
	for id, r := range s.recs {
		if !r.Expires.After(now) && len(ids) < limit {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *fakeStore) Sync(context.Context) error    { return nil }
func (s *fakeStore) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (s *fakeStore) Close() error                  { return nil }
func (s *fakeStore) Stats() store.Stats            { return store.Stats{Kind: "fake"} }

func (s *fakeStore) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// Changes keeps no log.
func (s *fakeStore) Changes(_ context.Context, after uint64, _ func(store.Change) error) error {
	if after < s.Seq() {
		return store.ErrGone
	}
	return nil
}

func (s *fakeStore) SaveSnapshot(uint64, func(io.Writer) error) error { return nil }
func (s *fakeStore) Snapshot() (uint64, io.ReadCloser, error)         { return 0, nil, store.ErrNotFound }

func (s *fakeStore) set(fn func(*fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s)
}

func (s *fakeStore) ids() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint64
	for id := range s.recs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// fakeEmbedder knows the vectors of the texts that a test uses.
type fakeEmbedder struct {
	mu      sync.Mutex // guards everything below
	vectors map[string][]float32
	space   string
	calls   int
	err     error
	hang    bool // wait for the deadline
}

func (f *fakeEmbedder) Embed(ctx context.Context, text string) ([]float32, string, error) {
	f.mu.Lock()
	f.calls++
	v, err, hang, space := f.vectors[text], f.err, f.hang, f.space
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, "", ctx.Err()
	}
	if err != nil {
		return nil, "", err
	}
	if v == nil {
		return nil, "", errors.New("unknown text: " + text)
	}
	return v, space, nil
}

func (f *fakeEmbedder) Threshold(string) float32 { return 0.9 }

func (f *fakeEmbedder) set(fn func(*fakeEmbedder)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f)
}

// rig is an engine with its fakes and a clock that stands still.
type rig struct {
	*Engine
	t     *testing.T
	store *fakeStore
	emb   *fakeEmbedder
	now   time.Time
}

// Texts of the rig's embedder. paris and capital ask the same; tower is near
// them in the vector space but asks for something else by its number.
const (
	paris   = "What is the capital of France?"
	capital = "Tell me the capital city of France"
	tower   = "What was the capital of France in 1789?"
	other   = "How do magnets work?"
	timely  = "What is the weather in Paris today?"
)

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, store: newFakeStore(), now: time.Unix(1_700_000_000, 0)}
	r.emb = &fakeEmbedder{space: "fake/3", vectors: map[string][]float32{
		paris:   {1, 0, 0},
		capital: {0.95, 0.3122499, 0},
		tower:   {0.99, 0, 0.1410674},
		other:   {0, 0, 1},
		timely:  {1, 0, 0},
	}}
	r.reopen(change...)
	return r
}

// reopen makes a new engine over the same store, as after a restart.
func (r *rig) reopen(change ...func(*Options)) LoadReport {
	r.t.Helper()
	o := Options{Store: r.store, Embedder: r.emb, Now: func() time.Time { return r.now }, seed: 1}
	for _, c := range change {
		c(&o)
	}
	e, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Engine = e
	report, err := e.Load(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// ask returns the query for a prompt.
func ask(prompt string, change ...func(*Query)) *Query {
	q := &Query{
		Tenant: "local", Op: "chat", Model: "m:latest", Prompt: prompt,
		Canonical: []byte("request: " + prompt), Scope: []byte("request"), MaxAge: -1,
	}
	for _, c := range change {
		c(q)
	}
	return q
}

// keep stores an answer and returns its ID.
func (r *rig) keep(q *Query, answer string, change ...func(*StoreOptions)) uint64 {
	r.t.Helper()
	var o StoreOptions
	for _, c := range change {
		c(&o)
	}
	id, err := r.Store(r.t.Context(), q, Answer{Encoded: []byte(answer), Digest: q.Digest, Cost: time.Second}, o)
	if err != nil {
		r.t.Fatalf("store %q: %v", q.Prompt, err)
	}
	return id
}

// learn looks q up, expecting a miss, and stores the answer as a proxy does.
func (r *rig) learn(prompt, answer string, change ...func(*Query)) uint64 {
	r.t.Helper()
	q := ask(prompt, change...)
	if res := r.Lookup(r.t.Context(), q); res.Kind != Miss {
		r.t.Fatalf("%q is a %v before it was stored", prompt, res.Kind)
	}
	return r.keep(q, answer)
}

// want looks q up and checks the kind and, of a hit, the answer, else the reason.
func (r *rig) want(q *Query, kind Kind, detail string) Result {
	r.t.Helper()
	res := r.Lookup(r.t.Context(), q)
	got := res.Reason
	if res.Kind != Miss {
		got = string(res.Answer)
	}
	if res.Kind != kind || got != detail {
		r.t.Errorf("%q: %v %q, want %v %q", q.Prompt, res.Kind, got, kind, detail)
	}
	return res
}
