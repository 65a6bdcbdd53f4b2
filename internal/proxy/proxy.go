// Package proxy is the path of one request: read, decode, look up, and either
// replay a stored answer or ask the upstream and keep what it says.
//
// Inference routes go through the cache; everything else passes through. Nothing
// here keeps state between requests but the decoded bodies of recent ones.
package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/flight"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// Engine is what the proxy asks of *cache.Engine.
type Engine interface {
	Ready() bool
	Lookup(ctx context.Context, q *cache.Query) cache.Result
	Peek(q *cache.Query) cache.Result
	Stale(q *cache.Query) cache.Result
	Store(ctx context.Context, q *cache.Query, a cache.Answer, o cache.StoreOptions) (uint64, error)
}

const (
	defaultMaxBody = 20 << 20
	// maxAnswer bounds a whole answer, maxLine a line of a streamed one.
	maxAnswer = 32 << 20
	maxLine   = 8 << 20
	// writeTimeout is how long a client may take to accept one chunk. There
	// is no bound on the whole answer: streams may last.
	writeTimeout = 2 * time.Minute
)

// Options configure a Proxy.
type Options struct {
	Engine   Engine         // required
	Upstream *upstream.Pool // required
	// MaxBody bounds request bodies other than uploads. Default: 20 MiB.
	MaxBody int64
	// Sync makes every stored answer durable before its client sees the end.
	Sync bool
	// Fallback answers when no upstream does; nil: nobody does.
	Fallback *Fallback
	// Filter is applied to every answer; nil: none.
	Filter *filter.Filter
	// Pseudonym is our name in Via headers. Default: a random one.
	Pseudonym string
	Now       func() time.Time // default: time.Now
	Tracer    span.Tracer      // nil: no traces
	Hooks     Hooks
	Log       *slog.Logger // default: discards

	endTime time.Duration // for tests, instead of the constant
}

// Fallback is an OpenAI-compatible server that answers when the upstreams fail.
type Fallback struct {
	Pool *upstream.Pool // of its one base URL, /v1 included
	Host string         // its name in answers, headers and keys
	Key  string         // sent as Authorization; "": nothing is
	// Models are its names of our models, by folded name; "*" stands for all
	// others. A model without a name has no fallback.
	Models    map[string]string
	MaxTokens string // see wire.CloudOptions
}

// model returns the fallback's name of a model.
func (f *Fallback) model(folded string) (string, bool) {
	if name, ok := f.Models[folded]; ok {
		return name, true
	}
	name, ok := f.Models["*"]
	return name, ok
}

// Hooks observe requests; nil funcs are skipped.
type Hooks struct {
	Done      func(Event)     // an inference or pass-through request has ended
	Inflight  func(delta int) // an inference request begins (+1) or ends (-1)
	Collapsed func()          // a request joined another's upstream call
	// Fallback reports that the upstreams failed for a reason ("dial",
	// "timeout", "broken", "5xx", "breaker", "garbage", "error") and how that
	// ended: "served", "cached", "stale", "failed" or "none" (there was no way out).
	Fallback func(reason, result string)
	// Recovered reports that an upstream answered.
	Recovered func()
	// Rendered reports the time that it took to write out a stored answer.
	Rendered func(d time.Duration)
	// Incomplete reports an answer that was not kept because it was not whole.
	Incomplete func()
	// Filtered reports a match of a rule of the output filter.
	Filtered func(rule, action string)
}

// Event describes a request that has ended.
type Event struct {
	Route     string // path of an inference route, "other" else
	Outcome   string // hit_exact, hit_semantic, stale, miss, bypass, error
	Source    string // cache, ollama, fallback; "" if nothing was sent
	Reason    string // of a miss or bypass
	Stream    bool
	Status    int
	Duration  time.Duration
	FirstByte time.Duration // 0 if nothing was sent

	// The answer, as far as it is known; of a hit also what it saved.
	InputTokens, OutputTokens int
	Eval                      time.Duration // that the model took for the output
	ModelTime                 time.Duration // that a hit saved
	DoneReason                string

	RequestID  string
	TraceID    string // "" unless traced
	SpanID     string
	Tenant     string
	Model      string // as the client wrote it
	Turns      int    // messages
	Prompt     string // last user text
	UserAgent  string
	Key        cache.Key
	Similarity float32
	Age        time.Duration
	Err        string // what the client was told went wrong
	Remote     string // the fallback's host, if it answered
	In, Out    int64  // bytes of the bodies
	Attempts   []Attempt
	Filtered   []string // rules that matched
	Kept       *Kept    // nil: nothing was, or the request that this one has joined did
}

// Kept is an answer that has been stored, and what it is the answer to. It is read-only.
type Kept struct {
	Op        wire.Op
	Namespace string
	Canonical []byte
	Tags      []string
	Answer    *wire.Answer
}

// Attempt is one call of an upstream or fallback.
type Attempt struct {
	Backend  string
	Status   int // 0: no answer
	Duration time.Duration
	Err      string
}

// Proxy makes the handlers. It is safe for concurrent use.
type Proxy struct {
	o       Options
	pseudo  string // our name in Via headers
	flights flight.Group[flightKey]
	bodies  bodyMemo
}

// New returns a proxy.
func New(o Options) (*Proxy, error) {
	if o.Engine == nil || o.Upstream == nil {
		return nil, errors.New("proxy: Options.Engine and Options.Upstream are required")
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.Pseudonym == "" {
		o.Pseudonym = NewPseudonym()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.endTime == 0 {
		o.endTime = endTime
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Proxy{o: o, pseudo: o.Pseudonym}, nil
}

// NewPseudonym returns a random name for Via headers.
func NewPseudonym() string { return "semcached-" + strings.ToLower(rand.Text()[:6]) }

// RequestID returns the request's own ID if it has a sane one, else a new one.
func RequestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		id = "req_" + strings.ToLower(rand.Text()[:20])
	}
	return id
}
