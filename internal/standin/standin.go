// Package standin is an Ollama server without a model. It speaks Ollama's wire
// format, takes the time that the test or the demo says, answers every question
// with a short invented text, and fails on command.
package standin

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"
)

// The models that a Server has.
const (
	Chat  = "standin:latest"
	Embed = "standin-embed:latest"
)

// Fault is a way to fail on the inference routes.
type Fault int

// The faults.
const (
	None      Fault = iota
	Reset           // the connection is reset after two chunks
	NoDone          // the stream ends cleanly, without a final object
	ErrorLine       // an error line comes in mid-stream
	Refuse          // 503 before anything else
	Hang            // nothing comes until the client gives up
	Garbage         // 200 and a page of HTML
)

// Options configure a Server. The zero value answers at once and never fails.
type Options struct {
	FirstToken time.Duration // until the first chunk
	PerToken   time.Duration // between chunks
	NoEmbed    bool          // has no embedding model
}

// Server is an http.Handler. It is safe for concurrent use.
type Server struct {
	o Options

	mu    sync.Mutex // guards everything below
	fault Fault
	gate  chan struct{}  // answers wait until it is closed; nil: they do not
	count map[string]int // requests by path
	last  map[string][]byte
	sizes map[string]int64 // of the last body by path
}

// New returns a server.
func New(o Options) *Server {
	return &Server{o: o, count: make(map[string]int), last: make(map[string][]byte), sizes: make(map[string]int64)}
}

// Fail makes the inference routes fail from now on.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Hold makes answers wait until the returned function is called.
func (s *Server) Hold() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	})
}

// Calls returns how many requests path has had.
func (s *Server) Calls(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[path]
}

// Last returns the last body sent to path, and its size.
func (s *Server) Last(path string) ([]byte, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[path], s.sizes[path]
}

const maxKept = 1 << 20

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxKept))
	rest, _ := io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	s.count[r.URL.Path]++
	s.last[r.URL.Path], s.sizes[r.URL.Path] = body, int64(len(body))+rest
	s.mu.Unlock()
	switch path := r.Method + " " + r.URL.Path; path {
	case "GET /", "HEAD /":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "Ollama is running")
	case "GET /api/version", "HEAD /api/version":
		reply(w, map[string]string{"version": "0.0.0-standin"})
	case "GET /api/tags", "HEAD /api/tags":
		reply(w, map[string]any{"models": s.models()})
	case "GET /api/ps":
		reply(w, map[string]any{"models": []any{}})
	case "GET /v1/models":
		reply(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": Chat, "object": "model", "created": 1, "owned_by": "library"}}})
	case "POST /api/show":
		s.show(w, body)
	case "POST /api/chat", "POST /api/generate":
		s.infer(w, r, body)
	case "POST /api/embed":
		s.embed(w, body)
	default:
		if strings.HasPrefix(path, "POST /api/blobs/") {
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "404 page not found")
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	b, _ := json.Marshal(v)
	w.Write(b)
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	b, _ := json.Marshal(map[string]string{"error": message})
	w.Write(b)
}

func (s *Server) models() []any {
	model := func(name, family, capability string) map[string]any {
		return map[string]any{
			"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 1000,
			"digest": fmt.Sprintf("%x", name), "capabilities": []string{capability},
			"details": map[string]any{"format": "gguf", "family": family, "families": []string{family}, "parameter_size": "0", "quantization_level": "F16"},
		}
	}
	list := []any{model(Chat, "llama", "completion")}
	if !s.o.NoEmbed {
		list = append(list, model(Embed, "bert", "embedding"))
	}
	return list
}

// known reports whether a model's name is one of ours.
func (s *Server) known(name string) bool {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return strings.EqualFold(name, Chat) || strings.EqualFold(name, Embed) && !s.o.NoEmbed
}

func (s *Server) show(w http.ResponseWriter, body []byte) {
	var in struct{ Model, Name string }
	json.Unmarshal(body, &in)
	if in.Model == "" {
		in.Model = in.Name
	}
	if !s.known(in.Model) {
		fail(w, http.StatusNotFound, fmt.Sprintf("model '%s' not found", in.Model))
		return
	}
	reply(w, map[string]any{"modelfile": "", "template": "{{ .Prompt }}", "details": map[string]any{"family": "llama"}, "model_info": map[string]any{}, "capabilities": []string{"completion"}})
}

// request has the fields that the stand-in looks at.
type request struct {
	Model     string
	Prompt    string
	Stream    *bool
	KeepAlive any `json:"keep_alive"`
	Messages  []struct{ Role, Content string }
}

