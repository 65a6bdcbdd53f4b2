package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/wire"

	"github.com/semcached/semcached/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMissThenHitInEveryShape(t *testing.T) {
	for _, c := range []struct{ path, first, again string }{
		{"/api/chat", chat("Why is the sky blue?", ""), chat("Why is the sky blue?", "")},
		{"/api/chat", chat("Why is the sky blue?", ""), chat("Why is the sky blue?", `,"stream":false`)},
		{"/api/chat", chat("Why is the sky blue?", `,"stream":false`), chat("Why is the sky blue?", `,"stream":true,"keep_alive":"5m"`)},
		{"/api/generate", `{"model":"Reef","prompt":"Why?"}`, `{"model":"reef:latest","PROMPT":"Why?","stream":false}`},
		{"/api/generate", `{"model":"Reef","prompt":"Why?","stream":false}`, `{"model":"Reef","prompt":"Why?"}`},
	} {
		g := newRig(t, nil)
		miss, hit := g.post(c.path, c.first), g.post(c.path, c.again)
		if miss.cache() != "MISS" || hit.cache() != "HIT" || g.calls.Load() != 1 {
			t.Errorf("%s: %s then %s, %d calls", c.first, miss.cache(), hit.cache(), g.calls.Load())
		}
		if content(t, miss) != "Blue light." || content(t, hit) != "Blue light." {
			t.Errorf("%s: %q, %q", c.first, miss.body, hit.body)
		}
		stream := !strings.Contains(c.again, `"stream":false`)
		wantType := map[bool]string{true: "application/x-ndjson", false: "application/json; charset=utf-8"}[stream]
		if hit.header.Get("Content-Type") != wantType || (hit.header.Get("Content-Length") == "") != stream {
			t.Errorf("%s: %v", c.again, hit.header)
		}
		if !strings.Contains(hit.body, `"done":true,"done_reason":"stop"`) || !strings.Contains(hit.body, `"eval_count":2`) || strings.Contains(hit.body, "2026-01-02") {
			t.Errorf("%s: %s", c.again, hit.body)
		}
	}
}

