package cache

import (
	"context"
	"log/slog"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

// Options configure an Engine.
type Options struct {
	Store store.Store // required
	// NewIndex makes the index of one partition. Default: index.NewFlat.
	NewIndex func(dims int) index.Index
	// Embedder makes the vectors; nil allows exact lookups and callers'
	// own vectors only.
	Embedder Embedder
	// Threshold overrides the embedder's own; 0 keeps it.
	Threshold float32
	// TTL is the life of an entry when a Store names none. Default: 1 h.
	TTL time.Duration
	// MaxBytes bounds the memory held by entries. Default: 512 MiB.
	MaxBytes int64
	// EmbedTimeout bounds the wait for the embedder. Default: 150 ms.
	EmbedTimeout time.Duration
	// Now is the clock. Default: time.Now.
	Now   func() time.Time
	Hooks Hooks
	Log   *slog.Logger // default: discards
}

// Engine is the cache. All methods are safe for concurrent use.
type Engine struct{}

// New returns an empty engine that is still loading: call Load, then start Run.
func New(o Options) (*Engine, error) { panic("cache") }

// Load reads the store's entries into memory; afterwards Ready is true.
func (e *Engine) Load(ctx context.Context) (store.LoadReport, error) { panic("cache") }

// Run removes expired entries and keeps within the byte budget until ctx ends.
func (e *Engine) Run(ctx context.Context) error { panic("cache") }

// Ready reports whether Load has finished.
func (e *Engine) Ready() bool { panic("cache") }

// Key returns the exact key of q: SHA-256 over tenant, namespace, operation,
// model and canonical request, each with its length in front.
func (q *Query) Key() Key { panic("cache") }

// Lookup answers q from the cache or says why not. It never fails: whatever
// goes wrong is a miss with a reason.
func (e *Engine) Lookup(ctx context.Context, q *Query) Result { panic("cache") }

// Store keeps a as the answer to q, replacing the entry of the same key. It
// returns the entry's ID once lookups find it, or, with Sync, once it is
// durable. Errors: ErrLoading, ErrNoAnswer, ErrTooLarge, ErrVector, those of
// store.Store.Put, and ctx's.
func (e *Engine) Store(ctx context.Context, q *Query, a Answer, o StoreOptions) (uint64, error) {
	panic("cache")
}

// Entry returns entry id of tenant and its encoded answer: ErrNotFound (also
// for other tenants' entries and expired ones), or the store's read error.
func (e *Engine) Entry(tenant string, id uint64) (Entry, []byte, error) { panic("cache") }

// Delete removes entry id of tenant: ErrNotFound if there is none.
func (e *Engine) Delete(ctx context.Context, tenant string, id uint64) error { panic("cache") }

// Invalidate removes the selected entries and returns how many matched and how
// many were deleted (none on a dry run). It returns when the removal is durable.
// Errors: ErrEmptySelection, those of the store.
func (e *Engine) Invalidate(ctx context.Context, s Selection) (matched, deleted int, err error) {
	panic("cache")
}

// Explain does what Lookup does and tells what it saw, serving nothing.
func (e *Engine) Explain(ctx context.Context, q *Query) Explanation { panic("cache") }

// Stats returns the current figures.
func (e *Engine) Stats() Stats { panic("cache") }
