package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
	"github.com/semcached/semcached/store/mem"
)

// rig is a proxy over a real engine, in front of a server the test decides.
type rig struct {
	t      *testing.T
	url    string
	engine *cache.Engine
	proxy  *Proxy
	calls  atomic.Int32 // of inference routes
	bodies chan []byte  // the last ones that arrived upstream
	header chan http.Header
	events chan Event
	change []func(*Options)

	tenants map[string]*tenant.Tenant // by X-Test-Tenant
	answer  http.HandlerFunc          // nil: ollama below
	start   time.Time                 // the clock stands still
	now     atomic.Int64              // but for these seconds
}

// words embeds a text as its counts of three letters: enough for rewordings.
type words struct{}

func (words) Embed(_ context.Context, text string) ([]float32, string, error) {
	v := make([]float32, 26)
	for _, c := range strings.ToLower(text) {
		if c >= 'a' && c <= 'z' {
			v[c-'a']++
		}
	}
	return v, "letters", nil
}
func (words) Threshold(string) float32 { return 0.9 }

func newRig(t *testing.T, answer http.HandlerFunc, change ...func(*Options)) *rig {
	g := &rig{change: change, t: t, answer: answer, bodies: make(chan []byte, 1000), header: make(chan http.Header, 1000), events: make(chan Event, 1000)}
	up := httptest.NewServer(http.HandlerFunc(g.upstream))
	t.Cleanup(up.Close)
	return g.over(up.URL)
}

func (g *rig) over(target string) *rig {
	g.start = time.Now().Truncate(time.Second)
	u, err := url.Parse(target)
	if err != nil {
		g.t.Fatal(err)
	}
	pool, err := upstream.New(upstream.Options{URLs: []*url.URL{u}, HeaderTimeout: time.Minute})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(pool.Close)
	if g.engine, err = cache.New(cache.Options{Store: mem.New(nil), Embedder: words{}, KeepStale: time.Hour, Now: g.clock}); err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.engine.Load(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	o := Options{Engine: g.engine, Upstream: pool, MaxBody: 64 << 10, Now: g.clock, Hooks: Hooks{Done: func(e Event) { g.events <- e }}}
	for _, c := range g.change {
		c(&o)
	}
	g.proxy, err = New(o)
	if err != nil {
		g.t.Fatal(err)
	}
	mux := http.NewServeMux()
	who := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if t := g.tenants[r.Header.Get("X-Test-Tenant")]; t != nil {
				r = r.WithContext(tenant.Context(r.Context(), t))
			}
			h.ServeHTTP(w, r)
		})
	}
	mux.Handle("POST /api/chat", g.proxy.Inference(wire.OpChat))
	mux.Handle("POST /api/generate", g.proxy.Inference(wire.OpGenerate))
	mux.Handle("POST /v1/chat/completions", g.proxy.ChatCompletions())
	mux.Handle("/", g.proxy.Passthrough())
	front := httptest.NewServer(who(mux))
	g.t.Cleanup(func() {
		front.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	g.url = front.URL
	return g
}

func (g *rig) clock() time.Time { return g.start.Add(time.Duration(g.now.Load()) * time.Second) }

func (g *rig) upstream(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/chat" || r.URL.Path == "/api/generate" {
		g.calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		g.bodies <- body
		g.header <- r.Header
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if g.answer != nil {
		g.answer(w, r)
		return
	}
	ollama(w, r)
}

const at = `"created_at":"2026-01-02T03:04:05Z",`

// ollama answers as a chat or generate route does.
func ollama(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model  string
		Stream *bool
	}
	json.NewDecoder(r.Body).Decode(&in)
	part := func(text string) string { return `"message":{"role":"assistant","content":"` + text + `"}` }
	if r.URL.Path == "/api/generate" {
		part = func(text string) string { return `"response":"` + text + `"` }
	}
	head := `{"model":"` + in.Model + `",` + at
	const end = `,"done":true,"done_reason":"stop","total_duration":5000000,"prompt_eval_count":3,"eval_count":2,"eval_duration":9}`
	if in.Stream != nil && !*in.Stream {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, head+part("Blue light.")+end)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, s := range []string{"Blue ", "light."} {
		io.WriteString(w, head+part(s)+`,"done":false}`+"\n")
		w.(http.Flusher).Flush()
	}
	io.WriteString(w, head+part("")+end+"\n")
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

func (g *rig) do(method, path, body string, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), err}
}

func (g *rig) post(path, body string, headers ...string) reply {
	g.t.Helper()
	return g.do("POST", path, body, headers...)
}

func (r reply) cache() string { return r.header.Get("X-Cache") }

func chat(text string, more string) string {
	return `{"model":"Reef","messages":[{"role":"user","content":"` + text + `"}]` + more + `}`
}

func content(t *testing.T, r reply) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(r.body) {
		var l struct {
			Message  struct{ Content string }
			Response string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		b.WriteString(l.Message.Content + l.Response)
	}
	return b.String()
}