func TestHeadersTellWhatHappened(t *testing.T) {
	g := newRig(t, nil)
	miss := g.post("/api/chat", chat("Why is the sky blue?", ""))
	exact := g.post("/api/chat", chat("Why is the sky blue?", ""), "X-Request-Id", "abc")
	near := g.post("/api/chat", chat("why is the sky blue", ""))
	other := g.post("/api/chat", chat("Why is the sky not blue?", ""))
	for _, c := range []struct {
		r          reply
		name, want string
	}{
		{miss, "Cache-Status", "semcached; fwd=uri-miss; key="}, {miss, "X-Semcached-Reason", "absent"}, {miss, "X-Semcached-Source", "ollama"},
		{exact, "Cache-Status", "semcached; hit; ttl=3600; key="}, {exact, "X-Semcached-Source", "cache-exact"}, {exact, "Age", "0"},
		{exact, "X-Semcached-Id", "0000000000000001"}, {exact, "X-Request-Id", "abc"}, {exact, "Cache-Control", "no-store"},
		{near, "X-Semcached-Source", "cache-semantic"}, {near, "X-Semcached-Similarity", "1.0000"}, {near, "Cache-Status", "semcached; hit; ttl="},
		{other, "X-Cache", "MISS"}, {other, "X-Semcached-Reason", "guard-negation"},
	} {
		if got := c.r.header.Get(c.name); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestOpenAICallersShareEntriesWithNativeOnes(t *testing.T) {
	g := newRig(t, nil)
	native := g.post("/api/chat", chat("Why is the sky blue?", `,"options":{"temperature":1,"top_p":1}`))
	whole := g.post("/v1/chat/completions", chat("Why is the sky blue?", ""))
	stream := g.post("/v1/chat/completions", chat("Why is the sky blue?", `,"stream":true`))
	if native.cache() != "MISS" || whole.cache() != "HIT" || stream.cache() != "HIT" || g.calls.Load() != 1 {
		t.Fatalf("%s %s %s, %d calls", native.cache(), whole.cache(), stream.cache(), g.calls.Load())
	}
	if !strings.Contains(whole.body, `"message":{"role":"assistant","content":"Blue light."},"finish_reason":"stop"`) {
		t.Errorf("%s", whole.body)
	}
	if !strings.HasSuffix(stream.body, "data: [DONE]\n\n") || stream.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%s", stream.body)
	}
	miss := g.post("/v1/chat/completions", chat("Why is the sea green?", `,"stream":true`))
	back := g.post("/api/chat", chat("Why is the sea green?", `,"options":{"temperature":1.0,"top_p":1.0}`))
	if miss.cache() != "MISS" || back.cache() != "HIT" || strings.Count(miss.body, "data: ") != 4 || content(t, back) != "Blue light." {
		t.Errorf("%s %s\n%s\n%s", miss.cache(), back.cache(), miss.body, back.body)
	}
}

func TestForwardedBodyIsTheDecodedOne(t *testing.T) {
	g := newRig(t, nil)
	g.post("/api/chat", `{"MODEL":"a","model":"Reef","stream":false,"messages":[{"role":"USER","content":"x"}]} trailing`, "X-Semcached-Mode", "exact", "Cache-Control", "no-cache", "Authorization", "Bearer z", "Connection", "X-Hop", "X-Hop", "1")
	if got := string(<-g.bodies); got != `{"model":"Reef","messages":[{"role":"user","content":"x"}],"stream":false}` {
		t.Errorf("%s", got)
	}
	h := <-g.header
	if h.Get("X-Semcached-Mode") != "" || h.Get("Cache-Control") != "" || h.Get("X-Hop") != "" || !strings.Contains(h.Get("Via"), "semcached") || h.Get("X-Forwarded-For") != "127.0.0.1" {
		t.Errorf("%v", h)
	}
}

func TestControls(t *testing.T) {
	q := chat("Why is the sky blue?", "")
	for _, c := range []struct {
		headers      []string
		cache        string
		status, more int // more upstream calls, of this request and the next plain one
		reason       string
	}{
		{nil, "HIT", 200, 0, ""},
		{[]string{"Cache-Control", "no-cache"}, "MISS", 200, 1, "refresh"},
		{[]string{"Pragma", "no-cache"}, "MISS", 200, 1, "refresh"},
		{[]string{"Cache-Control", "no-store"}, "BYPASS", 200, 1, "no-store"},
		{[]string{"Cache-Control", "max-age=100"}, "HIT", 200, 0, ""},
		{[]string{"Cache-Control", "max-age=0"}, "MISS", 200, 1, "max-age"},
		{[]string{"Cache-Control", "only-if-cached"}, "HIT", 200, 0, ""},
		{[]string{"Cache-Control", "only-if-cached, no-cache"}, "MISS", 504, 0, "refresh"},
		{[]string{"X-Semcached-Mode", "off"}, "BYPASS", 200, 1, "mode-off"},
		{[]string{"X-Semcached-Mode", "exact"}, "HIT", 200, 0, ""},
		{[]string{"X-Semcached-Namespace", "elsewhere"}, "MISS", 200, 1, "absent"},
		{[]string{"X-Semcached-Threshold", "1"}, "HIT", 200, 0, ""},
		{[]string{"X-Semcached-Threshold", "7"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Threshold", "0"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Threshold", "NaN"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Ttl", "-1"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Ttl", "1h"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Mode", "maybe"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Namespace", "no spaces"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Tags", "a,,b"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Durability", "maybe"}, "", 400, 0, ""},
		{[]string{"Cache-Control", "max-age=soon"}, "", 400, 0, ""},
		{[]string{"X-Semcached-Durability", "sync", "X-Semcached-Tags", "a,b", "X-Semcached-Ttl", "60", "Cache-Control", "no-cache"}, "MISS", 200, 1, "refresh"},
	} {
		g := newRig(t, nil)
		g.post("/api/chat", q)
		r := g.post("/api/chat", q, c.headers...)
		if r.cache() != c.cache || r.status != c.status || r.header.Get("X-Semcached-Reason") != c.reason {
			t.Errorf("%v: %d %s %q %s", c.headers, r.status, r.cache(), r.header.Get("X-Semcached-Reason"), r.body)
		}
		if c.status == 400 && (!strings.Contains(r.body, `{"error":"`+c.headers[0]) || r.header.Get("Content-Type") != "application/json; charset=utf-8") {
			t.Errorf("%v: %s", c.headers, r.body)
		}
		if g.post("/api/chat", q); g.calls.Load() != int32(1+c.more) {
			t.Errorf("%v: %d upstream calls, want %d", c.headers, g.calls.Load(), 1+c.more)
		}
	}
}

func TestTTLAndTagsReachTheEntry(t *testing.T) {
	g := newRig(t, nil)
	g.post("/api/chat", chat("x", ""), "X-Semcached-Ttl", "60", "X-Semcached-Tags", "a, b")
	e, _, err := g.engine.Entry(tenant.Local.Name, 1)
	if err != nil || e.Expires.Sub(e.Created) != time.Minute || fmt.Sprint(e.Tags) != "[a b]" || e.Cost != 5*time.Millisecond || e.Provider != "ollama" {
		t.Errorf("%+v %v", e, err)
	}
}

func TestGateLetsThroughUntouched(t *testing.T) {
	g := newRig(t, nil)
	for body, reason := range map[string]string{
		`{"model":"Reef"}`: "load", `{"model":"Reef","keep_alive":0}`: "unload",
		`{"model":"Reef","messages":"x"}`: "malformed", `{"model":`: "malformed", "": "malformed",
		`{"model":"Reef","messages":[{"role":"tool","content":"x"}]}`: "tool-result",
		chat("x", `,"n":3`): "n",
	} {
		r := g.post("/api/chat", body)
		if r.cache() != "BYPASS" || r.header.Get("X-Semcached-Reason") != reason || string(<-g.bodies) != body {
			t.Errorf("%q: %s %q", body, r.cache(), r.header.Get("X-Semcached-Reason"))
		}
		if o := g.post("/api/chat", body, "Cache-Control", "only-if-cached"); o.status != 504 || o.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%q, only if cached: %d", body, o.status)
		}
	}
	if r := g.post("/v1/chat/completions", `{"model":"Reef","messages":[]}`); r.header.Get("X-Semcached-Reason") != "untranslatable" {
		t.Errorf("%v", r.header)
	}
}

