package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/semcached/semcached/internal/standin"
)

// otlp collects spans over HTTP.
type otlp struct {
	url string

	mu    sync.Mutex // guards everything below
	spans []*trace.Span
	raw   []byte
}

func newOTLP(t *testing.T) *otlp {
	o := new(otlp)
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func (o *otlp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var in collector.ExportTraceServiceRequest
	if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.raw = append(o.raw, body...)
	for _, rs := range in.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			o.spans = append(o.spans, ss.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// tree writes the spans of a trace as "name(kind)[attributes] < parent", sorted by start.
func (o *otlp) of(traceID string) map[string]*trace.Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]*trace.Span)
	for _, s := range o.spans {
		if fmt.Sprintf("%x", s.TraceId) == traceID {
			name := s.Name
			for all[name] != nil {
				name += "+"
			}
			all[name] = s
		}
	}
	return all
}

func attr(s *trace.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.Key == key {
			return strings.Trim(strings.SplitN(a.Value.String(), ":", 2)[1], `"`)
		}
	}
	return ""
}

func TestTraces(t *testing.T) {
	o, c := newOTLP(t), newCloud(t)
	var seen []http.Header
	up := standin.New(standin.Options{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/chat" {
			seen = append(seen, r.Header.Clone())
		}
		up.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(withFallback(c)), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ollama: up}
	w.Server = Start(t, Config{Bin: binary, Upstream: front.URL, Args: []string{"--config", file, "--embedder", "lexical"},
		Env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + o.url, "OTEL_SERVICE_NAME=tested", "OTEL_BSP_SCHEDULE_DELAY=100"}})
	id := func(n int) string { return fmt.Sprintf("%032x", 0xabc0+n) }
	parent := func(n int) []string {
		return []string{"Traceparent", "00-" + id(n) + "-00000000000000ff-01", "Tracestate", "vendor=secret"}
	}
	w.ask("What is a delta?", "", parent(1)...)
	w.ask("What is a delta?", "", parent(2)...)
	up.Fail(standin.Refuse)
	w.ask("What is an estuary?", "", parent(3)...)
	if err := w.Stop(); err != nil { // which sends what is left
		t.Fatal(err)
	}
	miss, hit, fallback := o.of(id(1)), o.of(id(2)), o.of(id(3))
	const server, lookup, embed, chat, store = "POST /api/chat", "cache lookup", "embeddings", "chat standin:latest", "cache store"
	for name, want := range map[string]struct {
		spans map[string]*trace.Span
		names []string
	}{"miss": {miss, []string{server, lookup, embed, chat, store}}, "hit": {hit, []string{server, lookup}},
		"fallback": {fallback, []string{server, lookup, embed, chat, "cache lookup+", "chat big-model", store}}} {
		_ = name
		for _, n := range want.names {
			if n != "cache lookup+" && want.spans[n] == nil {
				t.Errorf("%s: no span %q among %d", name, n, len(want.spans))
			}
		}
	}
	if t.Failed() {
		return
	}
	if p := fmt.Sprintf("%x", miss[server].ParentSpanId); p != "00000000000000ff" {
		t.Errorf("the client's span is not the parent: %s", p)
	}
	for _, n := range []string{lookup, chat, store} {
		if string(miss[n].ParentSpanId) != string(miss[server].SpanId) {
			t.Errorf("%s is not below the server's span", n)
		}
	}
	if string(miss[embed].ParentSpanId) != string(miss[lookup].SpanId) {
		t.Error("the embedding is not below the lookup")
	}
	for _, c := range []struct {
		span      *trace.Span
		key, want string
	}{
		{miss[server], "http.request.method", "POST"}, {miss[server], "http.route", "/api/chat"}, {miss[server], "http.response.status_code", "200"},
		{miss[server], "semcached.outcome", "miss"}, {hit[server], "semcached.outcome", "hit_exact"}, {hit[lookup], "semcached.result", "hit_exact"}, {miss[lookup], "semcached.result", "miss"},
		{miss[chat], "gen_ai.operation.name", "chat"}, {miss[chat], "gen_ai.provider.name", "ollama"}, {miss[chat], "gen_ai.request.model", "standin:latest"},
		{miss[chat], "gen_ai.response.model", "standin"}, {miss[chat], "gen_ai.request.stream", "true"}, {miss[chat], "server.address", "127.0.0.1"},
		{fallback[chat], "error.type", "503"}, {fallback["chat big-model"], "gen_ai.provider.name", "openai"}, {fallback["chat big-model"], "http.request.resend_count", "1"},
		{fallback[server], "semcached.source", "fallback"},
	} {
		if got := attr(c.span, c.key); got != c.want {
			t.Errorf("%s: %s is %q, want %q", c.span.Name, c.key, got, c.want)
		}
	}
	if miss[server].Kind != trace.Span_SPAN_KIND_SERVER || miss[chat].Kind != trace.Span_SPAN_KIND_CLIENT || miss[lookup].Kind != trace.Span_SPAN_KIND_INTERNAL {
		t.Error("the kinds are wrong")
	}
	if attr(miss[chat], "gen_ai.usage.output_tokens") == "" || fallback[chat].Status.Code != trace.Status_STATUS_CODE_ERROR {
		t.Error("usage or status is missing")
	}
	if tp := seen[0].Get("Traceparent"); !strings.HasPrefix(tp, "00-"+id(1)+"-") || strings.Contains(tp, "00000000000000ff") || seen[0].Get("Tracestate") != "vendor=secret" {
		t.Errorf("Ollama was told %q %q", tp, seen[0].Get("Tracestate"))
	}
	if !strings.Contains(string(o.raw), "tested") || strings.Contains(string(o.raw), "estuary") {
		t.Error("the service's name is missing, or a question's text is there")
	}
}
