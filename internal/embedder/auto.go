package embedder

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Auto uses an embedding model of the upstream if it has one, else the lexical
// embedder.
type Auto struct {
	o Options

	mu       sync.Mutex // guards the fields below
	current  Embedder
	why      string
	answered bool // the upstream has been asked and has answered
}

// NewAuto returns an embedder that is lexical until Resolve or Run finds better.
// Of o, BaseURL and Client are used.
func NewAuto(o Options) *Auto {
	o.BaseURL = strings.TrimSuffix(o.BaseURL, "/")
	return &Auto{o: o, current: NewLexical(), why: "the upstream has not been asked yet"}
}

// Resolve asks the upstream for its models and decides. Among several the known
// families win in their order, then the name. Errors wrap ErrUpstream; lexical
// stays in force then.
func (a *Auto) Resolve(ctx context.Context) error {
	var tags ollamaTags
	if _, err := call(ctx, a.o.client(), http.MethodGet, a.o.BaseURL+"/api/tags", "", nil, &tags); err != nil {
		a.set(NewLexical(), "the upstream does not answer", false)
		return err
	}
	var names []string
	for _, m := range tags.Models {
		if slices.Contains(m.Capabilities, "embedding") || looksEmbedding(m.Name, m.Details.Family) {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		a.set(NewLexical(), "the upstream has no embedding model", true)
		return nil
	}
	slices.SortFunc(names, byFamily)
	o := a.o
	o.Model = names[0]
	e := NewOllama(o)
	if err := e.Refresh(ctx); err != nil {
		a.set(NewLexical(), "the upstream does not answer", false)
		return err
	}
	a.set(e, fmt.Sprintf("the upstream has %s", o.Model), true)
	return nil
}

// looksEmbedding recognises embedding models of servers that do not list
// capabilities.
func looksEmbedding(name, family string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "embed") || strings.Contains(family, "bert") || familyRank(name) < len(families)
}

func familyRank(name string) int {
	for i, f := range families {
		if strings.Contains(strings.ToLower(name), f.name) {
			return i
		}
	}
	return len(families)
}

func byFamily(a, b string) int {
	if d := familyRank(a) - familyRank(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

func (a *Auto) set(e Embedder, why string, answered bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current, a.why, a.answered = e, why, answered
}

func (a *Auto) chosen() Embedder {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// retryAuto is how often an upstream that has not answered is asked again.
const retryAuto = 10 * time.Second

// Run asks the upstream until it has answered once, then keeps the model's digest
// fresh.
func (a *Auto) Run(ctx context.Context) error {
	beat := 0
	return every(ctx, retryAuto, func() {
		a.mu.Lock()
		answered := a.answered
		a.mu.Unlock()
		if !answered {
			a.Resolve(ctx)
			return
		}
		const beats = int(time.Minute / retryAuto)
		if e, ok := a.chosen().(*Ollama); ok && beat%beats == 0 {
			e.Refresh(ctx)
		}
		beat++
	})
}

// Describe says in a few words what is in force, and why.
func (a *Auto) Describe() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.current.(*Ollama); ok {
		return fmt.Sprintf("ollama:%s (auto: %s)", e.o.Model, a.why)
	}
	return fmt.Sprintf("lexical (auto: %s)", a.why)
}

// Embed uses the embedder in force.
func (a *Auto) Embed(ctx context.Context, text string) ([]float32, string, error) {
	return a.chosen().Embed(ctx, text)
}

// Threshold returns that of the space's embedder.
func (a *Auto) Threshold(space string) float32 {
	if space == lexicalSpace {
		return lexicalThreshold
	}
	return a.chosen().Threshold(space)
}
