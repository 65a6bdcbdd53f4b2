// Package clients drives semcached with the real SDKs. It is a module of its
// own so that their dependencies stay out of the product's go.sum.
//
// The tests run against the stand-in Ollama always, and against a real one
// where OLLAMA_BIN or the PATH gives a server and SEMCACHED_TEST_MODELS, or a
// folder models beside the checkout, gives the tiny models.
package clients

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/semcached/semcached/internal/e2e"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "semcached-clients")
	if err != nil {
		panic(err)
	}
	if binary, err = e2e.Build(dir); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// backends are the servers every client is tried against.
func backends(t *testing.T) map[string]backend {
	all := map[string]backend{"backend=standin": standinBackend(t)}
	if b, why := realBackend(t); why == "" {
		all["backend=ollama"] = b
	} else {
		t.Logf("SKIPPED with a real Ollama: %s", why)
	}
	return all
}

// recorder keeps the cache header of the last response.
type recorder struct{ xcache string }

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		r.xcache = resp.Header.Get("X-Cache")
	}
	return resp, err
}

// twice asks a question two times: a miss, then a hit that reads the same.
func twice(t *testing.T, name string, rec *recorder, ask func() (string, error)) {
	t.Helper()
	first, err := ask()
	if err != nil || rec.xcache != "MISS" || first == "" {
		t.Fatalf("%s, first time: %q, X-Cache %q, %v", name, first, rec.xcache, err)
	}
	second, err := ask()
	if err != nil || rec.xcache != "HIT" || second != first {
		t.Fatalf("%s, again: %q, X-Cache %q, %v; want a HIT reading %q", name, second, rec.xcache, err, first)
	}
}

func TestOllamaGoClient(t *testing.T) {
	for name, b := range backends(t) {
		t.Run(name, func(t *testing.T) {
			s := e2e.Start(t, e2e.Config{Bin: binary, Upstream: b.url, Args: []string{"--embedder", "lexical"}})
			base, _ := url.Parse(s.URL)
			rec := new(recorder)
			c := api.NewClient(base, &http.Client{Transport: rec})
			ctx := t.Context()
			for _, stream := range []bool{true, false} {
				mode := map[bool]string{true: "stream", false: "whole"}[stream]
				twice(t, "chat "+mode, rec, func() (string, error) { return chat(ctx, c, b.chat, mode, &stream) })
				twice(t, "generate "+mode, rec, func() (string, error) { return generate(ctx, c, b.chat, mode, &stream) })
			}
			if _, err := c.List(ctx); err != nil {
				t.Errorf("list: %v", err)
			}
			if _, err := c.Show(ctx, &api.ShowRequest{Model: b.chat}); err != nil {
				t.Errorf("show: %v", err)
			}
			if err := c.Heartbeat(ctx); err != nil {
				t.Errorf("heartbeat: %v", err)
			}
			_, err := chat(ctx, c, "no-such-model", "whole", new(bool))
			if err == nil || !strings.Contains(err.Error(), "not found") {
				t.Errorf("unknown model: %v", err)
			}
		})
	}
}

func chat(ctx context.Context, c *api.Client, model, mode string, stream *bool) (string, error) {
	var text strings.Builder
	var done bool
	err := c.Chat(ctx, &api.ChatRequest{
		Model: model, Stream: stream,
		Messages: []api.Message{{Role: "user", Content: "Which harbour is the oldest, asked " + mode + "?"}},
	}, func(r api.ChatResponse) error {
		text.WriteString(r.Message.Content)
		done = r.Done
		return nil
	})
	if err == nil && !done {
		return "", context.Canceled
	}
	return text.String(), err
}

func generate(ctx context.Context, c *api.Client, model, mode string, stream *bool) (string, error) {
	var text strings.Builder
	err := c.Generate(ctx, &api.GenerateRequest{
		Model: model, Stream: stream, Prompt: "Which tower leans most, asked " + mode + "?",
	}, func(r api.GenerateResponse) error {
		text.WriteString(r.Response)
		return nil
	})
	return text.String(), err
}

func TestOpenAIGoClient(t *testing.T) {
	for name, b := range backends(t) {
		t.Run(name, func(t *testing.T) {
			s := e2e.Start(t, e2e.Config{Bin: binary, Upstream: b.url, Args: []string{"--embedder", "lexical"}})
			rec := new(recorder)
			c := openai.NewClient(option.WithBaseURL(s.URL+"/v1"), option.WithAPIKey("unused"),
				option.WithMaxRetries(0), option.WithHTTPClient(&http.Client{Transport: rec}))
			ask := func(what string) openai.ChatCompletionNewParams {
				return openai.ChatCompletionNewParams{
					Model:    b.chat,
					Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(what)},
				}
			}
			twice(t, "whole", rec, func() (string, error) {
				r, err := c.Chat.Completions.New(t.Context(), ask("Which bell rings first?"))
				if err != nil || len(r.Choices) != 1 || r.Choices[0].FinishReason != "stop" {
					return "", err
				}
				return r.Choices[0].Message.Content, nil
			})
			twice(t, "stream", rec, func() (string, error) {
				stream := c.Chat.Completions.NewStreaming(t.Context(), ask("Which gate closes last?"))
				defer stream.Close()
				var acc openai.ChatCompletionAccumulator
				for stream.Next() {
					acc.AddChunk(stream.Current())
				}
				if err := stream.Err(); err != nil || len(acc.Choices) != 1 || acc.Choices[0].FinishReason != "stop" {
					return "", err
				}
				return acc.Choices[0].Message.Content, nil
			})
			if page, err := c.Models.List(t.Context()); err != nil || len(page.Data) == 0 {
				t.Errorf("models: %v", err)
			}
		})
	}
}

