package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/standin"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "semcached-e2e")
	if err == nil {
		binary, err = Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// world is a stand-in Ollama and a semcached in front of it.
type world struct {
	*Server
	t      *testing.T
	ollama *standin.Server
}

func newWorld(t *testing.T, o standin.Options, args ...string) *world {
	w := &world{t: t, ollama: standin.New(o)}
	up := httptest.NewServer(w.ollama)
	t.Cleanup(up.Close)
	w.Server = Start(t, Config{Bin: binary, Upstream: up.URL, Args: args})
	return w
}

// newWorldWith is newWorld for all that a Config can say but the upstream.
func newWorldWith(t *testing.T, c Config) *world {
	w := &world{t: t, ollama: standin.New(standin.Options{})}
	up := httptest.NewServer(w.ollama)
	t.Cleanup(up.Close)
	c.Bin, c.Upstream = binary, up.URL
	w.Server = Start(t, c)
	return w
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(method, path, body string, headers ...string) reply {
	w.t.Helper()
	req, err := http.NewRequest(method, w.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Errorf("%s %s: the answer broke off: %v", method, path, err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func (w *world) ask(text, more string, headers ...string) reply {
	w.t.Helper()
	q, _ := json.Marshal(text)
	return w.do("POST", "/api/chat", `{"model":"standin","messages":[{"role":"user","content":`+string(q)+`}]`+more+`}`, headers...)
}

// text joins the contents of an answer's lines.
func text(t *testing.T, r reply) string {
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

const whole = `,"stream":false`

// TestFirstSession goes through the promises of the README: a miss, the same, in
// other words, other questions, with the embedding model of the upstream.
func TestFirstSession(t *testing.T) {
	for _, embedder := range []string{"auto", "lexical"} {
		t.Run("embedder="+embedder, func(t *testing.T) {
			w := newWorld(t, standin.Options{}, "--embedder", embedder, "--embed-timeout", "5s")
			for _, c := range []struct{ text, more, source, reason string }{
				{"What is a Docker container?", "", "ollama", "absent"},
				{"What is a Docker container?", "", "cache-exact", ""},
				{"What is a Docker container?", whole, "cache-exact", ""},
				{"what is a docker container", "", "cache-semantic", ""},
				{"What is a Docker container?", `,"options":{"seed":1}`, "ollama", "absent"},
				{"What is not a Docker container?", "", "ollama", "guard-negation"},
				{"Does Docker run 15 containers?", "", "ollama", ""},
				{"Does Docker run 51 containers?", "", "ollama", ""},
			} {
				r := w.ask(c.text, c.more)
				if got := r.header.Get("X-Semcached-Source"); got != c.source || c.reason != "" && r.header.Get("X-Semcached-Reason") != c.reason {
					t.Errorf("%q: %s, reason %q", c.text, got, r.header.Get("X-Semcached-Reason"))
				}
				if want := strings.TrimSuffix(c.text, "?"); !strings.Contains(text(t, r), "invented answer") || c.source == "ollama" && !strings.Contains(text(t, r), want) {
					t.Errorf("%q: %s", c.text, r.body)
				}
			}
		})
	}
}

func TestRestartKeepsWhatWasStored(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	before := text(t, w.ask("Why do cats purr?", ""))
	if err := w.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	w.Restart()
	for q, source := range map[string]string{"Why do cats purr?": "cache-exact", "why do cats purr": "cache-semantic"} {
		if r := w.ask(q, ""); r.header.Get("X-Semcached-Source") != source || text(t, r) != before {
			t.Errorf("%q: %v %s", q, r.header, r.body)
		}
	}
	w.says("1 loaded in")
}

func TestKillAfterAcknowledgedStoreLosesNothing(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	for round := range 5 {
		viaAPI := w.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":"Round %d?","answer":"yes %d","durability":"sync"}`, round, round))
		viaProxy := w.ask(fmt.Sprintf("Proxied round %d?", round), "", "X-Semcached-Durability", "sync")
		if viaAPI.status != 201 || viaProxy.status != 200 {
			t.Fatalf("%s %s", viaAPI.body, viaProxy.body)
		}
		w.Kill()
		w.Restart()
		for i := range round + 1 {
			if r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":"Round %d?"}`, i)); !strings.Contains(r.body, fmt.Sprintf(`"response":"yes %d"`, i)) {
				t.Errorf("after kill %d: %s", round, r.body)
			}
			if r := w.ask(fmt.Sprintf("Proxied round %d?", i), ""); r.header.Get("X-Semcached-Source") != "cache-exact" {
				t.Errorf("after kill %d: %v", round, r.header)
			}
		}
	}
}

func TestFailingUpstreams(t *testing.T) {
	for name, c := range map[string]struct {
		fault      standin.Fault
		stream     string // in the streamed answer
		whole      string // in the other
		wholeState int
	}{
		"reset":    {standin.Reset, `{"error":"upstream connection lost`, `{"error":"upstream: connection lost`, 502},
		"no done":  {standin.NoDone, `{"error":"the model's answer was cut short"}`, `"done":false`, 200},
		"error":    {standin.ErrorLine, `{"error":"an error was encountered while running the model"}`, `"done":true`, 200},
		"refusing": {standin.Refuse, `{"error":"server busy`, `{"error":"server busy`, 503},
		"garbage":  {standin.Garbage, `{"error":"upstream: connection lost: what came is no answer"}`, `{"error":"upstream: connection lost: what came is no answer"}`, 502},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, standin.Options{}, "--embedder", "lexical")
			w.ollama.Fail(c.fault)
			for range 2 {
				if r := w.ask("Why do cats purr?", ""); !strings.Contains(r.body, c.stream) || r.header.Get("X-Cache") != "MISS" {
					t.Errorf("stream: %d %s", r.status, r.body)
				}
			}
			if c.fault != standin.ErrorLine {
				if r := w.ask("Why do cats purr?", whole); r.status != c.wholeState || !strings.Contains(r.body, c.whole) {
					t.Errorf("whole: %d %s", r.status, r.body)
				}
			}
			w.ollama.Fail(standin.None)
			if r := w.ask("Why do cats purr?", ""); r.header.Get("X-Cache") != "MISS" || !strings.Contains(r.body, `"done":true`) {
				t.Errorf("something incomplete was stored: %v", r.header)
			}
		})
	}
}

func TestControls(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	w.ask("Why do cats purr?", "", "X-Semcached-Tags", "cats", "X-Semcached-Ttl", "100")
	for _, c := range []struct {
		name, value string
		status      int
		cache       string
	}{
		{"Cache-Control", "no-cache", 200, "MISS"}, {"Cache-Control", "no-store", 200, "BYPASS"}, {"Cache-Control", "only-if-cached", 200, "HIT"},
		{"Cache-Control", "max-age=50", 200, "HIT"}, {"Cache-Control", "max-age=0", 200, "MISS"}, {"X-Semcached-Mode", "off", 200, "BYPASS"},
		{"X-Semcached-Mode", "exact", 200, "HIT"}, {"X-Semcached-Namespace", "n", 200, "MISS"}, {"X-Semcached-Threshold", "0.99", 200, "HIT"},
		{"X-Semcached-Threshold", "7", 400, ""}, {"X-Semcached-Ttl", "-1", 400, ""}, {"X-Semcached-Mode", "x", 400, ""}, {"X-Semcached-Tags", ",", 400, ""},
	} {
		if r := w.ask("Why do cats purr?", "", c.name, c.value); r.status != c.status || r.header.Get("X-Cache") != c.cache {
			t.Errorf("%s: %s: %d %s %s", c.name, c.value, r.status, r.header.Get("X-Cache"), r.body)
		}
	}
	if r := w.ask("Why do dogs bark?", "", "Cache-Control", "only-if-cached"); r.status != 504 || !strings.HasPrefix(r.body, `{"error":`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := w.do("POST", "/cache/invalidate", `{"all":true}`); !strings.Contains(r.body, `"deleted":2`) {
		t.Errorf("%s", r.body)
	}
	if r := w.ask("Why do cats purr?", ""); r.header.Get("X-Cache") != "MISS" {
		t.Error("an invalidated answer was served")
	}
}

func TestAHundredIdenticalMissesMakeOneCall(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	release := w.ollama.Hold()
	defer release()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if r := w.ask("Why do cats purr?", ""); !strings.Contains(text(t, r), "Why do cats purr?") {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	w.Eventually("100 requests are waiting", func() error {
		if r := w.do("GET", "/cache/stats", ""); !strings.Contains(r.body, `"total":100`) {
			return fmt.Errorf("%s", r.body)
		}
		return nil
	})
	release()
	wg.Wait()
	if n := w.ollama.Calls("/api/chat"); n != 1 {
		t.Errorf("%d upstream calls", n)
	}
}

// TestStreamsAreNotHeldBack has an upstream that makes a piece only when the one before has
// arrived.
func TestStreamsAreNotHeldBack(t *testing.T) {
	arrived := make(chan struct{})
	ollama := standin.New(standin.Options{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/generate" {
			ollama.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		for i := range 10 {
			fmt.Fprintf(w, `{"model":"standin","response":"%d ","done":false}`+"\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-arrived:
			case <-r.Context().Done():
				return
			}
		}
		io.WriteString(w, `{"model":"standin","response":"","done":true,"done_reason":"stop"}`+"\n")
	}))
	t.Cleanup(up.Close)
	s := Start(t, Config{Bin: binary, Upstream: up.URL, Args: []string{"--embedder", "lexical"}})
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Post(s.URL+"/api/generate", "", strings.NewReader(`{"model":"standin","prompt":"Why do cats purr?"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := range 10 {
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, fmt.Sprintf(`"%d "`, i)) {
			t.Fatalf("piece %d: %q %v", i, line, err)
		}
		arrived <- struct{}{}
	}
	if rest, err := io.ReadAll(in); err != nil || !strings.Contains(string(rest), `"done":true`) {
		t.Errorf("%q %v", rest, err)
	}
}

func TestUploadsAreStreamedAndBodiesBounded(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical", "--max-body", "1MiB")
	big := strings.Repeat("x", 3<<20)
	if r := w.do("POST", "/api/blobs/sha256:0", big); r.status != 201 {
		t.Errorf("upload: %d %s", r.status, r.body)
	}
	if _, n := w.ollama.Last("/api/blobs/sha256:0"); n != 3<<20 {
		t.Errorf("%d bytes arrived", n)
	}
	big = big[:1<<20+10_000] // little enough for net/http to read what is left, so that the answer is not lost to a reset
	for path, want := range map[string]string{"/api/chat": `{"error":"request body is larger`, "/v1/chat/completions": `{"error":{"message":"request body`, "/cache/store": `"status":413`} {
		if r := w.do("POST", path, big); r.status != 413 || !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestOpenAICallers(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	q := `{"model":"standin","messages":[{"role":"user","content":"Why do cats purr?"}]`
	miss, hit := w.do("POST", "/v1/chat/completions", q+`}`), w.do("POST", "/v1/chat/completions", q+`,"stream":true}`)
	if miss.header.Get("X-Cache") != "MISS" || hit.header.Get("X-Cache") != "HIT" || !strings.HasSuffix(hit.body, "data: [DONE]\n\n") {
		t.Errorf("%v\n%v\n%s", miss.header, hit.header, hit.body)
	}
	if r := w.do("POST", "/api/chat", q+`,"options":{"temperature":1,"top_p":1}}`); r.header.Get("X-Cache") != "HIT" {
		t.Errorf("%v", r.header)
	}
}

func TestOperatorsView(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical", "--log-format", "json", "--log-level", "debug")
	w.ask("Why do cats purr?", "", "Authorization", "Bearer canary-token")
	w.ask("Why do cats purr?", "")
	metrics := w.admin("/metrics")
	for _, want := range []string{
		`semcached_requests_total{outcome="miss",route="/api/chat",stream="true"} 1`, `semcached_requests_total{outcome="hit_exact",route="/api/chat",stream="true"} 1`,
		`semcached_entries 1`, `semcached_store_total{result="stored"} 1`, `semcached_tokens_saved_total{type="output"} `, `semcached_ready 1`, `semcached_lookup_duration_seconds_count{stage="exact"} 2`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz?verbose": `"cache":"ready"`, "/debug/pprof/goroutine?debug=1": "goroutine profile"} {
		if got := w.admin(path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	if strings.Contains(w.Log()+metrics, "canary-token") || strings.Contains(w.Log()+metrics, "cats purr") {
		t.Error("a token or a prompt is in the log or the metrics")
	}
	req, _ := http.NewRequest("GET", w.Admin+"/metrics", nil)
	req.Host = "rebound.example"
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 403 {
		t.Errorf("a web page may reach the admin listener: %v", err)
	}
	host := strings.TrimPrefix(w.Admin, "http://")
	if out, err := exec.Command(binary, "healthcheck", "--admin", host).CombinedOutput(); err != nil {
		t.Errorf("healthcheck: %v %s", err, out)
	}
	w.Kill()
	if out, err := exec.Command(binary, "healthcheck", "--admin", host).CombinedOutput(); err == nil {
		t.Errorf("healthcheck of a dead server: %s", out)
	}
}

func (w *world) admin(path string) string {
	w.t.Helper()
	resp, err := http.Get(w.Admin + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func TestDrainLetsStreamsEnd(t *testing.T) {
	w := newWorld(t, standin.Options{PerToken: 40 * time.Millisecond}, "--embedder", "lexical")
	resp, err := http.Post(w.URL+"/api/generate", "", strings.NewReader(`{"model":"standin","prompt":"Why do cats purr?"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- w.Stop() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Contains(b, []byte(`"done":true`)) {
		t.Errorf("%v %s", err, tail(string(b), 200))
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	w.Restart()
	if r := w.do("POST", "/api/generate", `{"model":"standin","prompt":"Why do cats purr?"}`); r.header.Get("X-Cache") != "HIT" {
		t.Error("the answer that ended while draining was not kept")
	}
}

func TestDamagedDataFileIsPutAside(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	w.ask("Why do cats purr?", "", "X-Semcached-Durability", "sync")
	w.Kill()
	path := filepath.Join(w.Data, "semcached.db")
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage!"), 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if r := w.ask("Why do cats purr?", ""); r.header.Get("X-Cache") != "MISS" {
		t.Errorf("%v", r.header)
	}
	if aside, _ := filepath.Glob(path + ".corrupt-*"); len(aside) != 1 {
		t.Errorf("moved aside: %v", aside)
	}
	w.says("WARNING")
}
