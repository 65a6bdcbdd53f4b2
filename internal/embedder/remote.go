package embedder

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// maxReply bounds what is read of a server's answer.
	maxReply = 64 << 20
	// maxBatch bounds the texts of one call.
	maxBatch = 32
	// callTimeout bounds a call when those who wait have left: the vectors
	// are remembered all the same.
	callTimeout = 30 * time.Second
)

// call sends a JSON request and decodes the JSON answer into out. Errors wrap
// ErrUpstream and carry the server's own words, shortened.
func call(ctx context.Context, c *http.Client, method, target, key string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return resp.StatusCode, fmt.Errorf("%w: %w", ErrUpstream, err)
	case len(raw) > maxReply:
		return resp.StatusCode, fmt.Errorf("%w: the answer is too large", ErrUpstream)
	case resp.StatusCode != http.StatusOK:
		return resp.StatusCode, fmt.Errorf("%w: %s: %.200q", ErrUpstream, resp.Status, bytes.TrimSpace(raw))
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return resp.StatusCode, fmt.Errorf("%w: the answer is not what was asked for: %w", ErrBadVector, err)
	}
	return resp.StatusCode, nil
}

// Options configure a remote embedder.
type Options struct {
	BaseURL string // of Ollama; of an OpenAI-compatible server including /v1
	Model   string
	APIKey  string       // OpenAI only; never logged
	Client  *http.Client // default: http.DefaultClient
}

func (o Options) client() *http.Client {
	if o.Client != nil {
		return o.Client
	}
	return http.DefaultClient
}

// Ollama embeds with a model of an Ollama server. Calls that come while one is
// under way are gathered into the next.
type Ollama struct {
	o     Options
	batch batcher

	mu     sync.Mutex // guards digest
	digest string     // of the model, "" if unknown
}

// NewOllama returns an embedder that is ready once the server has named the
// model's digest, which the first Embed asks for.
func NewOllama(o Options) *Ollama {
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	e := &Ollama{o: o}
	e.batch.call = e.embed
	return e
}

// ollamaTags is the answer of GET /api/tags.
type ollamaTags struct {
	Models []struct {
		Name         string   `json:"name"`
		Digest       string   `json:"digest"`
		Capabilities []string `json:"capabilities"`
		Details      struct {
			Family string `json:"family"`
		} `json:"details"`
	} `json:"models"`
}

// Refresh asks the server for the model's digest. A changed digest is a new
// space. Errors: ErrNotReady if the server does not know the model, ErrUpstream;
// the digest known before stays in force then.
func (e *Ollama) Refresh(ctx context.Context) error {
	var tags ollamaTags
	if _, err := call(ctx, e.o.client(), http.MethodGet, e.o.BaseURL+"/api/tags", "", nil, &tags); err != nil {
		return err
	}
	for _, m := range tags.Models {
		if fold(m.Name) == fold(e.o.Model) && m.Digest != "" {
			e.mu.Lock()
			e.digest = m.Digest
			e.mu.Unlock()
			return nil
		}
	}
	e.mu.Lock()
	e.digest = ""
	e.mu.Unlock()
	return fmt.Errorf("%w: the server has no model %q", ErrNotReady, e.o.Model)
}

// Run refreshes the digest every minute until ctx ends: a model that was pulled
// again makes other vectors.
func (e *Ollama) Run(ctx context.Context) error {
	return every(ctx, time.Minute, func() { e.Refresh(ctx) })
}

func every(ctx context.Context, d time.Duration, f func()) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			f()
		}
	}
}

// fold writes a model's name as Ollama finds it.
func fold(name string) string {
	name = strings.ToLower(name)
	if !strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
		name += ":latest"
	}
	return name
}

func (e *Ollama) known() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.digest
}

// Embed asks the server, at most once for texts that come at the same time.
func (e *Ollama) Embed(ctx context.Context, text string) ([]float32, string, error) {
	digest := e.known()
	if digest == "" {
		if err := e.Refresh(ctx); err != nil {
			return nil, "", err
		}
		digest = e.known()
	}
	v, err := e.batch.do(ctx, text)
	if err != nil {
		return nil, "", err
	}
	return v, fmt.Sprintf("ollama:%s@%.12s%s/%d", fold(e.o.Model), digest, prefixTag(e.o.Model), len(v)), nil
}

// Threshold returns the threshold of the model's family.
func (e *Ollama) Threshold(string) float32 { return familyThreshold(e.o.Model) }

// embed makes one call. Texts are never cut off by the server: prompts that differ
// after the cut would look the same.
func (e *Ollama) embed(ctx context.Context, texts []string) ([][]float32, error) {
	in := struct {
		Model    string   `json:"model"`
		Input    []string `json:"input"`
		Truncate bool     `json:"truncate"`
	}{e.o.Model, make([]string, len(texts)), false}
	for i, t := range texts {
		in.Input[i] = prefixOf(e.o.Model) + t
	}
	var out struct {
		Embeddings [][]float32 `json:"embeddings"`
	}
	if _, err := call(ctx, e.o.client(), http.MethodPost, e.o.BaseURL+"/api/embed", "", in, &out); err != nil {
		return nil, err
	}
	return out.Embeddings, nil
}

