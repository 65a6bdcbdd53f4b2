package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
)

// cloud is an OpenAI-compatible server that the test can make fail.
type cloud struct {
	url    string
	pool   *upstream.Pool
	calls  atomic.Int32
	status atomic.Int32 // 0: answers
	cut    atomic.Bool  // streams end in the middle

	mu     sync.Mutex // guards everything below
	header http.Header
	body   map[string]any
}

const fromCloud = "Rayleigh scattering."

func newCloud(t *testing.T) *cloud {
	c := new(cloud)
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	c.url = u.Host
	if c.pool, err = upstream.New(upstream.Options{URLs: []*url.URL{u}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.pool.Close)
	return c
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls.Add(1)
	var body map[string]any
	json.NewDecoder(r.Body).Decode(&body)
	c.mu.Lock()
	c.header, c.body = r.Header.Clone(), body
	c.mu.Unlock()
	if r.URL.Path != "/v1/chat/completions" {
		w.WriteHeader(404)
		return
	}
	if s := c.status.Load(); s != 0 {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(s))
		io.WriteString(w, `{"error":{"message":"quota"}}`)
		return
	}
	if body["stream"] != true {
		io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"`+fromCloud+`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, part := range strings.SplitAfter(fromCloud, " ") {
		fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", part)
		w.(http.Flusher).Flush()
		if c.cut.Load() {
			panic(http.ErrAbortHandler)
		}
	}
	io.WriteString(w, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n")
}

func (c *cloud) seen() (http.Header, map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header, c.body
}

func (c *cloud) option(o *Options) {
	o.Fallback = &Fallback{Pool: c.pool, Host: "cloud.example", Key: "cloud-key", Models: map[string]string{"reef:latest": "big"}}
}

// switched is an upstream that works while ok is set, and fails by mode else.
type switched struct {
	ok   atomic.Bool
	mode atomic.Value // string
}

func (s *switched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.ok.Load() {
		ollama(w, r)
		return
	}
	switch s.mode.Load() {
	case "503":
		w.WriteHeader(503)
		io.WriteString(w, `{"error":"busy"}`)
	case "500":
		w.WriteHeader(500)
		io.WriteString(w, `{"error":"llama runner process has terminated"}`)
	case "garbage":
		io.WriteString(w, "<html>")
	case "error line":
		io.WriteString(w, `{"error":"out of memory"}`+"\n")
	case "empty":
	case "dies":
		dying(`{"message":{"content":"Bl`)(w, r)
	default:
		panic(http.ErrAbortHandler)
	}
}

func TestFallbackAnswersWhenTheUpstreamFails(t *testing.T) {
	for _, mode := range []string{"reset", "503", "500", "garbage", "error line", "empty", "dies"} {
		for _, stream := range []bool{true, false} {
			for _, openai := range []bool{false, true} {
				t.Run(fmt.Sprint(mode, stream, openai), func(t *testing.T) { fallbackOnce(t, mode, stream, openai) })
			}
		}
	}
}

func fallbackOnce(t *testing.T, mode string, stream, openai bool) {
	c, s := newCloud(t), new(switched)
	s.mode.Store(mode)
	var reports []string
	g := newRig(t, s.ServeHTTP, c.option, func(o *Options) {
		o.Hooks.Fallback = func(reason, result string) { reports = append(reports, reason+" "+result) }
	})
	path := "/api/chat"
	if openai {
		path = "/v1/chat/completions"
	}
	body := chat("Why is the sky blue?", fmt.Sprintf(`,"stream":%v`, stream))
	r := g.post(path, body, "Authorization", "Bearer client-secret", "Cookie", "id=1", "Traceparent", "00-x")
	if r.status != 200 || !strings.Contains(r.body, "Rayleigh") || !strings.Contains(r.body, "scattering.") || strings.Contains(r.body, "error") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r.header.Get("X-Semcached-Source") != "fallback:cloud.example" || r.cache() != "MISS" {
		t.Errorf("%v", r.header)
	}
	if !openai && !strings.Contains(r.body, `"model":"Reef","remote_model":"big","remote_host":"cloud.example"`) {
		t.Errorf("the answer does not say where it is from: %s", r.body)
	}
	if openai && stream && !strings.HasSuffix(r.body, "data: [DONE]\n\n") {
		t.Errorf("%s", r.body)
	}
	h, sent := c.seen()
	if h.Get("Authorization") != "Bearer cloud-key" || h.Get("Cookie") != "" || h.Get("Via") != "" || h.Get("X-Forwarded-For") != "" || sent["model"] != "big" {
		t.Errorf("sent %v %v", h, sent)
	}
	e := <-g.events
	if e.Source != "fallback" || e.Remote != "cloud.example" || e.InputTokens != 4 || e.OutputTokens != 2 || e.Outcome != "miss" || len(e.Attempts) < 2 {
		t.Errorf("%+v", e)
	}
	// Again: the stored answer of the fallback, at no cost.
	r = g.post(path, body)
	if c.calls.Load() != 1 || r.cache() != "HIT" || !strings.Contains(r.body, "Rayleigh") || r.header.Get("X-Semcached-Remote") != "cloud.example" {
		t.Errorf("%d calls, %v %s", c.calls.Load(), r.header, r.body)
	}
	// The upstream is back: nobody takes the fallback's answer for its own.
	s.ok.Store(true)
	if r = g.post(path, body); r.cache() != "MISS" || strings.Contains(r.body, "Rayleigh") || !strings.Contains(r.body, "light.") {
		t.Errorf("%v %s", r.header, r.body)
	}
	if len(reports) < 2 || !strings.HasSuffix(reports[0], " served") || !strings.HasSuffix(reports[1], " cached") {
		t.Errorf("%q", reports)
	}
}

func TestFallbackIsNotAskedWhenItMustNot(t *testing.T) {
	for name, c := range map[string]struct {
		path, body string
		header     []string
	}{
		"other model":  {"/api/chat", `{"model":"other","messages":[{"role":"user","content":"x"}]}`, nil},
		"forbidden":    {"/api/chat", chat("x", ""), []string{"X-Semcached-Fallback", "off"}},
		"tenant":       {"/api/chat", chat("x", ""), []string{"X-Test-Tenant", "private"}},
		"load":         {"/api/chat", `{"model":"Reef"}`, nil},
		"unload":       {"/api/generate", `{"model":"Reef","keep_alive":0}`, nil},
		"raw":          {"/api/generate", `{"model":"Reef","prompt":"x","raw":true}`, nil},
		"embeddings":   {"/api/embed", `{"model":"Reef","input":"x"}`, nil},
		"v1 embedding": {"/v1/embeddings", `{"model":"Reef","input":"x"}`, nil},
		"images":       {"/v1/chat/completions", `{"model":"Reef","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCloud(t)
			g := newRig(t, new(switched).ServeHTTP, cl.option)
			g.tenants = map[string]*tenant.Tenant{"private": {Name: "private", Roles: tenant.Read, NoFallback: true}}
			if r := g.post(c.path, c.body, c.header...); r.status != 502 || cl.calls.Load() != 0 {
				t.Errorf("%d %s, %d calls of the cloud", r.status, r.body, cl.calls.Load())
			}
		})
	}
	cl := newCloud(t)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		io.WriteString(w, `{"error":"option \"temperature\" must be of type float32"}`)
	}, cl.option)
	for _, more := range []string{"", `,"n":2`} {
		if r := g.post("/api/chat", chat("x", more)); r.status != 500 || cl.calls.Load() != 0 {
			t.Errorf("a wrong option: %d, %d calls of the cloud", r.status, cl.calls.Load())
		}
	}
}

func TestEventsTellWhatWasAnswered(t *testing.T) {
	g := newRig(t, nil)
	for _, stream := range []string{`,"stream":false`, ""} {
		for _, path := range []string{"/api/chat", "/v1/chat/completions"} {
			g.post(path, chat("x", stream), "Cache-Control", "no-cache")
			if e := <-g.events; e.InputTokens != 3 || e.OutputTokens != 2 || e.DoneReason != "stop" || len(e.Attempts) != 1 || e.Attempts[0].Status != 200 || e.Out == 0 || e.In == 0 || e.Turns != 1 {
				t.Errorf("%s %s: %+v", path, stream, e)
			}
		}
	}
}

func TestBypassedRequestsFallBackToo(t *testing.T) {
	for _, mode := range []string{"reset", "503"} {
		c, s := newCloud(t), new(switched)
		s.mode.Store(mode)
		g := newRig(t, s.ServeHTTP, c.option)
		for range 2 {
			r := g.post("/api/chat", chat("x", ""), "Cache-Control", "no-store")
			if r.status != 200 || content(t, r) != fromCloud || r.cache() != "BYPASS" || r.header.Get("X-Semcached-Source") != "fallback:cloud.example" {
				t.Errorf("%s: %d %v %s", mode, r.status, r.header, r.body)
			}
		}
		if c.calls.Load() != 2 || g.engine.Stats().Entries != 0 {
			t.Errorf("%s: %d calls, %d entries: something was kept", mode, c.calls.Load(), g.engine.Stats().Entries)
		}
	}
}

func TestBothFailing(t *testing.T) {
	c, s := newCloud(t), new(switched)
	c.status.Store(429)
	g := newRig(t, s.ServeHTTP, c.option)
	for path, want := range map[string]string{"/api/chat": `{"error":"no answer from Ollama (`, "/v1/chat/completions": `{"error":{"message":"no answer from Ollama (`} {
		r := g.post(path, chat("x", ""))
		if r.status != 502 || !strings.HasPrefix(r.body, want) || !strings.Contains(r.body, "it answered 429: quota") || !strings.Contains(r.body, "cloud.example") ||
			r.header.Get("Retry-After") != "7" || r.header.Get("X-Should-Retry") != "false" || strings.Contains(r.body, "cloud-key") {
			t.Errorf("%d %v %s", r.status, r.header, r.body)
		}
	}
	c.status.Store(0)
	c.cut.Store(true)
	if r := g.post("/api/chat", chat("y", "")); r.status != 200 || !strings.Contains(r.body, `{"error":"the fallback's answer broke off`) || strings.Contains(r.body, `"done":true`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	c.cut.Store(false)
	if r := g.post("/api/chat", chat("y", "")); content(t, r) != fromCloud || c.calls.Load() != 4 {
		t.Errorf("the part was kept: %s", r.body)
	}
}

func TestExpiredAnswerIsTheLastResort(t *testing.T) {
	s := new(switched)
	s.ok.Store(true)
	g := newRig(t, s.ServeHTTP)
	g.post("/api/chat", chat("x", ""), "X-Semcached-Ttl", "60")
	g.now.Store(100)
	s.ok.Store(false)
	for _, stream := range []string{"", `,"stream":false`} {
		r := g.post("/api/chat", chat("x", stream))
		if r.status != 200 || content(t, r) != "Blue light." || r.cache() != "STALE" || r.header.Get("X-Semcached-Source") != "cache-stale" ||
			!strings.Contains(r.header.Get("Cache-Status"), "hit; ttl=-40") || !strings.Contains(r.header.Get("Cache-Status"), "detail=stale-if-error") || r.header.Get("Age") != "100" {
			t.Errorf("%d %v %s", r.status, r.header, r.body)
		}
	}
	<-g.events
	if e := <-g.events; e.Outcome != "stale" || e.Source != "cache" {
		t.Errorf("%+v", e)
	}
	if r := g.post("/api/chat", chat("x", ""), "Cache-Control", "no-cache"); r.status != 502 {
		t.Errorf("no-cache was given an old answer: %d", r.status)
	}
	s.ok.Store(true)
	if r := g.post("/api/chat", chat("x", "")); r.cache() != "MISS" || r.header.Get("X-Semcached-Source") != "ollama" {
		t.Errorf("the upstream is back: %v", r.header)
	}
	g.now.Store(8000)
	s.ok.Store(false)
	if r := g.post("/api/chat", chat("x", "")); r.status != 502 {
		t.Errorf("after the last hour: %d", r.status)
	}
}

func TestTenantsAreKeptApart(t *testing.T) {
	g := newRig(t, nil)
	g.tenants = map[string]*tenant.Tenant{"a": {Name: "a", Roles: tenant.Read | tenant.Write}, "b": {Name: "b", Roles: tenant.Read}}
	g.post("/api/chat", chat("x", ""), "X-Test-Tenant", "a", "Authorization", "Bearer ours", "X-Api-Key", "ours")
	if h := <-g.header; h.Get("Authorization") != "" || h.Get("X-Api-Key") != "" {
		t.Errorf("the key went upstream: %v", h)
	}
	if r := g.post("/api/chat", chat("x", ""), "X-Test-Tenant", "a"); r.cache() != "HIT" {
		t.Errorf("own entry: %s", r.cache())
	}
	for range 2 { // b may not write
		if r := g.post("/api/chat", chat("x", ""), "X-Test-Tenant", "b", "X-Semcached-Namespace", "a"); r.cache() != "MISS" {
			t.Errorf("another's entry: %s", r.cache())
		}
	}
	if n := g.engine.Stats().Entries; n != 1 {
		t.Errorf("%d entries", n)
	}
}