// What is stored through one protocol is replayed on the other, stream or not. Ollama's
// /v1 layer forces a temperature and top_p of 1; a native question that means the same
// says so.
func TestCrossProtocolHits(t *testing.T) {
	for name, b := range backends(t) {
		t.Run(name, func(t *testing.T) {
			s := e2e.Start(t, e2e.Config{Bin: binary, Upstream: b.url, Args: []string{"--embedder", "lexical"}})
			base, _ := url.Parse(s.URL)
			rec := new(recorder)
			native := api.NewClient(base, &http.Client{Transport: rec})
			other := openai.NewClient(option.WithBaseURL(s.URL+"/v1"), option.WithAPIKey("unused"), option.WithMaxRetries(0), option.WithHTTPClient(&http.Client{Transport: rec}))
			askNative := func(what string, stream bool) (string, error) {
				var text strings.Builder
				err := native.Chat(t.Context(), &api.ChatRequest{Model: b.chat, Stream: &stream, Messages: []api.Message{{Role: "user", Content: what}},
					Options: map[string]any{"temperature": 1.0, "top_p": 1.0}}, func(r api.ChatResponse) error { text.WriteString(r.Message.Content); return nil })
				return text.String(), err
			}
			askOther := func(what string, stream bool) (string, error) {
				p := openai.ChatCompletionNewParams{Model: b.chat, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(what)}}
				if !stream {
					r, err := other.Chat.Completions.New(t.Context(), p)
					if err != nil {
						return "", err
					}
					return r.Choices[0].Message.Content, nil
				}
				st := other.Chat.Completions.NewStreaming(t.Context(), p)
				defer st.Close()
				var acc openai.ChatCompletionAccumulator
				for st.Next() {
					acc.AddChunk(st.Current())
				}
				return acc.Choices[0].Message.Content, st.Err()
			}
			for i, c := range []struct {
				from, to func(string, bool) (string, error)
			}{{askNative, askOther}, {askOther, askNative}} {
				for _, stored := range []bool{true, false} {
					for _, replayed := range []bool{true, false} {
						what := fmt.Sprintf("Which ferry sails at %d %v %v?", i, stored, replayed)
						first, err := c.from(what, stored)
						if err != nil || rec.xcache != "MISS" || first == "" {
							t.Fatalf("%s: %q %s %v", what, first, rec.xcache, err)
						}
						second, err := c.to(what, replayed)
						if err != nil || rec.xcache != "HIT" || second != first {
							t.Errorf("%s: %q %s %v; want %q", what, second, rec.xcache, err, first)
						}
					}
				}
			}
		})
	}
}

// The SDKs' API keys are tenants' keys, and refusals arrive as the SDKs' own errors.
func TestKeysOfTheSDKs(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.yaml")
	sum := sha256.Sum256([]byte("sc-sdk-key"))
	if err := os.WriteFile(config, fmt.Appendf(nil, "tenants: [{name: a, key_sha256: %x, rate: 0.01, burst: 2}]\n", sum), 0o600); err != nil {
		t.Fatal(err)
	}
	s := e2e.Start(t, e2e.Config{Bin: binary, Upstream: standinBackend(t).url, Args: []string{"--embedder", "lexical", "--config", config}})
	ask := func(key string) error {
		c := openai.NewClient(option.WithBaseURL(s.URL+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
		_, err := c.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "standin", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Who keeps the keys?")}})
		return err
	}
	for i, want := range []int{0, 0, 429} {
		err := ask("sc-sdk-key")
		var refused *openai.Error
		if got := errors.As(err, &refused); got != (want != 0) || got && (refused.StatusCode != want || refused.Response.Header.Get("Retry-After") == "") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	var refused *openai.Error
	if err := ask("another"); !errors.As(err, &refused) || refused.StatusCode != 401 || refused.Type != "authentication_error" {
		t.Errorf("%v", err)
	}
}

func TestJavaScriptClients(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("SKIPPED: no node on the PATH")
	}
	if _, err := os.Stat("js/node_modules/openai"); err != nil {
		t.Skip("SKIPPED: the npm packages are not installed; run.sh does that")
	}
	for name, b := range backends(t) {
		t.Run(name, func(t *testing.T) {
			s := e2e.Start(t, e2e.Config{Bin: binary, Upstream: b.url, Args: []string{"--embedder", "lexical"}})
			out, err := exec.Command("node", "js/check.mjs", s.URL, b.chat).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
