package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestRealOllama is the first session of a person with Ollama: run a model
// through semcached, ask twice, ask in other words, restart, ask again.
func TestRealOllama(t *testing.T) {
	o, missing := RealOllama(t)
	if missing != "" {
		t.Skip("SKIPPED: " + missing)
	}
	s := Start(t, Config{Bin: binary, Upstream: o.URL, Args: []string{
		"--embedder", "ollama:" + TinyEmbed, "--embed-timeout", "5s", "--threshold", "0.8"}})

	out, err := o.Run(s.URL, t.TempDir(), "run", TinyChat, "What is a Docker container?")
	if err != nil || !strings.Contains(out, "Docker") {
		t.Fatalf("ollama run: %v\n%s", err, out)
	}
	ask := func(text string) (string, http.Header) { return askChat(t, s.URL, TinyChat, text) }

	fresh, h := ask("How does a container share the kernel of its host?")
	expect(t, "new question", h, "X-Cache", "MISS")
	again, h := ask("How does a container share the kernel of its host?")
	expect(t, "exact repeat", h, "X-Semcached-Source", "cache-exact")
	reworded, h := ask("Please explain how a container shares the kernel of its host")
	expect(t, "rephrased", h, "X-Semcached-Source", "cache-semantic")
	if again != fresh || reworded != fresh || fresh == "" {
		t.Errorf("answers differ: %q, %q, %q", fresh, again, reworded)
	}
	_, h = ask("Which 15 herbs grow best in dry and sandy soil?")
	expect(t, "another question", h, "X-Cache", "MISS")

	if err := s.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	s.Restart()
	after, h := ask("How does a container share the kernel of its host?")
	expect(t, "after a restart", h, "X-Semcached-Source", "cache-exact")
	_, h = ask("Please explain how a container shares the kernel of its host")
	expect(t, "rephrased, after a restart", h, "X-Semcached-Source", "cache-semantic")
	if after != fresh {
		t.Errorf("after a restart: %q, want %q", after, fresh)
	}
}

func expect(t *testing.T, what string, h http.Header, name, want string) {
	t.Helper()
	if got := h.Get(name); got != want {
		t.Errorf("%s: %s is %q, want %q (reason %q, similarity %q)", what, name, got, want,
			h.Get("X-Semcached-Reason"), h.Get("X-Semcached-Similarity"))
	}
}

// askChat asks a question without streaming and returns the answer's text.
func askChat(t *testing.T, url, model, text string) (string, http.Header) {
	t.Helper()
	body, _ := json.Marshal(map[string]any{
		"model": model, "stream": false,
		"messages": []map[string]string{{"role": "user", "content": text}},
	})
	resp, err := http.Post(url+"/api/chat", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("ask %q: %s %s %v", text, resp.Status, raw, err)
	}
	var r struct {
		Message struct{ Content string }
		Done    bool
	}
	if err := json.Unmarshal(raw, &r); err != nil || !r.Done {
		t.Fatalf("ask %q: %s: %v", text, raw, err)
	}
	return r.Message.Content, resp.Header
}
