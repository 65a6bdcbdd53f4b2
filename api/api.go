// Package api is the HTTP edge: it routes clients' requests to the proxy, serves
// the cache API under /cache, and turns away browsers that have no business here.
// It is the only package that knows gin.
package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/wire"
)

// Proxy is what the edge asks of *proxy.Proxy.
type Proxy interface {
	Inference(op wire.Op) http.Handler
	ChatCompletions() http.Handler
	Passthrough() http.Handler
	Screen(op wire.Op, a *wire.Answer) error
}

// Engine is what the cache API asks of *cache.Engine.
type Engine interface {
	Ready() bool
	Lookup(ctx context.Context, q *cache.Query) cache.Result
	Store(ctx context.Context, q *cache.Query, a cache.Answer, o cache.StoreOptions) (uint64, error)
	Explain(ctx context.Context, q *cache.Query) cache.Explanation
	Invalidate(ctx context.Context, s cache.Selection) (matched, deleted int, err error)
	Entry(tenant string, id uint64) (cache.Entry, []byte, error)
	Delete(ctx context.Context, tenant string, id uint64) error
	CheckVector(tenant, namespace string, v []float32) error
	Stats() cache.Stats
	Usage(tenant string) cache.Tenant
}

// Options configure the edge.
type Options struct {
	Proxy  Proxy  // required
	Engine Engine // required
	// MaxBody bounds bodies of the cache API. Default: 20 MiB.
	MaxBody int64
	// Loopback says that the listener is bound to loopback: the Host header
	// must then name this machine, as Ollama asks, or a web page could reach
	// us through a name of its own (DNS rebinding).
	Loopback bool
	// Origins of browsers that are allowed beside Ollama's defaults.
	Origins []string
	// Tenants are those who may ask, by key. Without any, everybody is one
	// tenant.
	Tenants *tenant.Set
	// Routes are the ones that may be used, as "POST /api/chat" or "/v1/*".
	// Default: all.
	Routes []string
	// TLS says that clients come by TLS.
	TLS bool
	// Refused reports a request that was turned away: "unauthorized",
	// "forbidden", "rate", "concurrency", "route". May be nil.
	Refused func(reason string)
	Now     func() time.Time // default: time.Now
	Log     *slog.Logger     // default: discards
}

const defaultMaxBody = 20 << 20

// New returns the handler of the main listener.
func New(o Options) (http.Handler, error) {
	if o.Proxy == nil || o.Engine == nil {
		return nil, errors.New("api: Options.Proxy and Options.Engine are required")
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleMethodNotAllowed = false, false, false
	r.UseRawPath = false
	if err := r.SetTrustedProxies(nil); err != nil {
		return nil, err
	}
	r.Use(recovery(o.Log), headers(o.TLS), guards(o), access(o))
	r.POST("/api/chat", gin.WrapH(o.Proxy.Inference(wire.OpChat)))
	r.POST("/api/generate", gin.WrapH(o.Proxy.Inference(wire.OpGenerate)))
	r.POST("/v1/chat/completions", gin.WrapH(o.Proxy.ChatCompletions()))
	c := cacheAPI{o}
	for _, rt := range c.routes() {
		r.Handle(rt.method, rt.path, rt.handler)
	}
	pass := o.Proxy.Passthrough()
	r.NoRoute(func(g *gin.Context) {
		if wire.ProtocolOf(g.Request.URL.Path) == wire.Problem {
			c.unknown(g)
			return
		}
		g.Status(http.StatusOK) // gin has put 404 there; the upstream decides
		pass.ServeHTTP(g.Writer, g.Request)
	})
	return r, nil
}

// recovery answers 500 after a panic. http.ErrAbortHandler goes on: it is how a
// proxied stream that has died cuts the connection, which the client must see.
func recovery(log *slog.Logger) gin.HandlerFunc {
	return func(g *gin.Context) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			log.Error("panic in a handler", "route", g.FullPath(), "panic", p, "stack", string(debug.Stack()))
			if g.Writer.Written() {
				panic(http.ErrAbortHandler)
			}
			fail(g, http.StatusInternalServerError, "internal error")
		}()
		g.Next()
	}
}

// headers gives every answer its request's ID and tells browsers to do nothing with
// it but read it.
func headers(tls bool) gin.HandlerFunc {
	return func(g *gin.Context) {
		h := g.Writer.Header()
		h.Set("X-Request-Id", proxy.RequestID(g.Request))
		h["X-Content-Type-Options"] = nosniff
		h["X-Frame-Options"] = deny
		h["Content-Security-Policy"] = noContent
		h["Referrer-Policy"] = noReferrer
		if tls {
			h["Strict-Transport-Security"] = twoYears
		}
	}
}

// Header values that are shared, and so not to be changed.
var (
	nosniff    = []string{"nosniff"}
	deny       = []string{"DENY"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
	noReferrer = []string{"no-referrer"}
	twoYears   = []string{"max-age=63072000"}
)

// fail answers with an error in the protocol of the route.
func fail(g *gin.Context, status int, detail string) {
	kind, body := wire.ErrorBody(wire.ProtocolOf(g.Request.URL.Path), status, detail)
	g.Abort()
	g.Data(status, kind, body)
}

// methodsOf lists the methods of a path of the cache API.
func (c cacheAPI) methodsOf(path string) string {
	var methods []string
	for _, rt := range c.routes() {
		prefix, _, param := strings.Cut(rt.path, ":")
		if rt.path == path || param && strings.HasPrefix(path, prefix) && len(path) > len(prefix) && !strings.Contains(path[len(prefix):], "/") {
			methods = append(methods, rt.method)
		}
	}
	return strings.Join(methods, ", ")
}

// unknown answers a request under /cache that no route takes.
func (c cacheAPI) unknown(g *gin.Context) {
	if methods := c.methodsOf(g.Request.URL.Path); methods != "" {
		g.Header("Allow", methods)
		fail(g, http.StatusMethodNotAllowed, "use "+methods)
		return
	}
	fail(g, http.StatusNotFound, "there is no such route; GET /cache/openapi.yaml lists them")
}
