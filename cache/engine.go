package cache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/cache/admission"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

// Options configure an Engine.
type Options struct {
	Store store.Store // required
	// NewIndex makes the index of one partition. Default: index.NewFlat.
	NewIndex func(dims int) index.Index
	// LoadIndex reads an index of NewIndex's kind from its snapshot. nil makes no
	// snapshots, unless NewIndex is nil as well.
	LoadIndex func(r io.Reader) (index.Index, error)
	// Embedder makes the vectors; nil allows exact lookups and callers'
	// own vectors only.
	Embedder Embedder
	// Threshold overrides the embedder's own; 0 keeps it.
	Threshold float32
	// TTL is the life of an entry when a Store names none. Default: 1 h.
	TTL time.Duration
	// KeepStale is how long an entry is kept after its time, for Engine.Stale.
	// Default: not at all.
	KeepStale time.Duration
	// MaxBytes bounds the bytes of all entries (keys, texts, vectors and
	// answers), in memory and on disk. Default: 512 MiB.
	MaxBytes int64
	// AnswerMemory bounds the bytes of the answers that are held in memory; the
	// others are read from the store when they are served. Default: 256 MiB.
	AnswerMemory int64
	// EmbedTimeout bounds the wait for the embedder. Default: 150 ms.
	EmbedTimeout time.Duration
	// Now is the clock. Default: time.Now.
	Now   func() time.Time
	Hooks Hooks
	Log   *slog.Logger // default: discards

	// seed makes the choice of what goes repeatable, for tests; 0 does not.
	seed uint64
}

const (
	defaultTTL          = time.Hour
	defaultMaxBytes     = 512 << 20
	defaultAnswerMemory = 256 << 20
	defaultEmbedTimeout = 150 * time.Millisecond

	// lateEmbedTimeout bounds the embedding of entries that were stored
	// without a vector; nobody waits for it.
	lateEmbedTimeout = 10 * time.Second
	// lateQueue bounds the entries waiting for a vector; one beyond it
	// stays exact-only.
	lateQueue = 1024

	// callerThreshold is the similarity asked of callers' own vectors when
	// Options.Threshold is not set: nothing is known of their space, so it
	// is as strict as that of the strictest small encoders.
	callerThreshold = 0.95

	// candidates is how many entries above the threshold a lookup looks
	// at: the guards may refuse the first ones.
	candidates = 8
)