// families are known embedding models: the similarity from which their vectors
// may be trusted, and the prefix that their authors ask for in front of texts
// that are compared with each other. The thresholds are cautious guesses, not
// measurements: small encoders put negations and swapped numbers at 0.94 to 0.98,
// which the guards are there for. Set --threshold after measuring your own.
var families = []struct {
	name      string
	threshold float32
	prefix    string
}{
	{"nomic-embed", 0.93, "clustering: "},
	{"mxbai-embed", 0.93, ""},
	{"bge-m3", 0.92, ""},
	{"bge", 0.93, ""},
	{"all-minilm", 0.92, ""},
	{"snowflake-arctic-embed", 0.93, ""},
	{"qwen3-embedding", 0.92, ""},
	{"granite-embedding", 0.94, ""},
	{"embeddinggemma", 0.92, ""},
	{"text-embedding-3", 0.90, ""},
	{"text-embedding-ada", 0.96, ""},
}

// unknownThreshold is for models that nobody has told us about.
const unknownThreshold = 0.95

func familyThreshold(model string) float32 {
	for _, f := range families {
		if strings.Contains(strings.ToLower(model), f.name) {
			return f.threshold
		}
	}
	return unknownThreshold
}

func prefixOf(model string) string {
	for _, f := range families {
		if strings.Contains(strings.ToLower(model), f.name) {
			return f.prefix
		}
	}
	return ""
}

func prefixTag(model string) string {
	if p := prefixOf(model); p != "" {
		return "+" + strings.TrimSuffix(p, ": ")
	}
	return ""
}

// OpenAI embeds with any server that has POST {base}/embeddings.
type OpenAI struct {
	o     Options
	host  string
	batch batcher
}

// NewOpenAI returns an embedder for an OpenAI-compatible server.
func NewOpenAI(o Options) (*OpenAI, error) {
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("embedder: %q is no URL", o.BaseURL)
	}
	e := &OpenAI{o: o, host: u.Host}
	e.batch.call = e.embed
	return e, nil
}

// Embed asks the server, at most once for texts that come at the same time.
func (e *OpenAI) Embed(ctx context.Context, text string) ([]float32, string, error) {
	v, err := e.batch.do(ctx, text)
	if err != nil {
		return nil, "", err
	}
	return v, fmt.Sprintf("openai:%s/%s/%d", e.host, e.o.Model, len(v)), nil
}

// Threshold returns the threshold of the model's family.
func (e *OpenAI) Threshold(string) float32 { return familyThreshold(e.o.Model) }

func (e *OpenAI) embed(ctx context.Context, texts []string) ([][]float32, error) {
	in := map[string]any{"model": e.o.Model, "input": texts, "encoding_format": "base64"}
	var out struct {
		Data []struct {
			Index     int             `json:"index"`
			Embedding json.RawMessage `json:"embedding"`
		} `json:"data"`
	}
	if _, err := call(ctx, e.o.client(), http.MethodPost, e.o.BaseURL+"/embeddings", e.o.APIKey, in, &out); err != nil {
		return nil, err
	}
	vectors := make([][]float32, len(texts))
	for _, d := range out.Data {
		if d.Index < 0 || d.Index >= len(vectors) || vectors[d.Index] != nil {
			return nil, fmt.Errorf("%w: index %d in a batch of %d", ErrBadVector, d.Index, len(texts))
		}
		v, err := decodeEmbedding(d.Embedding)
		if err != nil {
			return nil, err
		}
		vectors[d.Index] = v
	}
	return vectors, nil
}

// decodeEmbedding reads a list of numbers, or little-endian float32 in base64.
func decodeEmbedding(raw json.RawMessage) ([]float32, error) {
	var v []float32
	if len(raw) > 0 && raw[0] == '"' {
		var b []byte
		var text string
		err := json.Unmarshal(raw, &text)
		if err == nil {
			b, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || len(b)%4 != 0 {
			return nil, fmt.Errorf("%w: neither numbers nor base64", ErrBadVector)
		}
		for ; len(b) > 0; b = b[4:] {
			v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b)))
		}
		return v, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadVector, err)
	}
	return v, nil
}

// batcher gathers the texts that come while a call is under way into the next
// call. There is no timer: a lone text leaves at once.
type batcher struct {
	call func(ctx context.Context, texts []string) ([][]float32, error)

	mu      sync.Mutex // guards the fields below
	waiting []*job
	busy    bool
}

// job is one text on its way.
type job struct {
	text string
	done chan struct{} // closed when v or err is set
	v    []float32
	err  error
}

// do returns the unit vector of text. The call goes on when ctx ends, for the
// others in its batch.
func (b *batcher) do(ctx context.Context, text string) ([]float32, error) {
	j := &job{text: text, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, j)
	if !b.busy {
		b.busy = true
		go b.work()
	}
	b.mu.Unlock()
	select {
	case <-j.done:
		return j.v, j.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// work makes calls until nobody waits.
func (b *batcher) work() {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), maxBatch)
		jobs := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		b.busy = n > 0
		b.mu.Unlock()
		if n == 0 {
			return
		}
		b.run(jobs)
	}
}

// run makes one call. When the server refuses a batch, each text goes alone: one
// bad text must not fail the others.
func (b *batcher) run(jobs []*job) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	texts := make([]string, len(jobs))
	for i, j := range jobs {
		texts[i] = j.text
	}
	vectors, err := b.call(ctx, texts)
	if err == nil && len(vectors) != len(jobs) {
		err = fmt.Errorf("%w: %d vectors for %d texts", ErrBadVector, len(vectors), len(jobs))
	}
	if err != nil && len(jobs) > 1 && !errors.Is(err, context.DeadlineExceeded) {
		for _, j := range jobs {
			b.run([]*job{j})
		}
		return
	}
	for i, j := range jobs {
		if j.err = err; err == nil {
			j.err = unit(vectors[i])
			j.v = vectors[i]
		}
		close(j.done)
	}
}