func TestIdenticalMissesShareOneCall(t *testing.T) {
	release := make(chan struct{})
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) { <-release; ollama(w, r) })
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := g.post("/api/chat", chat("Why is the sky blue?", "")); r.err != nil || content(t, r) != "Blue light." {
				t.Errorf("%v %s", r.err, r.body)
			}
		})
	}
	<-g.bodies
	waitFor(t, func() bool { return g.engine.Stats().Misses == 100 })
	close(release)
	wg.Wait()
	if n := g.calls.Load(); n != 1 {
		t.Errorf("%d upstream calls for 100 identical questions", n)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen within a minute")
		}
		time.Sleep(time.Millisecond) // real sockets: there is nothing to wait on
	}
}

func TestChunksArriveAsTheyAreMade(t *testing.T) {
	second := make(chan struct{})
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		io.WriteString(w, `{"message":{"content":"one"},"done":false}`+"\n")
		w.(http.Flusher).Flush()
		<-second
		io.WriteString(w, `{"message":{"content":"two"},"done":true,"done_reason":"stop"}`+"\n")
	})
	for _, body := range []string{chat("x", ""), chat("x", `,"n":2`)} { // cached and bypassed
		resp, err := http.Post(g.url+"/api/chat", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := resp.Body.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), "one") {
			t.Errorf("%q %v", buf[:n], err)
		}
		second <- struct{}{}
		rest, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(rest), "two") {
			t.Errorf("%q", rest)
		}
	}
}