func (s *Server) infer(w http.ResponseWriter, r *http.Request, body []byte) {
	var in request
	if err := json.NewDecoder(strings.NewReader(string(body))).Decode(&in); err != nil {
		message := err.Error()
		switch err {
		case io.EOF:
			message = "missing request body"
		case io.ErrUnexpectedEOF:
			message = "unexpected EOF"
		}
		fail(w, http.StatusBadRequest, message)
		return
	}
	switch {
	case in.Model == "":
		fail(w, http.StatusBadRequest, "model is required")
		return
	case !s.known(in.Model):
		fail(w, http.StatusNotFound, fmt.Sprintf("model '%s' not found", in.Model))
		return
	}
	a := answer{chat: r.URL.Path == "/api/chat", model: in.Model, text: in.Prompt}
	if n := len(in.Messages); a.chat && n > 0 {
		a.text = in.Messages[n-1].Content
	}
	if a.text == "" && (!a.chat || len(in.Messages) == 0) {
		reason := "load"
		if v, ok := in.KeepAlive.(float64); ok && v == 0 {
			reason = "unload"
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, a.line("", fmt.Sprintf(`,"done":true,"done_reason":%q}`, reason)))
		return
	}
	s.answer(w, r, a, in.Stream == nil || *in.Stream)
}

// answer sends the invented text, or fails as it was told to.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, a answer, stream bool) {
	s.mu.Lock()
	fault, gate := s.fault, s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	switch fault {
	case Refuse:
		fail(w, http.StatusServiceUnavailable, "server busy, please try again.  maximum pending requests exceeded")
		return
	case Hang:
		<-r.Context().Done()
		return
	case Garbage:
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>It works!</html>\n")
		return
	}
	start := time.Now()
	words := a.words()
	if !wait(r, s.o.FirstToken) {
		return
	}
	if !stream {
		if !wait(r, s.o.PerToken*time.Duration(len(words))) {
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if fault == Reset {
			io.WriteString(w, `{"model":`)
			abort(w)
			return
		}
		io.WriteString(w, a.line(strings.Join(words, ""), a.end(start, len(words), fault != NoDone)))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for i, word := range words {
		if i > 0 && !wait(r, s.o.PerToken) {
			return
		}
		io.WriteString(w, a.line(word, `,"done":false}`)+"\n")
		w.(http.Flusher).Flush()
		if i == 1 && fault == Reset {
			abort(w)
			return
		}
		if i == 1 && fault == ErrorLine {
			io.WriteString(w, `{"error":"an error was encountered while running the model"}`+"\n")
			return
		}
	}
	if fault != NoDone {
		io.WriteString(w, a.line("", a.end(start, len(words), true))+"\n")
	}
}

// wait returns false when the client has gone.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// abort resets the connection.
func abort(w http.ResponseWriter) {
	w.(http.Flusher).Flush()
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// answer is what is said to one question.
type answer struct {
	chat        bool
	model, text string
}

// words are the chunks of the answer: they name the question, so that answers to
// different questions differ.
func (a answer) words() []string {
	h := fnv.New32a()
	io.WriteString(h, a.text)
	text := fmt.Sprintf("You asked: %s Here is invented answer %04x, made of a few plain words.", strings.TrimSpace(a.text), h.Sum32()&0xffff)
	return strings.SplitAfter(text, " ")
}

func (a answer) line(text, tail string) string {
	model, _ := json.Marshal(a.model)
	said, _ := json.Marshal(text)
	head := fmt.Sprintf(`{"model":%s,"created_at":%q,`, model, time.Now().UTC().Format(time.RFC3339Nano))
	if a.chat {
		return head + `"message":{"role":"assistant","content":` + string(said) + `}` + tail
	}
	return head + `"response":` + string(said) + tail
}

func (a answer) end(start time.Time, tokens int, done bool) string {
	if !done {
		return `,"done":false}`
	}
	total := max(time.Since(start), time.Microsecond)
	tail := `,"done":true,"done_reason":"stop"`
	if !a.chat {
		tail += `,"context":[1,2,3]`
	}
	return tail + fmt.Sprintf(`,"total_duration":%d,"load_duration":1000,"prompt_eval_count":%d,"prompt_eval_duration":1000,"eval_count":%d,"eval_duration":%d}`,
		total, 1+len(strings.Fields(a.text)), tokens, total)
}

// embed answers with counts of hashed words: rewordings come out alike.
func (s *Server) embed(w http.ResponseWriter, body []byte) {
	var in struct {
		Model string
		Input any
	}
	if err := json.Unmarshal(body, &in); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if !s.known(in.Model) || s.o.NoEmbed {
		fail(w, http.StatusNotFound, fmt.Sprintf("model %q not found, try pulling it first", in.Model))
		return
	}
	var texts []string
	switch v := in.Input.(type) {
	case string:
		texts = []string{v}
	case []any:
		for _, t := range v {
			texts = append(texts, fmt.Sprint(t))
		}
	default:
		fail(w, http.StatusBadRequest, "invalid input type")
		return
	}
	vectors := make([][]float64, len(texts))
	for i, t := range texts {
		vectors[i] = vector(t)
	}
	reply(w, map[string]any{"model": in.Model, "embeddings": vectors, "total_duration": 1000, "load_duration": 1000, "prompt_eval_count": len(texts)})
}

func vector(text string) []float64 {
	v := make([]float64, 64)
	v[0] = 0.1
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		h := fnv.New32a()
		io.WriteString(h, strings.TrimSuffix(word, "s"))
		v[1+h.Sum32()%63] += math.Min(float64(len(word)), 6)
	}
	var sum float64
	for _, x := range v {
		sum += x * x
	}
	for i := range v {
		v[i] /= math.Sqrt(sum)
	}
	return v
}
