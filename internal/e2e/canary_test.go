package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// Secrets are planted everywhere and must come out nowhere but where they belong.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	const (
		cloudKey  = "sk-canary-cloud-key"
		tenantKey = "sc-canary-tenant-key"
		hookToken = "canary-hook-token"
		mailWord  = "canary-mail-password"
		prompt    = "canary-prompt: what is a mangrove swamp"
		clientKey = "canary-client-bearer"
	)
	c, o := newCloud(t), newOTLP(t)
	keyFile := filepath.Join(t.TempDir(), "cloud.key")
	if err := os.WriteFile(keyFile, []byte(cloudKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := fmt.Sprintf(`
first-byte-timeout: 300ms
probe-interval: 100ms
breaker-failures: 2
breaker-delay: 200ms
log-level: debug
trace-file: on
fallback: {url: "%[1]s/v1", api_key_file: %[2]q, models: {"*": big}}
tenants: [{name: team, key_sha256: %[3]s, rate: 50, burst: 30, roles: [read, write, admin]}]
filter: {rules: [{name: birds, words: [albatross], action: block}]}
alerts: {hold_down: 0s, webhook: {url: "%[1]s/nowhere/%[4]s"}, smtp: {addr: "127.0.0.1:1", from: a@example.com, to: [b@example.com], username: u, password_env: MAIL_WORD}}
`, c.url, keyFile, hexOf(tenantKey), hookToken)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"MAIL_WORD=" + mailWord, "OTEL_EXPORTER_OTLP_ENDPOINT=" + o.url, "OTEL_BSP_SCHEDULE_DELAY=50"}
	w := newWorldWith(t, Config{Args: []string{"--config", file, "--embedder", "lexical"}, Env: env})

	var out strings.Builder // whatever a client or operator sees
	see := func(method, path, body, key string) {
		req, err := http.NewRequest(method, w.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("X-Api-Key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		fmt.Fprintf(&out, "%v %s\n", resp.Header, strings.ReplaceAll(string(b), prompt, "it")) // the answer repeats the question, which is its own
	}
	body := fmt.Sprintf(`{"model":"standin","messages":[{"role":"user","content":%q}]}`, prompt)
	for _, fault := range []standin.Fault{standin.None, standin.Refuse, standin.Hang, standin.Reset, standin.ErrorLine, standin.Garbage} {
		w.ollama.Fail(fault)
		body := strings.Replace(body, "swamp", fmt.Sprint("swamp number ", int(fault)), 1)
		for _, key := range []string{tenantKey, clientKey} {
			for _, path := range []string{"/api/chat", "/v1/chat/completions", "/cache/lookup", "/cache/explain", "/v1/messages", "/api/show"} {
				see("POST", path, body, key)
			}
		}
		see("POST", "/api/chat", body[:len(body)-3], tenantKey)
	}
	c.setDown(true)
	see("POST", "/api/chat", strings.Replace(body, "swamp", "forest", 1), tenantKey)
	w.Eventually("alerts fail", func() error {
		if m := w.metrics(); !strings.Contains(m, "semcached_fallback_total") || !strings.Contains(w.Log(), "alert not delivered") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	out.WriteString(w.metrics())
	for _, path := range []string{"/readyz?verbose", "/debug/pprof/cmdline", "/"} {
		resp, err := http.Get(w.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		out.Write(b)
	}
	show := exec.Command(binary, "config", "--config", file)
	show.Env = append(environ(), env...)
	shown, err := show.CombinedOutput()
	if err != nil {
		t.Errorf("config: %v %s", err, shown)
	}
	out.Write(shown)
	if err := w.Stop(); err != nil {
		t.Errorf("exit: %v", err)
	}
	calls, err := os.ReadFile(filepath.Join(w.Data, "llm_traces.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{"answers, metrics, configuration": out.String(), "log": w.Log(), "log of calls": string(calls), "traces": string(o.raw)} {
		for _, secret := range []string{cloudKey, tenantKey, hookToken, mailWord, clientKey, "canary-prompt", "mangrove"} {
			if strings.Contains(text, secret) {
				i := strings.Index(text, secret)
				t.Errorf("%s is in the %s: …%s…", secret, place, text[max(0, i-200):min(len(text), i+100)])
			}
		}
		if len(text) < 100 {
			t.Errorf("the %s are empty: the test looks at nothing", place)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, auth := range c.auth {
		if auth != "Bearer "+cloudKey {
			t.Errorf("the cloud was told %q", auth)
		}
	}
	if len(c.auth) == 0 {
		t.Error("the cloud was never asked: the test looks at nothing")
	}
}