func TestAnswersAreKeptBeforeTheirLastLineIsSeen(t *testing.T) {
	g := newRig(t, nil, func(o *Options) { o.endTime = time.Minute })
	for i := range 200 {
		body := chat(fmt.Sprint("Question number ", i), "")
		resp, err := http.Post(g.url+"/api/chat", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		lines := wire.NewLineReader(resp.Body, 1<<20)
		for {
			line, err := lines.Next()
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(line, []byte(`"done":true`)) {
				break // as SDKs do: the end of the stream is not waited for
			}
		}
		if r := g.post("/api/chat", body); r.cache() != "HIT" {
			t.Fatalf("question %d: %s", i, r.cache())
		}
		resp.Body.Close()
	}
}

func TestStreamsThatStayOpenDoNotHoldTheLastLineBack(t *testing.T) {
	hold := make(chan struct{})
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		ollama(w, r)
		w.(http.Flusher).Flush()
		<-hold
	}, func(o *Options) { o.endTime = time.Millisecond })
	resp, err := http.Post(g.url+"/api/chat", "application/json", strings.NewReader(chat("x", "")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := wire.NewLineReader(resp.Body, 1<<20)
	for done := false; !done; {
		line, err := lines.Next()
		if err != nil {
			t.Fatal(err)
		}
		done = bytes.Contains(line, []byte(`"done":true`))
	}
	if s := g.engine.Stats(); s.Entries != 0 {
		t.Error("kept before the stream had ended")
	}
	close(hold)
	if _, err := lines.Next(); err != io.EOF {
		t.Errorf("%v", err)
	}
	if s := g.engine.Stats(); s.Entries != 1 {
		t.Errorf("%d entries after the end", s.Entries)
	}
}

func TestWhatFollowsTheLastLineSpoilsTheAnswer(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		ollama(w, r)
		io.WriteString(w, `{"message":{"content":"more"},"done":false}`+"\n")
	})
	if r := g.post("/api/chat", chat("x", "")); content(t, r) != "Blue light.more" {
		t.Errorf("%s", r.body)
	}
	if s := g.engine.Stats(); s.Entries != 0 {
		t.Error("the answer was kept")
	}
}

