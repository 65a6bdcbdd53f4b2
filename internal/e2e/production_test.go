package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/standin"
)

// cloud is an OpenAI-compatible server.
type cloud struct {
	url string

	mu     sync.Mutex // guards everything below
	calls  int
	auth   []string
	down   bool
	posted []string // bodies that came to /alerts
}

const cloudText = "A cloud model says so."

func newCloud(t *testing.T) *cloud {
	c := new(cloud)
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/alerts" {
		c.posted = append(c.posted, string(body))
		return
	}
	if r.URL.Path != "/v1/chat/completions" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	c.calls++
	c.auth = append(c.auth, r.Header.Get("Authorization"))
	if c.down {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, `{"error":{"message":"cloud is out"}}`)
		return
	}
	if !bytes.Contains(body, []byte(`"stream":true`)) {
		io.WriteString(w, `{"choices":[{"message":{"content":"`+cloudText+`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, word := range strings.SplitAfter(cloudText, " ") {
		fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", word)
	}
	io.WriteString(w, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
}

func (c *cloud) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

func (c *cloud) alerts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.posted...)
}

func (c *cloud) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// configured starts a world with a configuration file, which is returned.
func configured(t *testing.T, file string, args ...string) (*world, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "semcached.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, standin.Options{}, append([]string{"--config", path, "--embedder", "lexical"}, args...)...), path
}

// withFallback is a configuration whose server has c for a fallback. That waits for an answer's
// first byte as long as the upstream may take, by default ten minutes.
func withFallback(c *cloud) string {
	return fmt.Sprintf(`
breaker-failures: 3
breaker-delay: 500ms
probe-interval: 100ms
fallback:
  url: %s/v1
  models: {"*": big-model}
alerts:
  hold_down: 50ms
  webhook: {url: "%s/alerts"}
`, c.url, c.url)
}

func TestFallbackStepsIn(t *testing.T) {
	for name, fault := range map[string]standin.Fault{"refusing": standin.Refuse, "hanging": standin.Hang, "garbage": standin.Garbage} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			settings := withFallback(c)
			if fault == standin.Hang {
				settings += "first-byte-timeout: 1s\n"
			}
			w, _ := configured(t, settings)
			w.ollama.Fail(fault)
			for i, stream := range []string{"", whole} {
				q := fmt.Sprintf("Question %d of native callers?", i)
				r := w.ask(q, stream, "Authorization", "Bearer of-the-client")
				if r.status != 200 || text(t, r) != cloudText || !strings.Contains(r.body, `"remote_model":"big-model"`) || !strings.HasPrefix(r.header.Get("X-Semcached-Source"), "fallback:") {
					t.Errorf("native: %d %v %s", r.status, r.header, r.body)
				}
				more := `,"stream":true`
				if stream != "" {
					more = ""
				}
				r = w.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":"standin","messages":[{"role":"user","content":"Question %d of other callers?"}]%s}`, i, more))
				if r.status != 200 || !strings.Contains(r.body, "says") || strings.Contains(r.body, `"error"`) {
					t.Errorf("/v1: %d %s", r.status, r.body)
				}
			}
			for _, auth := range c.auth {
				if auth != "" {
					t.Errorf("the cloud was told %q", auth)
				}
			}
			if fault != standin.Garbage { // answers of 200 are not the breaker's business
				before := w.ollama.Calls("/api/chat")
				w.ask("While the breaker is open?", "")
				if n := w.ollama.Calls("/api/chat") - before; n > 1 {
					t.Errorf("%d calls of a server that is left alone", n)
				}
			}
			w.ollama.Fail(standin.None)
			w.Eventually("Ollama is used again", func() error {
				r := w.ask("Question 0 of native callers?", "")
				if r.header.Get("X-Semcached-Remote") != "" || strings.Contains(r.body, "cloud") {
					return fmt.Errorf("%v %s", r.header, r.body)
				}
				return nil
			})
			if r := w.ask("Question 0 of native callers?", ""); strings.Contains(r.body, "cloud") {
				t.Errorf("the fallback's answer passes for the local model's: %s", r.body)
			}
		})
	}
}

func TestUpstreamThatIsNotThereAtFirst(t *testing.T) {
	c := newCloud(t)
	addr, listen := reserve(t)
	path := filepath.Join(t.TempDir(), "semcached.yaml")
	if err := os.WriteFile(path, []byte(withFallback(c)), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ollama: standin.New(standin.Options{})}
	w.Server = Start(t, Config{Bin: binary, Upstream: "http://" + addr, Args: []string{"--config", path, "--embedder", "lexical"}})
	if r := w.ask("Is anybody there?", ""); r.status != 200 || text(t, r) != cloudText {
		t.Errorf("%d %s", r.status, r.body)
	}
	up := &http.Server{Handler: w.ollama}
	go up.Serve(listen())
	t.Cleanup(func() { up.Close() })
	w.Eventually("it is used", func() error {
		if r := w.ask("Is anybody there?", ""); strings.Contains(r.body, "cloud") || r.status != 200 {
			return fmt.Errorf("%d %s", r.status, r.body)
		}
		return nil
	})
}

