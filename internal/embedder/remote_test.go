package embedder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a model server whose answers the test decides.
type server struct {
	*httptest.Server
	tags  atomic.Pointer[string]
	reply func(w http.ResponseWriter, inputs []string) // of /api/embed and /embeddings
	calls atomic.Int32
	auth  atomic.Value
}

// nobody listens there: no listener is given that port.
const nobody = "http://127.0.0.1:1"

const tagsTwo = `{"models":[{"name":"chatty:latest","digest":"c1","details":{"family":"llama"}},{"name":"tiny-embed:latest","digest":"0123456789abcdef","details":{"family":"bert"}}]}`

func newServer(t *testing.T, reply func(w http.ResponseWriter, inputs []string)) *server {
	s := &server{reply: reply}
	s.setTags(tagsTwo)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.auth.Store(r.Header.Get("Authorization"))
		if r.URL.Path == "/api/tags" {
			fmt.Fprint(w, *s.tags.Load())
			return
		}
		s.calls.Add(1)
		var in struct {
			Input    []string
			Truncate *bool
		}
		json.NewDecoder(r.Body).Decode(&in)
		if r.URL.Path == "/api/embed" && (in.Truncate == nil || *in.Truncate) {
			http.Error(w, "texts may be cut off", 400)
			return
		}
		s.reply(w, in.Input)
	}))
	t.Cleanup(func() {
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

func (s *server) setTags(v string) { s.tags.Store(&v) }

func (s *server) ollama() *Ollama {
	return NewOllama(Options{BaseURL: s.URL, Model: "Tiny-Embed"})
}

// echo answers with vectors that tell the texts apart by their length.
func echo(w http.ResponseWriter, inputs []string) {
	var out [][]float32
	for _, t := range inputs {
		out = append(out, []float32{3, float32(len(t))})
	}
	json.NewEncoder(w).Encode(map[string]any{"embeddings": out})
}

func TestOllamaEmbedsAndNamesTheSpace(t *testing.T) {
	s := newServer(t, echo)
	e := s.ollama()
	v, space, err := e.Embed(t.Context(), "four")
	if err != nil || space != "ollama:tiny-embed:latest@0123456789ab/2" || v[0] != 0.6 || v[1] != 0.8 {
		t.Fatalf("%v %q %v", v, space, err)
	}
	s.setTags(strings.Replace(tagsTwo, "0123456789abcdef", "fedcba", 1))
	if err := e.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, space, _ = e.Embed(t.Context(), "four"); space != "ollama:tiny-embed:latest@fedcba/2" {
		t.Errorf("a model that was pulled again has the same space: %q", space)
	}
	s.setTags(`{"models":[]}`)
	if err := e.Refresh(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("%v, want ErrNotReady", err)
	}
	if _, _, err := e.Embed(t.Context(), "four"); !errors.Is(err, ErrNotReady) {
		t.Errorf("%v, want ErrNotReady: the digest is unknown", err)
	}
}

func TestBadAnswersAreErrors(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"zeros":    {`{"embeddings":[[0,0,0]]}`, ErrBadVector},
		"constant": {`{"embeddings":[[1,1,1]]}`, ErrBadVector},
		"null":     {`{"embeddings":[[null,null]]}`, ErrBadVector},
		"text":     {`{"embeddings":[["a"]]}`, ErrBadVector},
		"overflow": {`{"embeddings":[[1e39,1]]}`, ErrBadVector},
		"too few":  {`{"embeddings":[]}`, ErrBadVector},
		"too many": {`{"embeddings":[[1,2],[3,4]]}`, ErrBadVector},
		"no dims":  {`{"embeddings":[[]]}`, ErrBadVector},
		"garbage":  {`<html>`, ErrBadVector},
	} {
		s := newServer(t, func(w http.ResponseWriter, _ []string) { fmt.Fprint(w, c.body) })
		if v, _, err := s.ollama().Embed(t.Context(), "x"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v %v, want %v", name, v, err, c.want)
		}
	}
	s := newServer(t, func(w http.ResponseWriter, _ []string) { http.Error(w, strings.Repeat("no ", 500), 500) })
	if _, _, err := s.ollama().Embed(t.Context(), "x"); !errors.Is(err, ErrUpstream) || len(err.Error()) > 400 {
		t.Errorf("%v", err)
	}
	if _, _, err := NewOllama(Options{BaseURL: nobody, Model: "m"}).Embed(t.Context(), "x"); !errors.Is(err, ErrUpstream) {
		t.Errorf("server down: %v", err)
	}
}

func TestConcurrentTextsShareCalls(t *testing.T) {
	started, release := make(chan struct{}, 100), make(chan struct{})
	s := newServer(t, func(w http.ResponseWriter, inputs []string) {
		started <- struct{}{}
		<-release
		echo(w, inputs)
	})
	e := s.ollama()
	var wg sync.WaitGroup
	ask := func(n int) {
		wg.Go(func() {
			if v, _, err := e.Embed(context.Background(), strings.Repeat("x", n)); err != nil || v[1]/v[0] < float32(n)/3-0.01 {
				t.Errorf("text %d: %v %v", n, v, err)
			}
		})
	}
	ask(4)
	<-started
	for n := range 20 {
		ask(n + 5)
	}
	for {
		e.batch.mu.Lock()
		n := len(e.batch.waiting)
		e.batch.mu.Unlock()
		if n == 20 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := s.calls.Load(); n != 2 {
		t.Errorf("21 texts took %d calls, want 2", n)
	}
}

func TestOneBadTextDoesNotFailTheOthers(t *testing.T) {
	s := newServer(t, func(w http.ResponseWriter, inputs []string) {
		for _, in := range inputs {
			if in == "bad" {
				http.Error(w, "too long", 400)
				return
			}
		}
		echo(w, inputs)
	})
	e := s.ollama()
	jobs := []*job{{text: "good", done: make(chan struct{})}, {text: "bad", done: make(chan struct{})}}
	e.batch.run(jobs)
	if jobs[0].err != nil || jobs[0].v == nil || !errors.Is(jobs[1].err, ErrUpstream) {
		t.Errorf("%v, %v", jobs[0].err, jobs[1].err)
	}
}

func TestDeadlineIsKept(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, func(w http.ResponseWriter, inputs []string) { <-release; echo(w, inputs) })
	defer close(release)
	e := s.ollama()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, _, err := e.Embed(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
}

func TestOpenAI(t *testing.T) {
	replies := map[string]string{
		"numbers":   `{"data":[{"index":0,"embedding":[3,4]}]}`,
		"base64":    `{"data":[{"index":0,"embedding":"AABAQAAAgEA="}]}`,
		"bad index": `{"data":[{"index":5,"embedding":[3,4]}]}`,
		"bad text":  `{"data":[{"index":0,"embedding":"%%"}]}`,
		"missing":   `{"data":[]}`,
	}
	for name, body := range replies {
		s := newServer(t, func(w http.ResponseWriter, _ []string) { fmt.Fprint(w, body) })
		e, err := NewOpenAI(Options{BaseURL: s.URL + "/v1", Model: "m", APIKey: "secret"})
		if err != nil {
			t.Fatal(err)
		}
		v, space, err := e.Embed(t.Context(), "x")
		good := name == "numbers" || name == "base64"
		if good && (err != nil || v[0] != 0.6 || !strings.HasSuffix(space, "/m/2") || s.auth.Load() != "Bearer secret") || !good && !errors.Is(err, ErrBadVector) {
			t.Errorf("%s: %v %q %v", name, v, space, err)
		}
	}
	if _, err := NewOpenAI(Options{BaseURL: "nowhere"}); err == nil {
		t.Error("a base URL without a host was accepted")
	}
}

func TestMemoRemembersAndForgets(t *testing.T) {
	s := newServer(t, echo)
	e := s.ollama()
	m := NewMemo(e, 2*cost("aaaa", make([]float32, 2)))
	ask := func(text string) {
		t.Helper()
		if _, _, err := m.Embed(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	ask("aaaa")
	ask("bbbb")
	ask("aaaa")
	if n := s.calls.Load(); n != 2 {
		t.Errorf("%d calls for two texts", n)
	}
	ask("cccc") // pushes bbbb out
	ask("aaaa")
	if n := s.calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3: the text used last was forgotten", n)
	}
	e.mu.Lock()
	e.digest = "other"
	e.mu.Unlock()
	ask("dddd")
	if _, _, ok := m.recall("aaaa"); ok {
		t.Error("a vector of the old space is still there")
	}
	m.Forget()
	if _, _, ok := m.recall("dddd"); ok {
		t.Error("Forget forgets nothing")
	}
}

func TestAutoChooses(t *testing.T) {
	s := newServer(t, echo)
	for tags, want := range map[string]string{
		tagsTwo:         "ollama:tiny-embed:latest",
		`{"models":[]}`: "lexical",
		`{"models":[{"name":"zzz:latest","digest":"d","capabilities":["embedding"]},{"name":"nomic-embed-text:latest","digest":"d"}]}`: "ollama:nomic-embed-text:latest",
		`{"models":[{"name":"zzz:latest","digest":"d","capabilities":["embedding"]}]}`:                                                 "ollama:zzz:latest",
	} {
		s.setTags(tags)
		a := NewAuto(Options{BaseURL: s.URL})
		if err := a.Resolve(t.Context()); err != nil || !strings.HasPrefix(a.Describe(), want) {
			t.Errorf("%s: %q %v", tags, a.Describe(), err)
		}
		if _, _, err := a.Embed(t.Context(), "some words"); err != nil {
			t.Error(err)
		}
	}
	a := NewAuto(Options{BaseURL: nobody})
	if err := a.Resolve(t.Context()); !errors.Is(err, ErrUpstream) {
		t.Errorf("%v", err)
	}
	if _, space, err := a.Embed(t.Context(), "some words"); err != nil || space != lexicalSpace || a.Threshold(space) != lexicalThreshold {
		t.Errorf("%q %v: lexical is there when the upstream is not", space, err)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Spec{
		"auto": {Kind: KindAuto}, "lexical": {Kind: KindLexical}, "ollama:nomic-embed-text": {KindOllama, "nomic-embed-text"},
		"ollama:a/b:c": {KindOllama, "a/b:c"}, "openai:text-embedding-3-small": {KindOpenAI, "text-embedding-3-small"},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "ollama", "ollama:", "openai:", "auto:x", "bert"} {
		if _, err := Parse(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}
