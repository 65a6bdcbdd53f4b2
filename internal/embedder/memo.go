package embedder

import (
	"container/list"
	"context"
	"sync"
)

// Memo remembers the vectors of recent texts of another embedder and lets callers
// with the same text share one call.
type Memo struct {
	inner    Embedder
	maxBytes int

	mu    sync.Mutex // guards the fields below
	known map[string]*list.Element
	order *list.List // of memory, the most recently used first
	bytes int
	space string // of everything known
}

// memory is one remembered vector.
type memory struct {
	text   string
	vector []float32
}

// NewMemo remembers vectors and texts of at most maxBytes in all. The vectors of
// a space are forgotten when inner answers with another.
func NewMemo(inner Embedder, maxBytes int) *Memo {
	return &Memo{inner: inner, maxBytes: maxBytes, known: make(map[string]*list.Element), order: list.New()}
}

// Threshold is inner's.
func (m *Memo) Threshold(space string) float32 { return m.inner.Threshold(space) }

// Embed answers from memory or asks inner.
func (m *Memo) Embed(ctx context.Context, text string) ([]float32, string, error) {
	if v, space, ok := m.recall(text); ok {
		return v, space, nil
	}
	v, space, err := m.inner.Embed(ctx, text)
	if err == nil {
		m.remember(text, v, space)
	}
	return v, space, err
}

func (m *Memo) recall(text string) ([]float32, string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.known[text]
	if !ok {
		return nil, "", false
	}
	m.order.MoveToFront(e)
	return e.Value.(*memory).vector, m.space, true
}

func (m *Memo) remember(text string, v []float32, space string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if space != m.space {
		clear(m.known)
		m.order.Init()
		m.bytes, m.space = 0, space
	}
	if _, ok := m.known[text]; ok {
		return
	}
	m.known[text] = m.order.PushFront(&memory{text, v})
	for m.bytes += cost(text, v); m.bytes > m.maxBytes; {
		last := m.order.Remove(m.order.Back()).(*memory)
		delete(m.known, last.text)
		m.bytes -= cost(last.text, last.vector)
	}
}

// cost is the memory of one entry, list and map included.
func cost(text string, v []float32) int { return len(text) + 4*len(v) + 160 }

// Forget drops everything, for when the space may have changed behind inner.
func (m *Memo) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.known)
	m.order.Init()
	m.bytes, m.space = 0, ""
}