// reserve returns an address that is ours and refuses connections until listen is called.
func reserve(t *testing.T) (addr string, listen func() net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "reserved")
	t.Cleanup(func() { f.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port), func() net.Listener {
		if err := syscall.Listen(fd, 100); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

func TestFallbackComesTooLateForAStreamThatHasBegun(t *testing.T) {
	c := newCloud(t)
	w, _ := configured(t, withFallback(c))
	w.ollama.Fail(standin.Reset)
	r := w.ask("Why do cats purr?", "")
	if r.status != 200 || !strings.Contains(r.body, `{"error":"upstream connection lost`) || c.count() != 0 {
		t.Errorf("%d %s, %d calls of the cloud", r.status, r.body, c.count())
	}
	if r := w.ask("Why do dogs bark?", whole); text(t, r) != cloudText {
		t.Errorf("nothing had been sent: %s", r.body)
	}
}

func TestBothDown(t *testing.T) {
	c := newCloud(t)
	w, _ := configured(t, withFallback(c))
	w.ollama.Fail(standin.Refuse)
	c.setDown(true)
	r := w.ask("Anybody?", "")
	if r.status != 502 || !strings.Contains(r.body, "server busy") || !strings.Contains(r.body, "cloud is out") || r.header.Get("X-Should-Retry") != "false" {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	r = w.do("POST", "/v1/chat/completions", `{"model":"standin","messages":[{"role":"user","content":"Anybody?"}]}`)
	if r.status != 502 || !strings.HasPrefix(r.body, `{"error":{"message":"no answer from Ollama (`) {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAlertsComeOncePerChange(t *testing.T) {
	c := newCloud(t)
	w, _ := configured(t, withFallback(c))
	states := func() string {
		var all []string
		for _, body := range c.alerts() {
			var a struct{ Alert, State string }
			json.Unmarshal([]byte(body), &a)
			all = append(all, a.Alert+" "+a.State)
		}
		return strings.Join(all, ", ")
	}
	await := func(parts ...string) {
		t.Helper()
		w.Eventually("alerts", func() error {
			for _, p := range parts {
				if !strings.Contains(states(), p) {
					return fmt.Errorf("no %q in %s", p, states())
				}
			}
			return nil
		})
	}
	w.ollama.Fail(standin.Refuse)
	for i := range 12 {
		w.ask(fmt.Sprintf("Question number %d?", i), "")
	}
	await("upstream firing", "fallback firing")
	w.ollama.Fail(standin.None)
	w.Eventually("back", func() error {
		if r := w.ask(fmt.Sprintf("Another question, %d?", time.Now().UnixNano()), ""); r.header.Get("X-Semcached-Source") != "ollama" {
			return fmt.Errorf("%v", r.header)
		}
		return nil
	})
	await("upstream resolved", "fallback resolved")
	if n := strings.Count(states(), "upstream resolved"); n != 1 || strings.Count(states(), "fallback firing") > 1 {
		t.Errorf("%s", states())
	}
}

func TestExpiredAnswersStepIn(t *testing.T) {
	w, _ := configured(t, "ttl: 1s\nstale-if-error: 1h\n")
	w.ask("What is a glacier?", "")
	w.ollama.Fail(standin.Refuse)
	w.Eventually("the answer expires", func() error {
		if r := w.ask("What is a glacier?", ""); r.header.Get("X-Cache") != "STALE" || !strings.Contains(r.body, "glacier") {
			return fmt.Errorf("%v %s", r.header, r.body)
		}
		return nil
	})
	w.Kill()
	w.Restart() // and over a restart
	if r := w.ask("What is a glacier?", ""); r.header.Get("X-Semcached-Source") != "cache-stale" || r.status != 200 {
		t.Errorf("%d %v", r.status, r.header)
	}
}

func hexOf(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }

func TestReload(t *testing.T) {
	const first = "ttl: 1h\nprobe-interval: 1h\n"
	w, path := configured(t, first)
	w.ask("What is a fjord?", "")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status := func(want int, headers ...string) func() error {
		return func() error {
			if r := w.ask("What is a fjord?", "", headers...); r.status != want {
				return fmt.Errorf("%d, want %d", r.status, want)
			}
			return nil
		}
	}
	write(first + "tenants: [{name: local, key_sha256: " + hexOf("k1") + "}]\n")
	w.Signal(syscall.SIGHUP)
	w.Eventually("keys are asked for", status(401))
	if r := w.ask("What is a fjord?", "", "Authorization", "Bearer k1"); r.header.Get("X-Cache") != "HIT" {
		t.Errorf("the cache was lost: %v", r.header)
	}
	write(first + "tenants: [{name: local, key_sha256: nonsense}]\n")
	w.Signal(syscall.SIGHUP)
	w.Eventually("the mistake shows", func() error {
		if m := w.metrics(); !strings.Contains(m, "semcached_config_last_reload_successful 0") {
			return fmt.Errorf("no sign of it")
		}
		return nil
	})
	if err := status(200, "Authorization", "Bearer k1")(); err != nil {
		t.Errorf("the old configuration is not in force: %v", err)
	}
	if !strings.Contains(w.Log(), "64 hexadecimal digits") {
		t.Error("the log does not say what is wrong")
	}
	// And without a signal: the file is watched. An editor renames.
	next := path + ".new"
	if err := os.WriteFile(next, []byte(first+"listen: 127.0.0.1:1\ntenants: [{name: local, key_sha256: "+hexOf("k2")+"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the new key works", status(200, "Authorization", "Bearer k2"))
	if err := status(401, "Authorization", "Bearer k1")(); err != nil {
		t.Errorf("the old key still works: %v", err)
	}
	w.Eventually("the metric tells", func() error { // a moment after the key works
		if !strings.Contains(w.metrics(), "semcached_config_last_reload_successful 1") {
			return errors.New("it does not")
		}
		return nil
	})
}

func (w *world) metrics() string {
	w.t.Helper()
	resp, err := http.Get(w.Admin + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// certificate writes a certificate for loopback and returns it with its files.
func certificate(t *testing.T, dir string) (pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "semcached test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), "cert.pem": certPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	w, _ := configured(t, fmt.Sprintf("tls-cert: %[1]s/cert.pem\ntls-key: %[1]s/key.pem\n", dir))
	ask := func(pool *x509.CertPool) (*http.Response, error) {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
		return client.Post(strings.Replace(w.URL, "http:", "https:", 1)+"/api/generate", "application/json", strings.NewReader(`{"model":"standin","prompt":"What is TLS?"}`))
	}
	for _, want := range []string{"MISS", "HIT"} {
		resp, err := ask(pool)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.Header.Get("X-Cache") != want || resp.ProtoMajor != 2 || resp.Header.Get("Strict-Transport-Security") == "" || !strings.Contains(string(body), `"done":true`) {
			t.Errorf("%v %v %s", err, resp.Header, body)
		}
	}
	renewed := certificate(t, dir)
	w.Eventually("the new certificate is served", func() error {
		resp, err := ask(renewed)
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
}

func TestStreamsEndWithAWordWhenTimeIsUp(t *testing.T) {
	w := newWorld(t, standin.Options{PerToken: 400 * time.Millisecond}, "--embedder", "lexical", "--drain-time", "500ms")
	for path, want := range map[string]string{"/api/chat": `{"error":"the answer broke off: semcached is shutting down"}`, "/v1/chat/completions": `data: {"error":{"message":"the answer broke off: semcached is shutting down"`} {
		resp, err := http.Post(w.URL+path, "application/json", strings.NewReader(`{"model":"standin","stream":true,"messages":[{"role":"user","content":"Tell me `+path+`"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := w.Stop(); err != nil {
			t.Errorf("%s: exit %v", path, err)
		}
		rest, err := io.ReadAll(in)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(rest), want) || strings.Contains(string(rest), `"done":true`) || time.Since(start) > 10*time.Second {
			t.Errorf("%s: %v %s", path, err, rest)
		}
		w.Restart()
	}
}

func TestCallLog(t *testing.T) {
	c := newCloud(t)
	w, _ := configured(t, withFallback(c)+"trace-file: on\n")
	w.ask("What is a lagoon?", "", "User-Agent", "probe/1", "Traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	w.ask("What is a lagoon?", whole)
	w.ask("what is a lagoon", "")
	w.ask("What is a lagoon?", "", "Cache-Control", "no-store")
	w.ollama.Fail(standin.Refuse)
	w.ask("What is an atoll?", "")
	w.do("POST", "/api/chat", "{")
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.Data, "llm_traces.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("lagoon")) || bytes.Contains(raw, []byte("atoll")) {
		t.Errorf("a question's text is in the log of calls: %s", raw)
	}
	var got []string
	for line := range bytes.Lines(raw) {
		var r struct {
			TraceID  string `json:"trace_id"`
			Route    string
			Response struct {
				Source       string
				OutputTokens int `json:"output_tokens"`
			}
			Request     struct{ Model string }
			Performance struct {
				Latency float64  `json:"latency_ms"`
				Speed   *float64 `json:"tokens_per_second"`
			}
			Cache    struct{ Result string }
			Attempts []any
			Client   struct{ UA string }
		}
		if err := json.Unmarshal(line, &r); err != nil || len(r.TraceID) != 32 || r.Performance.Latency <= 0 {
			t.Fatalf("%s: %v", line, err)
		}
		got = append(got, fmt.Sprintf("%s %s %v %v %d", r.Cache.Result, r.Response.Source, r.Response.OutputTokens > 0, r.Performance.Speed != nil, len(r.Attempts)))
	}
	want := []string{"miss ollama-local true true 1", "hit_exact cache-exact true false 0", "hit_semantic cache-semantic true false 0", "bypass ollama-local false false 1",
		"miss openai-cloud-fallback false false 2", "bypass ollama-local false false 1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !bytes.Contains(raw, []byte(`"ua":"probe/1"`)) || !bytes.HasPrefix(raw, []byte(`{"trace_id":"0123456789abcdef0123456789abcdef",`)) {
		t.Error("the client or its trace is not named")
	}
}
