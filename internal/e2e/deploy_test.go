package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/semcached/semcached/internal/standin"
)

const deploy = "../../deploy"

func shipped(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deploy, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tool returns the path of a program. Where it is not installed the test is skipped,
// but not in CI, which installs it.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("SEMCACHED_REQUIRE_TOOLS") != "" {
		t.Fatalf("%s is not installed", name)
	}
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func runTool(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

// Every metric that the alert rules and the dashboard name is exported.
func TestShippedMetricsExist(t *testing.T) {
	c := newCloud(t)
	w, _ := configured(t, withFallback(c)+"filter: {rules: [{name: r, words: [x], action: flag}]}\n")
	w.ask("What is a moraine?", "")
	exported := w.metrics()
	name := regexp.MustCompile(`\b(?:semcached|process|go)_[a-z_]+`)
	for _, file := range []string{"prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/dashboards/semcached.json"} {
		found := name.FindAllString(shipped(t, file), -1)
		slices.Sort(found)
		if found = slices.Compact(found); len(found) < 3 {
			t.Errorf("%s names only %v", file, found)
		}
		for _, m := range found {
			base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(m, "_bucket"), "_count"), "_sum")
			if !strings.Contains(exported, "\n# TYPE "+base+" ") {
				t.Errorf("%s: %s is not exported", file, m)
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(shipped(t, "grafana/dashboards/semcached.json")), &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("%v, %d panels", err, len(dashboard.Panels))
	}
	// Label values too: an expression that matches nothing shows nothing.
	value := regexp.MustCompile(`(outcome|result|stage)=~?"([^"]+)"`)
	for _, text := range []string{shipped(t, "prometheus/rules.yml"), shipped(t, "grafana/dashboards/semcached.json")} {
		for _, m := range value.FindAllStringSubmatch(strings.ReplaceAll(text, `\"`, `"`), -1) {
			for v := range strings.SplitSeq(m[2], "|") {
				if !strings.Contains(exported, fmt.Sprintf(`%s="%s"`, m[1], v)) {
					t.Errorf("no series has %s=%q", m[1], v)
				}
			}
		}
	}
}

// Every configuration file that is shipped is one that its program would load.
func TestShippedFilesLoad(t *testing.T) {
	runTool(t, deploy, binary, "config", "--config", "semcached.yaml")
	commented := regexp.MustCompile(`(?m)^# ((?:tenants|fallback|filter|alerts):|  )`)
	full := commented.ReplaceAllString(shipped(t, "semcached.yaml"), "$1")
	full = strings.ReplaceAll(full, `"…"`, `"`+hexOf("k")+`"`)
	path := filepath.Join(t.TempDir(), "full.yaml")
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "config", "--config", path)
	cmd.Env = append(environ(), "OPENAI_API_KEY=x", "ALERT_WEBHOOK=https://hooks.example/x")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "card-numbers") || !strings.Contains(string(out), "team-a") {
		t.Errorf("with its examples: %v %s", err, out)
	}
	for _, name := range []string{"prometheus/prometheus.yml", "grafana/provisioning/datasources/prometheus.yaml", "grafana/provisioning/dashboards/semcached.yaml"} {
		var any map[string]any
		if err := yaml.Unmarshal([]byte(shipped(t, name)), &any); err != nil || len(any) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestComposeFile(t *testing.T) {
	var c struct {
		Services map[string]struct {
			Image, Build any
			Ports        []string
			Volumes      []string
			Networks     []string
			DependsOn    any `yaml:"depends_on"`
			Environment  map[string]string
		}
		Networks, Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(shipped(t, "compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	for name, s := range c.Services {
		if s.Image == nil {
			t.Errorf("%s has no image", name)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(source, "./") {
				if _, ok := c.Volumes[source]; !ok {
					t.Errorf("%s: volume %s is not declared", name, source)
				}
			} else if _, err := os.Stat(filepath.Join(deploy, source)); err != nil && source != "./tls" { // made by hand
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: network %s is not declared", name, n)
			}
		}
	}
	if len(c.Services["ollama"].Ports)+len(c.Services["semcached"].Ports)+len(c.Services["prometheus"].Ports) > 0 {
		t.Error("a server is open to the world that should not be")
	}
	for name := range c.Services["semcached"].Environment {
		if !strings.HasPrefix(name, "SEMCACHED_") {
			t.Errorf("%s is no setting", name)
		}
	}
}

func TestPrometheusRules(t *testing.T) {
	promtool := tool(t, "promtool")
	dir := filepath.Join(deploy, "prometheus")
	runTool(t, dir, promtool, "check", "config", "prometheus.yml")
	runTool(t, dir, promtool, "check", "rules", "rules.yml")
	runTool(t, dir, promtool, "test", "rules", "rules_test.yml")
}

func TestSystemdUnit(t *testing.T) {
	verify := tool(t, "systemd-analyze")
	unit := filepath.Join(t.TempDir(), "semcached.service")
	text := strings.Replace(shipped(t, "systemd/semcached.service"), "/usr/local/bin/semcached", binary, 1)
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, ".", verify, "verify", unit)
}

// door starts a real nginx with the shipped file, changed only in where it listens
// and whom it asks.
func door(t *testing.T, upstream string) (url string) {
	t.Helper()
	nginx := tool(t, "nginx")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	certificate(t, filepath.Join(dir, "tls"))
	os.Rename(filepath.Join(dir, "tls", "cert.pem"), filepath.Join(dir, "tls", "tls.crt"))
	os.Rename(filepath.Join(dir, "tls", "key.pem"), filepath.Join(dir, "tls", "tls.key"))
	conf := filepath.Join(dir, "nginx.conf")
	text := shipped(t, "nginx/nginx.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, dir, nginx, "-t", "-q", "-p", dir, "-c", conf)
	addr := FreeAddr(t)
	for _, r := range [][2]string{
		{"listen 443 ssl http2", "listen " + addr + " ssl http2"}, {"listen 80;", "listen " + FreeAddr(t) + ";"},
		{"http://semcached:11435", upstream}, {"pid /run/nginx.pid;", "pid " + dir + "/pid; daemon off; user root;"},
		{"/dev/stdout", dir + "/access.log"}, {"/dev/stderr", dir + "/error.log"},
	} {
		if strings.Count(text, r[0]) != 1 {
			t.Fatalf("%q is in the shipped file %d times", r[0], strings.Count(text, r[0]))
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", conf)
	out := new(logBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/error.log")
			t.Logf("nginx: %s\n%s", out, log)
		}
	})
	return "https://" + addr
}

func TestThroughRealNginx(t *testing.T) {
	second := make(chan struct{})
	up := standin.New(standin.Options{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/api/chat" {
			up.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		io.WriteString(w, `{"model":"standin","message":{"role":"assistant","content":"one"},"done":false}`+"\n")
		w.(http.Flusher).Flush()
		select {
		case <-second: // not before the first has arrived
		case <-r.Context().Done():
			return
		}
		io.WriteString(w, `{"model":"standin","message":{"role":"assistant","content":"two"},"done":true,"done_reason":"stop"}`+"\n")
	}))
	t.Cleanup(front.Close)
	s := Start(t, Config{Bin: binary, Upstream: front.URL, Args: []string{"--embedder", "lexical"}})
	url := door(t, s.URL)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // a certificate of our own
	defer client.CloseIdleConnections()
	s.Eventually("nginx", func() error {
		resp, err := client.Get(url + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	for path, first := range map[string]string{"/api/chat": `"one"`, "/v1/chat/completions": `"one"`} {
		resp, err := client.Post(url+path, "application/json", strings.NewReader(`{"model":"standin","stream":true,"messages":[{"role":"user","content":"Count, `+path+`"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		line, err := in.ReadString('\n')
		if err != nil || !strings.Contains(line, first) {
			t.Errorf("%s: %q %v", path, line, err)
		}
		second <- struct{}{}
		rest, err := io.ReadAll(in)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(rest), "two") {
			t.Errorf("%s: %q %v", path, rest, err)
		}
		for _, name := range []string{"Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options", "X-Cache", "X-Request-Id"} {
			if len(resp.Header[name]) != 1 {
				t.Errorf("%s: %s is %q", path, name, resp.Header[name])
			}
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200}, {"HEAD", "/", 200}, {"GET", "/api/tags", 200}, {"GET", "/api/version", 200}, {"POST", "/api/show", 200}, {"GET", "/v1/models", 200},
		{"POST", "/api/embed", 200}, {"POST", "/api/pull", 404}, {"DELETE", "/api/delete", 404}, {"POST", "/cache/invalidate", 404}, {"GET", "/metrics", 404},
		{"GET", "/api/chat", 403}, {"POST", "/api/tags", 403}, {"GET", "/debug/pprof/", 404},
	} {
		req, _ := http.NewRequest(c.method, url+c.path, strings.NewReader(`{"model":"`+standin.Embed+`","input":"x"}`))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
	}
	many, asked := 0, 0
	for many == 0 && asked < 3000 {
		asked++
		resp, err := client.Get(url + "/api/version")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == 429 {
			if resp.Header.Get("Retry-After") != "1" {
				t.Errorf("429 without Retry-After: %v", resp.Header)
			}
			many++
		}
	}
	if many == 0 {
		t.Errorf("%d requests in a row are within the limit", asked)
	}
}
