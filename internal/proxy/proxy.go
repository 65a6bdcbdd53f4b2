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
	"github.com/semcached/semcached/internal/flight"
	"github.com/semcached/semcached/internal/upstream"
)

// Engine is what the proxy asks of *cache.Engine.
type Engine interface {
	Ready() bool
	Lookup(ctx context.Context, q *cache.Query) cache.Result
	Peek(q *cache.Query) cache.Result
	Store(ctx context.Context, q *cache.Query, a cache.Answer, o cache.StoreOptions) (uint64, error)
}

// LocalTenant is the tenant of every request while there are no API keys.
const LocalTenant = "local"

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
	// Tenant names who asks. Default: LocalTenant for everybody.
	Tenant func(*http.Request) string
	Now    func() time.Time // default: time.Now
	Hooks  Hooks
	Log    *slog.Logger // default: discards
}

// Hooks observe requests; nil funcs are skipped.
type Hooks struct {
	Done      func(Event)     // an inference or pass-through request has ended
	Inflight  func(delta int) // an inference request begins (+1) or ends (-1)
	Collapsed func()          // a request joined another's upstream call
}

// Event describes a request that has ended.
type Event struct {
	Route     string // path of an inference route, "other" else
	Outcome   string // hit_exact, hit_semantic, miss, bypass, error
	Source    string // cache, ollama; "" if nothing was sent
	Reason    string // of a miss or bypass
	Stream    bool
	Status    int
	Duration  time.Duration
	FirstByte time.Duration // 0 if nothing was sent

	// What a hit saved.
	InputTokens, OutputTokens int
	ModelTime                 time.Duration
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
	if o.Tenant == nil {
		o.Tenant = func(*http.Request) string { return LocalTenant }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Proxy{o: o, pseudo: "semcached-" + strings.ToLower(rand.Text()[:6])}, nil
}

// RequestID returns the request's own ID if it has a sane one, else a new one.
func RequestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		id = "req_" + strings.ToLower(rand.Text()[:20])
	}
	return id
}
