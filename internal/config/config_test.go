package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func load(env map[string]string, file string, args ...string) (*Config, error) {
	return Load(Source{
		Args:   args,
		Getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		ReadFile: func(name string) ([]byte, error) {
			if file == "" {
				return nil, os.ErrNotExist
			}
			return []byte(file), nil
		},
	})
}

func TestDefaults(t *testing.T) {
	c, err := load(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:11435" || c.Admin != "127.0.0.1:11436" || fmt.Sprint(c.Upstreams) != "[http://127.0.0.1:11434]" ||
		c.Data != "./semcached-data" || c.Embedder != "auto" || c.TTL != time.Hour || c.MaxBytes != 512<<20 || c.MaxBody != 20<<20 ||
		c.EmbedTimeout != 150*time.Millisecond || c.Threshold != 0 || c.Durability != "async" {
		t.Errorf("%+v", c)
	}
}

func TestFlagsBeatEnvironmentBeatsFileBeatsDefaults(t *testing.T) {
	file := "ttl: 3m\nlog-level: warn\nembedder: lexical\nthreshold: 0.5\n"
	env := map[string]string{"SEMCACHED_TTL": "2m", "SEMCACHED_LOG_LEVEL": "error", "SEMCACHED_CONFIG": "x.yaml"}
	c, err := load(env, file, "--ttl", "1m")
	if err != nil {
		t.Fatal(err)
	}
	if c.TTL != time.Minute || c.LogLevel != "error" || c.Embedder != "lexical" || c.Threshold != 0.5 || c.Index != "auto" {
		t.Errorf("%+v", c)
	}
	var b strings.Builder
	c.Effective(&b)
	for _, want := range []string{"# flag --ttl", "# environment SEMCACHED_LOG_LEVEL", "# file x.yaml", "# default"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestFullFileAndItsEffectiveForm(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/config/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"OPENAI_API_KEY": "sk-very-secret", "CLOUD_API_KEY": "sk-very-cloud", "ALERT_URL": "https://hooks.example/sk-very", "MAIL_PASSWORD": "sk-very-mail"}
	c, err := load(env, string(raw), "--config", "full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Upstreams) != 2 || c.MaxBytes != 2<<30 || c.MaxBody != 8e6 || c.Threshold != 0.94 || c.Durability != "sync" || c.OpenAIURL != "http://127.0.0.1:9999/v1" {
		t.Errorf("%+v", c)
	}
	var b strings.Builder
	c.Effective(&b)
	if text := b.String() + fmt.Sprintf("%v %+v %#v %+v %+v %+v", c, c, c.OpenAIKey, *c.Fallback, *c.Alerts.Webhook, *c.Alerts.SMTP); strings.Contains(text, "sk-very") {
		t.Errorf("the secret is shown: %s", text)
	}
	if c.Fallback.Key != "sk-very-cloud" || c.Fallback.Models["*"] != "large-cloud" || c.Fallback.MaxTokens != "max_tokens" || c.Fallback.URL.Host != "cloud.example" ||
		len(c.Tenants) != 2 || c.Tenants[0].Rate != 30 || !c.Tenants[1].NoFallback || len(c.Rules) != 2 || c.Rules[0].Replacement != "[card]" ||
		c.Alerts.HoldDown != 10*time.Second || c.Alerts.Webhook.Format != "slack" || c.Alerts.SMTP.Password != "sk-very-mail" ||
		c.Quotas["team-a"] != (Quota{200 << 20, 50000}) || len(c.Routes) != 3 || c.StaleIfError != 24*time.Hour || c.BreakerFailures != 4 || c.File != "full.yaml" {
		t.Errorf("%+v", c)
	}
	again, err := load(nil, b.String(), "--config", "effective.yaml")
	if err == nil {
		if fmt.Sprint(again.Tenants, again.Quotas, again.Rules, again.Fallback.Models, again.Routes, again.Alerts.HoldDown, again.TraceFile) !=
			fmt.Sprint(c.Tenants, c.Quotas, c.Rules, c.Fallback.Models, c.Routes, c.Alerts.HoldDown, c.TraceFile) {
			t.Errorf("the effective sections differ:\n%s", b.String())
		}
	}
	if err != nil || again.TTL != c.TTL || fmt.Sprint(again.Upstreams) != fmt.Sprint(c.Upstreams) || again.MaxBytes != c.MaxBytes || again.Data != c.Data {
		t.Errorf("the effective configuration does not load: %v\n%s", err, b.String())
	}
}

func TestEveryMistakeIsReportedAtOnce(t *testing.T) {
	env := map[string]string{"SEMCACHED_MAX_BYTES": "lots"}
	_, err := load(env, "colour: red\nttl: -5s\nupstreams: [{uri: x}]\nindex: [a]\nopenai: {api_key_env: NO_SUCH_KEY}\n", "--config", "c.yaml",
		"--threshold", "7", "--listen", "nowhere", "--upstream", "ftp://x", "--embedder", "bert", "--log-format", "xml")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"max-bytes (from environment SEMCACHED_MAX_BYTES)", `unknown setting "colour"`, "ttl (from file c.yaml)",
		"upstreams:", "index: a list", "NO_SUCH_KEY", "threshold (from flag --threshold)", "listen (from flag --listen)",
		"upstream (from flag --upstream)", "embedder (from flag --embedder)", "log-format (from flag --log-format)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestMistakesInSections(t *testing.T) {
	file := `
route: [api]
trace-prompts: perhaps
breaker-failures: 11
tls-cert: a.pem
fallback: {url: "ftp://x", api_key_env: NO_SUCH, models: {"": x}, max_tokens_field: tokens}
tenants: [{name: a, key_sha256: short, max_bytes: many}, {name: a, key_sha256: short, max_entries: -1}, {name: "b c", key_sha256: "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8", roles: [root]}]
filter: {rules: [{name: r, match: "a+", action: redact}, {name: s, words: [x], action: burn}]}
alerts: {hold_down: soon, webhook: {url: nowhere, format: xml}, smtp: {addr: mail, from: x, to: []}}
`
	_, err := load(nil, file, "--config", "c.yaml")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"route (from", "trace-prompts (from", "breaker-failures (from", "one without the other", "fallback.url:", "NO_SUCH", "fallback.models: an empty name",
		"fallback.max_tokens_field", "tenants: tenant 1", "tenants: tenant 3", `"many" is not a size`, "max_entries must not be", "different quotas", "root", "filter: rule r: a match could be longer", "burn", "alerts.hold_down", "alerts.webhook.url",
		"alerts.webhook.format", "alerts.smtp.addr", "alerts.smtp.to", "mail address"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	for _, unknown := range []string{"fallback: {uri: x}", "tenants: [{names: x}]", "filter: {rule: []}", "alerts: {sms: x}", "tenants: {name: x}"} {
		if _, err := load(nil, unknown, "--config", "c.yaml"); err == nil {
			t.Errorf("%s was accepted", unknown)
		}
	}
}

func TestAnswersAreLoggedWithPromptsOnly(t *testing.T) {
	if _, err := load(nil, "trace-answers: true\n", "--config", "c.yaml"); err == nil || !strings.Contains(err.Error(), "trace-answers: needs trace-prompts") {
		t.Errorf("%v", err)
	}
	if c, err := load(nil, "trace-answers: true\ntrace_prompts: true\n", "--config", "c.yaml"); err != nil || !c.TraceAnswers {
		t.Errorf("%+v %v", c, err)
	}
}

func TestTraceFileOn(t *testing.T) {
	for in, want := range map[string]string{"on": "d/llm_traces.jsonl", "off": "", "x.jsonl": "x.jsonl"} {
		c, err := load(nil, "", "--data", "d", "--trace-file", in)
		if err != nil || c.TraceFile != want {
			t.Errorf("%s: %v %v", in, c, err)
		}
	}
}

func TestCallingItselfIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"--upstream", "http://127.0.0.1:11435"}, {"--upstream", "http://localhost:11435"}, {"--upstream", "[::1]:11435"},
		{"--listen", "0.0.0.0:11434"}, {"--listen", ":11434"}, {"--upstream", "http://127.0.0.1:11436"}, {"--admin", "localhost:11435"},
	} {
		if _, err := load(nil, "", args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if _, err := load(nil, "", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"); err != nil {
		t.Errorf("free ports: %v", err)
	}
	if _, err := load(nil, "", "--listen", "10.0.0.5:11434"); err != nil {
		t.Errorf("another address: %v", err)
	}
}

func TestUpstreamFromTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{map[string]string{"OLLAMA_HOST": "gpu:9000"}, nil, "[http://gpu:9000]"},
		{map[string]string{"OLLAMA_HOST": "gpu", "SEMCACHED_UPSTREAM": "http://a:1, http://b:2"}, nil, "[http://a:1 http://b:2]"},
		{map[string]string{"SEMCACHED_UPSTREAM": "http://a:1"}, []string{"--upstream", "http://c:3", "--upstream", "http://d:4"}, "[http://c:3 http://d:4]"},
	} {
		got, err := load(c.env, "", c.args...)
		if err != nil || fmt.Sprint(got.Upstreams) != c.want {
			t.Errorf("%v: %v %v", c, got, err)
		}
	}
}

