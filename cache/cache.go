// Package cache is the engine: it decides whether a stored answer may be given
// to a new question.
//
// A lookup goes through three gates. The exact tier serves an entry whose
// canonical request equals the question's byte for byte. The semantic tier
// compares the embedding of the last user text with those of entries that agree
// in everything else (the partition: tenant, namespace, model, system prompt,
// history, options, tools, vector space). The guards then refuse candidates
// whose texts are near in the vector space but ask for different things. When
// in doubt the answer is a miss.
//
// The engine holds keys, vectors and metadata in memory and writes through to a
// store.Store; it knows nothing of HTTP, bbolt or Prometheus.
package cache

import (
	"context"
	"errors"
	"time"

	"github.com/semcached/semcached/cache/admission"
	"github.com/semcached/semcached/cache/guard"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

// Errors of Store.
var (
	// ErrLoading: entries are still being read from the store.
	ErrLoading = errors.New("cache: still loading")
	// ErrNoAnswer: the answer is empty.
	ErrNoAnswer = errors.New("cache: empty answer")
	// ErrTooLarge: the entry alone exceeds the limit for one entry.
	ErrTooLarge = errors.New("cache: entry is too large")
	// ErrVector: the caller's vector cannot be used (wrong dimensions for
	// its namespace, zero, or not finite). The wrapped text says which.
	ErrVector = errors.New("cache: unusable vector")
)

// ErrBusy: the store takes no more writes now.
var ErrBusy = store.ErrBusy

// ErrInvalidated: an invalidation that covers the entry came between the Lookup
// and the Store, so the answer may be out of date and was not kept.
var ErrInvalidated = errors.New("cache: invalidated while the answer was made")

// ErrNotFound: no such entry for this tenant.
var ErrNotFound = errors.New("cache: no such entry")

// ErrEmptySelection: an invalidation that selects nothing in particular.
var ErrEmptySelection = errors.New("cache: empty selection")

// Embedder turns text into vectors. It is safe for concurrent use.
type Embedder interface {
	// Embed returns the vector of text and the identity of the vector space
	// it lives in (provider, model digest, dimensions). Vectors of
	// different spaces are never compared. The caller must not change the
	// vector. Embed honours ctx's deadline.
	Embed(ctx context.Context, text string) (vector []float32, space string, err error)

	// Threshold returns the similarity in (0, 1] from which two texts of
	// the space may be taken for the same question.
	Threshold(space string) float32
}

// Mode restricts how a request may be served.
type Mode uint8

// The modes.
const (
	ModeSemantic Mode = iota // exact, then semantic
	ModeExact                // exact only
)

// Query is one question, as the engine sees it. Lookup remembers in it what it
// computed (key, vector), so that the Store after a miss need not do it again;
// for that reason a Query is used by one goroutine at a time.
type Query struct {
	Tenant    string
	Namespace string
	Op        string // "chat", "generate"
	Model     string // folded
	Digest    string // model digest as known now, "" if unknown
	// Provider keeps the answers of another source than the usual one apart:
	// it is part of key and partition unless it is "".
	Provider string

	// Canonical is everything in the request that can change the answer.
	Canonical []byte
	// Scope is Canonical without Prompt; nil forbids semantic lookup.
	Scope []byte
	// Prompt is the text to be compared.
	Prompt string
	// ExactOnly says why Scope is nil, for the miss reason.
	ExactOnly string

	// Vector is the caller's own embedding of Prompt; nil uses the Embedder.
	Vector []float32

	Mode      Mode
	Threshold float32       // may only tighten the engine's; 0 leaves it
	MaxAge    time.Duration // entries older than this are not served; < 0: no limit (0 serves none)

	// Refresh serves nothing: Lookup is a miss with ReasonRefresh, and only
	// prepares the Store that follows (RFC 9111 "no-cache").
	Refresh bool
	// WantNearest asks for Result.Nearest on a miss.
	WantNearest bool

	// What Lookup leaves for Store.
	keyed bool
	key   Key
	vec   []float32        // nil: not embedded yet
	space string           // of vec
	part  Key              // partition of vec
	sig   *guard.Signature // of Prompt
	note  *index.Note      // of the search in part; nil: none
	began uint64           // 1 + invalidations seen when Lookup began; 0: no Lookup
}

// Key is a SHA-256 hash.
type Key [32]byte

// Kind is how a lookup was answered.
type Kind uint8

// The kinds.
const (
	Miss Kind = iota
	Exact
	Semantic
	Stale // the exact entry, after its time; only from Engine.Stale
)

// String returns "miss", "exact", "semantic" or "stale".
func (k Kind) String() string { return [...]string{"miss", "exact", "semantic", "stale"}[k] }

// Result is the outcome of a Lookup. On a miss only Reason, Threshold and
// Nearest are set.
type Result struct {
	Kind       Kind
	Reason     string  // why it is a miss: one of the Reason constants or "guard-..."
	Similarity float32 // cosine; 1 for exact
	Threshold  float32 // in force for this lookup, 0 if no semantic lookup took place

	Entry  Entry  // the entry served
	Answer []byte // its encoded answer; must not be changed

	// Nearest is, on a miss, the most similar entry that was refused, or
	// with Query.WantNearest the most similar of the partition.
	Nearest *Candidate
}

// Reasons of a miss, for headers, metrics and explain. A guard's veto is
// reported as "guard-" and the guard's name.
const (
	ReasonAbsent       = "absent"            // nothing similar enough
	ReasonExpired      = "expired"           // the exact entry's time is over
	ReasonMaxAge       = "max-age"           // the exact entry is older than the request allows
	ReasonModelChanged = "model-changed"     // the model's digest is another one now
	ReasonExactOnly    = "exact-only"        // no exact entry, and semantic lookup is not allowed
	ReasonNoEmbedding  = "no-embedding"      // the embedder failed
	ReasonEmbedTimeout = "embed-timeout"     // the embedder was too slow
	ReasonCorrupt      = "corrupt"           // the entry's answer could not be read
	ReasonStoreFault   = "store-fault"       // the entry's answer could not be read now
	ReasonLoading      = "loading"           // entries are still being read
	ReasonRefresh      = "refresh"           // the query asked for a fresh answer
	ReasonTimely       = "time-sensitive"    // the question is about now; only exact entries may answer
	ReasonContext      = "context-dependent" // the question makes no sense alone; likewise
	ReasonIndex        = "index-fault"       // the index failed inside
	ReasonBadVector    = "unusable-vector"   // wrong dimensions, zero or not finite
)

// Candidate is an entry near a question.
type Candidate struct {
	ID         uint64
	Similarity float32
	Verdict    string // "", "below-threshold", "expired", "guard-...": why it was not served
}

// Entry describes a stored entry.
type Entry struct {
	ID                        uint64
	Tenant                    string
	Namespace                 string
	Op                        string
	Model                     string
	Digest                    string
	Provider                  string
	Tags                      []string
	Prompt                    string
	Created                   time.Time
	Expires                   time.Time
	Hits                      uint64
	Bytes                     int64
	Semantic                  bool // has a vector
	Cost                      time.Duration
	InputTokens, OutputTokens int
}

// Answer is what Store keeps for a Query.
type Answer struct {
	Encoded                   []byte // opaque; owned by the engine afterwards
	Provider                  string
	Digest                    string // digest of the model that made it
	Cost                      time.Duration
	InputTokens, OutputTokens int
}

// StoreOptions are the per-call settings of Store.
type StoreOptions struct {
	TTL  time.Duration // 0: the engine's default
	Tags []string
	Sync bool // return only when the entry is durable
	// Embed waits for the vector, within the embedder's time; without, an
	// entry whose Lookup made none gets it in the background.
	Embed bool
}

// Selection says which entries Invalidate removes: those of Tenant that match
// every field that is set. Without any field or All it is empty, an error.
type Selection struct {
	Tenant    string
	Namespace *string
	Model     string // folded
	Tag       string
	Prompt    string
	All       bool
	DryRun    bool
}

// Explanation is a Lookup taken apart, for people.
type Explanation struct {
	Key        string // hex
	Partition  string // hex, "" without a semantic lookup
	Space      string
	Threshold  float32
	Kind       Kind
	Reason     string
	Candidates []Candidate // most similar first
}

// Quota bounds the bytes and the number of a tenant's entries; 0 is no bound.
type Quota = admission.Limit

// Tenant is the use that one tenant makes of the cache.
type Tenant struct {
	Name    string
	Entries int
	Bytes   int64
	Quota   Quota
}

// Stats are the engine's figures since the start.
type Stats struct {
	Loading    bool
	Entries    int
	Bytes      int64 // of all entries: keys, texts, vectors and answers, wherever they are
	MaxBytes   int64
	Partitions int

	// Answers may lie on disk only; all else is in memory as well. So the entries
	// take Bytes - AnswerBytes + AnswerMemory of memory.
	AnswerBytes     int64  // part of Bytes
	AnswerMemory    int64  // bytes of the answers in memory
	AnswerMemoryMax int64  // Options.AnswerMemory
	AnswersHeld     int    // answers in memory
	AnswerReads     uint64 // answers that had to be read from the store

	Tenants []Tenant // those with the most bytes, at most ten of them

	HitsExact, HitsSemantic, HitsStale, Misses uint64

	Unsaved       int // writes that failed and will be tried again
	Stored        uint64
	StoreFailures uint64 // writes that the store refused, or that failed while somebody waited
	Unembedded    uint64 // entries left exact-only because no vector could be had

	Evictions   map[string]uint64 // by reason: ttl, size, admission, quota, invalidate, model_change, corrupt
	MissReasons map[string]uint64
	Tiers       map[string]Tier // by Stats.Tier of the index
}

// Tier sums up the indexes of one implementation.
type Tier struct {
	Indexes, Vectors, Tombstones int
	Bytes, Hot                   int64   // as in index.Stats
	Probed                       int     // questions of the last comparisons with exact answers
	Recall                       float64 // the lowest of them; 1 if there were none
}

// Hooks observe the engine; nil funcs are skipped. They are called on the path
// of a request and must be quick and safe for concurrent use.
type Hooks struct {
	// Stage reports the duration of one step of a lookup: "key", "exact",
	// "embed", "ann", "fetch".
	Stage func(stage string, d time.Duration)
	// Similarity reports the best candidate's cosine and whether it was served.
	Similarity func(cosine float32, served bool)
	// Evicted reports n entries removed for one of the reasons of
	// Stats.Evictions.
	Evicted func(reason string, n int)
	// Stored reports the end of a Store: "stored", "rejected_size",
	// "rejected_policy", "rejected_error".
	Stored func(result string)
}