// dying sends a part of an answer and then resets the connection.
func dying(part string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		io.WriteString(w, part)
		w.(http.Flusher).Flush()
		c, _, _ := w.(http.Hijacker).Hijack()
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func TestNothingIncompleteIsStoredAndNoErrorIsHidden(t *testing.T) {
	line := `{"model":"Reef",` + at + `"message":{"role":"assistant","content":"Blue"},"done":false}` + "\n"
	fixed := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		body   string
		status int
		want   string // the answer contains
		openai string // and as seen on /v1
	}{
		"dies in mid-stream":   {dying(line), "", 200, `{"error":"upstream connection lost`, `data: {"error":{"message":"upstream connection lost`},
		"dies in mid-line":     {dying(line + `{"model":"Re`), "", 200, `{"error":"upstream connection lost`, `data: {"error":`},
		"error line":           {fixed(200, "application/x-ndjson", line+`{"error":"out of memory"}`+"\n"), "", 200, `{"error":"out of memory"}`, `data: {"error":{"message":"out of memory"`},
		"ends without done":    {fixed(200, "application/x-ndjson", line), "", 200, `{"error":"the model's answer was cut short"}`, `data: {"error":`},
		"length":               {fixed(200, "application/x-ndjson", line+`{"message":{"content":""},"done":true,"done_reason":"length"}`+"\n"), "", 200, `"length"`, `"finish_reason":"length"`},
		"model not found":      {fixed(404, "application/json", `{"error":"model 'reef' not found"}`), "", 404, `{"error":"model 'reef' not found"}`, `{"error":{"message":"model 'reef' not found","type":"not_found_error"`},
		"busy":                 {fixed(503, "application/json", `{"error":"busy"}`), "", 503, `{"error":"busy"}`, `{"error":{"message":"busy"`},
		"garbage":              {fixed(200, "application/x-ndjson", "<html>\n"), "", 502, `{"error":"upstream: connection lost: what came is no answer"}`, `{"error":{"message":"upstream`},
		"garbage, whole":       {fixed(200, "application/json", "<html>\n"), `,"stream":false`, 502, `{"error":"upstream: connection lost: what came is no answer"}`, ""},
		"whole without done":   {fixed(200, "application/json", `{"message":{"content":"Blue"},"done":false}`), `,"stream":false`, 200, `"done":false`, ""},
		"whole dies":           {dying(`{"message":`), `,"stream":false`, 502, `{"error":"upstream: connection lost`, ""},
		"empty":                {fixed(200, "application/x-ndjson", ""), "", 502, `{"error":"upstream: connection lost: the stream ended before it began"}`, ""},
		"html instead of json": {fixed(502, "text/html", "<html>"), "", 502, "<html>", `{"error":{"message":"Bad Gateway"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, c.answer)
			for range 2 {
				r := g.post("/api/chat", chat("Why is the sky blue?", c.body))
				if r.status != c.status || !strings.Contains(r.body, c.want) || r.err != nil || r.cache() != "MISS" {
					t.Errorf("%d %s %q %v", r.status, r.cache(), r.body, r.err)
				}
				if strings.Contains(r.body, "\n\n") {
					t.Errorf("a blank line: %q", r.body)
				}
			}
			if c.openai != "" {
				r := g.post("/v1/chat/completions", chat("Why is the sky blue?", `,"stream":true`))
				if !strings.Contains(r.body, c.openai) || strings.Contains(c.openai, "error") && strings.Contains(r.body, "[DONE]") {
					t.Errorf("/v1: %s", r.body)
				}
			}
			if s := g.engine.Stats(); s.Entries != 0 {
				t.Errorf("%d entries were stored", s.Entries)
			}
		})
	}
}

func TestUpstreamDownIsAClearError(t *testing.T) {
	const dead = "127.0.0.1:1" // a port that no other listener is given
	g := (&rig{t: t, events: make(chan Event, 100)}).over("http://" + dead)
	for path, want := range map[string]string{
		"/api/chat":            `{"error":"upstream: cannot be reached: ` + dead,
		"/v1/chat/completions": `{"error":{"message":"upstream: cannot be reached`,
		"/api/tags":            `{"error":"upstream: cannot be reached`,
		"/v1/messages":         `{"type":"error","error":{"type":"api_error","message":"upstream: cannot be reached`,
	} {
		if r := g.post(path, chat("x", "")); r.status != 502 || !strings.HasPrefix(r.body, want) {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestClientsThatLeaveEndTheUpstreamCall(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", g.url+"/api/chat", strings.NewReader(chat("x", "")))
	go func() {
		<-began
		cancel()
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the upstream goes on for nobody")
	}
}

func TestFastUpstreamsAreNeverCutShort(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("x", 5000)) })
	for range 300 {
		if r := g.post("/api/embed", `{"input":"x"}`); r.err != nil || len(r.body) != 5000 {
			t.Fatalf("%d bytes, %v", len(r.body), r.err)
		}
	}
}

func TestPassthrough(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-From", "upstream")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(201)
		fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL.RequestURI(), n, r.Host)
	})
	r := g.do("PUT", "/api/any/thing%2Fslash?q=1&q=2", "body")
	if r.status != 201 || !strings.HasPrefix(r.body, "PUT /api/any/thing%2Fslash?q=1&q=2 4 127.0.0.1:") || r.header.Get("X-From") == "" || r.header.Get("X-Hop") != "" || r.cache() != "BYPASS" {
		t.Errorf("%d %s %v", r.status, r.body, r.header)
	}
	if r := g.do("HEAD", "/", ""); r.status != 201 || r.body != "" {
		t.Errorf("HEAD: %d %q", r.status, r.body)
	}
	if r := g.do("GET", "/debug/pprof/", ""); r.status != 404 {
		t.Errorf("/debug: %d", r.status)
	}
	big := strings.Repeat("x", 1<<20)
	if r := g.post("/api/blobs/sha256:abc", big); r.status != 201 || !strings.Contains(r.body, " 1048576 ") {
		t.Errorf("upload: %d %s", r.status, r.body)
	}
	big = big[:70_000] // little enough for net/http to read what is left, so that the answer is not lost to a reset
	for path, want := range map[string]string{"/api/show": `{"error":"request body is larger than 65536 bytes"}`, "/api/chat": `{"error":"request body`, "/v1/embeddings": `{"error":{"message":"request body`} {
		if r := g.post(path, big); r.status != 413 || !strings.HasPrefix(r.body, want) {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestLoopsAreNoticed(t *testing.T) {
	var g *rig
	g = newRig(t, func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequest(r.Method, g.url+r.URL.Path, r.Body)
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
	for _, path := range []string{"/api/chat", "/api/tags"} {
		if r := g.post(path, chat("x", "")); r.status != 508 || !strings.Contains(r.body, "loop detected") {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestEventsDescribeRequests(t *testing.T) {
	g := newRig(t, nil)
	g.post("/api/chat", chat("Why is the sky blue?", ""))
	g.post("/api/chat", chat("Why is the sky blue?", `,"stream":false`))
	g.do("GET", "/api/tags", "")
	miss, hit, pass := <-g.events, <-g.events, <-g.events
	if miss.Outcome != "miss" || !miss.Stream || miss.Route != "/api/chat" || miss.Status != 200 || miss.FirstByte <= 0 || miss.FirstByte > miss.Duration {
		t.Errorf("%+v", miss)
	}
	if hit.Outcome != "hit_exact" || hit.Stream || hit.InputTokens != 3 || hit.OutputTokens != 2 || hit.ModelTime != 5*time.Millisecond {
		t.Errorf("%+v", hit)
	}
	if pass.Outcome != "bypass" || pass.Route != "other" {
		t.Errorf("%+v", pass)
	}
}

func FuzzParseControls(f *testing.F) {
	f.Add("no-cache, max-age=5", "exact", "60", "0.9", "ns", "a,b")
	f.Fuzz(func(t *testing.T, cc, mode, ttl, threshold, ns, tags string) {
		c, err := ParseControls(http.Header{"Cache-Control": {cc}, "X-Semcached-Mode": {mode}, "X-Semcached-Ttl": {ttl},
			"X-Semcached-Threshold": {threshold}, "X-Semcached-Namespace": {ns}, "X-Semcached-Tags": {tags}})
		if err == nil && (c.TTL < 0 || c.TTL > MaxTTL || c.Threshold < 0 || c.Threshold > 1 || len(c.Namespace) > MaxNamespace || len(c.Tags) > MaxTags) {
			t.Fatalf("%+v", c)
		}
	})
}

// blind is an engine whose lookups all came a moment too early.
type blind struct{ *cache.Engine }

func (b blind) Lookup(ctx context.Context, q *cache.Query) cache.Result {
	b.Engine.Lookup(ctx, q)
	return cache.Result{Reason: cache.ReasonAbsent}
}

func TestAnswerStoredSinceTheLookupIsUsed(t *testing.T) {
	g := newRig(t, nil)
	g.proxy.o.Engine = blind{g.engine}
	for i, body := range []string{chat("x", ""), chat("x", ""), chat("x", `,"stream":false`)} {
		if r := g.post("/api/chat", body); r.err != nil || content(t, r) != "Blue light." || r.cache() != "MISS" {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if n := g.calls.Load(); n != 1 {
		t.Errorf("%d upstream calls", n)
	}
	g.post("/api/chat", chat("x", ""), "Cache-Control", "no-cache")
	if n := g.calls.Load(); n != 2 {
		t.Errorf("no-cache was answered from the cache: %d calls", n)
	}
}

func TestTracingThatIsOffAllocatesNothing(t *testing.T) {
	g := newRig(t, nil)
	g.post("/api/chat", chat("x", ""))
	req, err := g.proxy.decode(route{path: "/api/chat", op: wire.OpChat}, []byte(chat("x", "")))
	if err != nil {
		t.Fatal(err)
	}
	n := req.native
	q := &cache.Query{Tenant: "local", Op: string(n.Op), Model: n.Folded, Canonical: n.Canonical, Scope: n.Scope, Prompt: n.Prompt, MaxAge: -1}
	x := &exchange{p: g.proxy, r: httptest.NewRequest("POST", "/api/chat", nil)}
	if x.lookup(q).Kind != cache.Exact {
		t.Fatal("a miss")
	}
	if plain, traced := testing.AllocsPerRun(200, func() { g.engine.Lookup(t.Context(), q) }), testing.AllocsPerRun(200, func() { x.lookup(q) }); traced > plain {
		t.Errorf("%v allocations, %v without the proxy's wrapping", traced, plain)
	}
	if n := testing.AllocsPerRun(200, func() { g.proxy.span(t.Context(), "cache store", span.Internal) }); n != 0 {
		t.Errorf("%v allocations for a span that is not there", n)
	}
}