func TestOllamaHost(t *testing.T) {
	for in, want := range map[string]string{
		"": "http://127.0.0.1:11434", "0.0.0.0": "http://127.0.0.1:11434", "0.0.0.0:5000": "http://127.0.0.1:5000",
		"[::]:5000": "http://[::1]:5000", "::1": "http://[::1]:11434", "gpu": "http://gpu:11434", "gpu:1": "http://gpu:1",
		"http://gpu": "http://gpu:80", "https://gpu": "https://gpu:443", "https://gpu:8443/base/": "https://gpu:8443/base",
		"ollama.com": "https://ollama.com:443", ` "gpu:1" `: "http://gpu:1", "gpu:99999": "http://gpu:11434", "gpu:x": "http://gpu:11434",
		"http://gpu/ollama": "http://gpu:80/ollama",
	} {
		if got := OllamaHost(in); got != want {
			t.Errorf("OllamaHost(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "10": 10, "1k": 1024, "1KB": 1000, "1.5GiB": 3 << 29, "2 MB": 2e6} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%s: %d %v", in, got, err)
		}
	}
	for _, in := range []string{"", "MB", "-1", "1XB", "9e99", "1e30TB"} {
		if n, err := ParseSize(in); err == nil {
			t.Errorf("%q was read as %d", in, n)
		}
	}
}

func TestHelpAndStrayArguments(t *testing.T) {
	if _, err := load(nil, "", "-h"); !errors.Is(err, ErrHelp) {
		t.Errorf("%v", err)
	}
	for _, args := range [][]string{{"extra"}, {"--no-such-flag"}, {"--config", "missing.yaml"}} {
		if _, err := load(nil, "", args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("ttl: 1h\nupstreams:\n- url: http://x\n")
	f.Fuzz(func(t *testing.T, file string) { load(nil, file+"\n", "--config", "f") })
}

func FuzzOllamaHost(f *testing.F) {
	f.Add("http://[::]:1/x")
	f.Fuzz(func(t *testing.T, v string) {
		c := new(Config)
		if err := parseUpstream(c, OllamaHost(v)); err == nil && c.Upstreams[0].Host == "" {
			t.Fatalf("%q has no host", v)
		}
	})
}