func (o *Options) setDefaults() error {
	if o.Store == nil {
		return errors.New("cache: Options.Store is required")
	}
	if o.Threshold < 0 || o.Threshold > 1 {
		return errors.New("cache: Options.Threshold must lie between 0 and 1")
	}
	if o.TTL < 0 || o.KeepStale < 0 || o.MaxBytes < 0 || o.AnswerMemory < 0 || o.EmbedTimeout < 0 {
		return errors.New("cache: Options.TTL, KeepStale, MaxBytes, AnswerMemory and EmbedTimeout must not be negative")
	}
	if o.NewIndex == nil {
		o.NewIndex = func(dims int) index.Index { return index.NewFlat(dims) }
		o.LoadIndex = func(r io.Reader) (index.Index, error) { return index.LoadFlat(r) }
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.AnswerMemory == 0 {
		o.AnswerMemory = defaultAnswerMemory
	}
	if o.EmbedTimeout == 0 {
		o.EmbedTimeout = defaultEmbedTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return nil
}

// Engine is the cache. All methods are safe for concurrent use.
type Engine struct {
	o     Options
	ready atomic.Bool
	late  chan lateJob // entries waiting for a vector; closed by nobody

	lastID  atomic.Uint64
	count   counters
	minimum atomic.Uint32 // bits of Options.Threshold
	ttl     atomic.Int64  // Options.TTL

	answers answers
	unsaved unsaved
	covered atomic.Uint64 // last change that the last snapshot covers

	saving sync.Mutex // held while a snapshot is made; before gate
	// gate is held for reading from the moment an entry is in the maps until its
	// vector is in its index, so that a snapshot finds both or neither; before mu.
	gate sync.RWMutex

	// mu guards everything below and the fields of partition and entry
	// that say so. An index has a lock of its own, taken without mu.
	mu          sync.RWMutex
	byKey       map[Key]*entry
	byID        map[uint64]*entry
	parts       map[Key]*partition
	policy      *admission.Policy[*entry] // all entries; Use needs no lock
	answerBytes int64                     // of all entries
	caller      map[space]callerDims      // dimensions of callers' own vectors
	recent      []invalidation            // the last few, for Stores under way
	epoch       uint64                    // number of invalidations so far
	loosening   bool                      // a snapshot is being written
	loose       []loose                   // vectors that came or went meanwhile
}

// entry is one stored answer. Fields above the first gap never change.
type entry struct {
	admission.Item[*entry] // Cost, Expires and what the policy needs

	id          uint64
	key         Key
	tenant      string
	namespace   string
	op          string
	model       string
	digest      string
	provider    string
	tags        []string
	canonical   []byte
	prompt      string
	created     time.Time
	input       int
	output      int
	answerBytes int

	answer  atomic.Pointer[[]byte] // nil: only in the store
	seat    seat                   // in Engine.answers
	sig     signature
	hits    atomic.Uint64
	durable atomic.Bool // the store has committed a record of it
	refused atomic.Bool // the store takes no record of it

	part    *partition // guarded by Engine.mu; nil without a vector
	callers bool       // the vector came with the request; guarded by Engine.mu
	removed bool       // guarded by Engine.mu
	writes  int        // records queued so far; guarded by Engine.mu
}

// partition holds the vectors of the entries that agree in everything but the
// prompt.
type partition struct {
	id    Key
	index index.Index
	live  int // entries that point here, guarded by Engine.mu
}

// space names where callers' own vectors are compared.
type space struct{ tenant, namespace string }

// callerDims is the dimension of a caller's space while it has entries.
type callerDims struct{ dims, live int }

// New returns an empty engine that is still loading: call Load, then start Run.
func New(o Options) (*Engine, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	e := &Engine{
		o:      o,
		late:   make(chan lateJob, lateQueue),
		byKey:  make(map[Key]*entry),
		byID:   make(map[uint64]*entry),
		parts:  make(map[Key]*partition),
		policy: admission.New[*entry](o.MaxBytes, o.seed),
		caller: make(map[space]callerDims),
	}
	e.answers.max, e.answers.use = o.AnswerMemory, e.policy.Sketch()
	e.Configure(o.Threshold, o.TTL)
	return e, nil
}

// Configure changes the threshold (0: the embedder's own) and the default life of
// entries while the engine runs. Both are as in Options; 0 leaves the life as it is.
func (e *Engine) Configure(threshold float32, ttl time.Duration) {
	e.minimum.Store(math.Float32bits(threshold))
	if ttl > 0 {
		e.ttl.Store(int64(ttl))
	}
}

// Ready reports whether Load has finished.
func (e *Engine) Ready() bool { return e.ready.Load() }

// sweepEvery is how often Run looks for expired entries; sweepBatch bounds how
// many it removes in one commit, so that a mass expiry does not stall writes.
const (
	sweepEvery = time.Second
	sweepBatch = 1000
)

// Run embeds entries that were stored without a vector and removes expired ones
// until ctx ends. It returns ctx's error.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { e.embedLate(ctx) })
	wg.Go(func() { e.snapshots(ctx) })
	defer wg.Wait()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if !e.Ready() {
				continue
			}
			if n%retryTicks == 0 {
				e.retry()
			}
			e.sweep(ctx)
			e.shrink(sweepBatch)
			e.answers.trim()
		}
	}
}

// sweep removes what has expired: what the store knows, in bounded batches, and
// a sample of what only memory knows (entries whose write failed).
func (e *Engine) sweep(ctx context.Context) {
	now := e.o.Now().Add(-e.o.KeepStale)
	for ctx.Err() == nil {
		ids, err := e.o.Store.Expired(now, sweepBatch)
		if err != nil {
			e.o.Log.Warn("cannot look for expired entries", "error", err)
			return
		}
		if len(ids) == 0 {
			break
		}
		if err := e.dropDurably(ctx, ids, "ttl"); err != nil {
			return // counted by the store; the next sweep tries again
		}
	}
	var gone []uint64
	e.mu.RLock()
	items := e.policy.Items()
	for range min(sweepBatch, len(items)) {
		if en := items[rand.IntN(len(items))].Value; !en.Expires.After(now) {
			gone = append(gone, en.id)
		}
	}
	e.mu.RUnlock()
	e.drop(gone, "ttl")
}

func await(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
