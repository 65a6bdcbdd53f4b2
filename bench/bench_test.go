package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/semcached/semcached/api"
	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/telemetry"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
	"github.com/semcached/semcached/store/mem"
)

const dims = 384

// body is a chat of about 1.5 kB whose last question carries a number.
func body(n int) string {
	var b strings.Builder
	b.WriteString(`{"model":"reef","messages":[{"role":"system","content":"` + strings.Repeat("Answer as a harbour pilot would. ", 12) + `"}`)
	for i := range 4 {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s %d"},{"role":"assistant","content":"%s"}`,
			strings.Repeat("Which way does the tide run here? ", 3), i, strings.Repeat("Out past the light. ", 5))
	}
	fmt.Fprintf(&b, `,{"role":"user","content":"Where does berth %d lie at low water?"}],"options":{"temperature":0.2},"stream":false}`, n)
	return b.String()
}

func answer(b *testing.B) []byte {
	a := wire.Answer{Role: "assistant", Content: strings.Repeat("Past the second buoy, close to the mole. ", 48), DoneReason: "stop",
		InputTokens: 300, OutputTokens: 480, Total: 9e9, Model: "reef", Provider: "ollama"}
	encoded, err := a.AppendBinary(nil)
	if err != nil {
		b.Fatal(err)
	}
	return encoded
}

// fill returns an engine with n entries of one partition, and their vectors.
func fill(b *testing.B, n int, hooks cache.Hooks) (*cache.Engine, [][]float32) {
	e, err := cache.New(cache.Options{Store: mem.New(nil), NewIndex: func(dims int) index.Index { return sketch.New(dims) }, MaxBytes: 4 << 30, Hooks: hooks})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := e.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	rng, encoded := rand.New(rand.NewPCG(1, 1)), answer(b)
	vectors := make([][]float32, n)
	for i := range vectors {
		vectors[i] = make([]float32, dims)
		for j := range vectors[i] {
			vectors[i][j] = float32(rng.NormFloat64())
		}
		q := query(b, i)
		q.Vector = vectors[i]
		if _, err := e.Store(b.Context(), q, cache.Answer{Encoded: encoded}, cache.StoreOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	return e, vectors
}

func query(b *testing.B, n int) *cache.Query {
	r, err := wire.DecodeRequest(wire.OpChat, []byte(body(n)))
	if err != nil {
		b.Fatal(err)
	}
	return &cache.Query{Tenant: tenant.Local.Name, Op: string(r.Op), Model: r.Folded, Canonical: r.Canonical, Scope: r.Scope, Prompt: r.Prompt, MaxAge: -1}
}

// BenchmarkLookup is one lookup in the process, the request being decoded: key and
// exact lookup; a semantic hit and a miss with the caller's vector, guards included.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		if testing.Short() && n > 1_000 {
			continue
		}
		e, vectors := fill(b, n, cache.Hooks{})
		stored := query(b, 7)
		b.Run(fmt.Sprintf("n=%d/kind=exact", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q := *stored
				if res := e.Lookup(context.Background(), &q); res.Kind != cache.Exact {
					b.Fatal(res.Reason)
				}
			}
		})
		other := make([]float32, dims)
		for i := range other {
			other[i] = vectors[7][i] * float32(1-2*(i%2))
		}
		for kind, vector := range map[string][]float32{"semantic-hit": vectors[7], "semantic-miss": other} {
			b.Run(fmt.Sprintf("n=%d/kind=%s", n, kind), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					q := *stored
					q.Canonical, q.Prompt, q.Vector = []byte("reworded"), "At low water, where does berth 7 lie?", vector
					if res := e.Lookup(context.Background(), &q); (res.Kind == cache.Semantic) != (kind == "semantic-hit") {
						b.Fatal(res.Kind, res.Reason)
					}
				}
			})
		}
	}
}

// BenchmarkExactHitHTTP is an exact hit over loopback, metrics included, beside a
// gin handler that reads the same body and writes the same number of bytes.
func BenchmarkExactHitHTTP(b *testing.B) {
	m := telemetry.New(telemetry.Options{})
	e, _ := fill(b, 100, m.CacheHooks())
	u, _ := url.Parse("http://127.0.0.1:1")
	pool, err := upstream.New(upstream.Options{URLs: []*url.URL{u}})
	if err != nil {
		b.Fatal(err)
	}
	p, err := proxy.New(proxy.Options{Engine: e, Upstream: pool, Hooks: proxy.Hooks{Inflight: m.Inflight, Done: func(ev proxy.Event) {
		m.Request(ev.Route, ev.Outcome, ev.Source, "", ev.Stream, ev.Duration, ev.FirstByte)
		m.Saved(ev.InputTokens, ev.OutputTokens, ev.ModelTime)
	}}})
	if err != nil {
		b.Fatal(err)
	}
	h, err := api.New(api.Options{Proxy: p, Engine: e, Loopback: true})
	if err != nil {
		b.Fatal(err)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("POST", "http://127.0.0.1/api/chat", strings.NewReader(body(7))))
	if rec.Header().Get("X-Semcached-Source") != "cache-exact" {
		b.Fatalf("no hit: %v", rec.Header())
	}
	for name, h := range map[string]http.Handler{"impl=semcached": h, "rival=empty-gin": emptyGin(rec.Body.Bytes())} {
		b.Run(name, func(b *testing.B) { overLoopback(b, h) })
	}
}

// emptyGin reads the body and writes a fixed answer.
func emptyGin(reply []byte) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.POST("/api/chat", func(g *gin.Context) {
		var buf bytes.Buffer
		buf.ReadFrom(g.Request.Body)
		g.Data(http.StatusOK, "application/json; charset=utf-8", reply)
	})
	return r
}

func overLoopback(b *testing.B, h http.Handler) {
	s := httptest.NewServer(h)
	defer s.Close()
	c, in := s.Client(), body(7)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Post(s.URL+"/api/chat", "application/json", strings.NewReader(in))
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// BenchmarkExactHitHandler is the same without the network: what the server itself
// spends on a hit.
func BenchmarkExactHitHandler(b *testing.B) {
	e, _ := fill(b, 100, cache.Hooks{})
	u, _ := url.Parse("http://127.0.0.1:1")
	pool, err := upstream.New(upstream.Options{URLs: []*url.URL{u}})
	if err != nil {
		b.Fatal(err)
	}
	p, err := proxy.New(proxy.Options{Engine: e, Upstream: pool})
	if err != nil {
		b.Fatal(err)
	}
	h, err := api.New(api.Options{Proxy: p, Engine: e, Loopback: true})
	if err != nil {
		b.Fatal(err)
	}
	for name, h := range map[string]http.Handler{"impl=semcached": h, "rival=empty-gin": emptyGin(make([]byte, 2200))} {
		b.Run(name, func(b *testing.B) {
			in := []byte(body(7))
			b.ReportAllocs()
			for b.Loop() {
				w := &discard{header: make(http.Header)}
				r := &http.Request{Method: "POST", URL: &url.URL{Path: "/api/chat"}, Host: "127.0.0.1", Header: http.Header{},
					Body: io.NopCloser(bytes.NewReader(in)), ContentLength: int64(len(in))}
				h.ServeHTTP(w, r)
				if w.status != 200 || w.bytes < 1000 {
					b.Fatal(w.status, w.bytes)
				}
			}
		})
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct {
	header        http.Header
	status, bytes int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(s int)   { d.status = s }
func (d *discard) Write(p []byte) (int, error) {
	if d.status == 0 {
		d.status = 200
	}
	d.bytes += len(p)
	return len(p), nil
}
