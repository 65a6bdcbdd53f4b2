package proxy

import (
	"crypto/sha256"
	"sync"

	"github.com/semcached/semcached/internal/wire"
)

// memoBytes bounds the bodies that are remembered with what they decode to.
const memoBytes = 16 << 20

// bodyKey is a hash of route and raw body.
type bodyKey [sha256.Size]byte

// bodyMemo remembers what recent bodies decode to: decoding is a pure function,
// and costs more than everything else on the path of a hit. Two generations of
// maps stand in for an LRU list: what is used moves to the young one, and the old
// one is dropped when the young one is full.
type bodyMemo struct {
	mu         sync.Mutex // guards everything below
	young, old map[bodyKey]*request
	bytes      int // of young
}

// hashBody hashes a body under its route.
func hashBody(route string, body []byte) bodyKey {
	h := sha256.New()
	h.Write([]byte(route))
	h.Write([]byte{0})
	h.Write(body)
	var k bodyKey
	h.Sum(k[:0])
	return k
}

func (m *bodyMemo) get(k bodyKey) *request {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.young[k]; r != nil {
		return r
	}
	r := m.old[k]
	if r != nil {
		m.putLocked(k, r)
	}
	return r
}

func (m *bodyMemo) put(k bodyKey, r *request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putLocked(k, r)
}

func (m *bodyMemo) putLocked(k bodyKey, r *request) {
	if m.young == nil || m.bytes > memoBytes/2 {
		m.old, m.young, m.bytes = m.young, make(map[bodyKey]*request), 0
	}
	m.young[k] = r
	m.bytes += len(r.native.Canonical) + len(r.native.Scope) + len(r.native.Body()) + 512
}

// request is a decoded inference request; it does not change.
type request struct {
	native *wire.Request
	openai bool // asked through /v1/chat/completions
	usage  bool // of openai: the stream ends with the token counts
}

// decode reads a body, from memory if it has been read before.
func (p *Proxy) decode(rt route, body []byte) (*request, error) {
	k := hashBody(rt.path, body)
	if r := p.bodies.get(k); r != nil {
		return r, nil
	}
	r := new(request)
	if rt.openai {
		o, err := wire.DecodeOpenAI(body)
		if err != nil {
			return nil, err
		}
		r.native, r.openai, r.usage = o.Native, true, o.IncludeUsage
	} else {
		n, err := wire.DecodeRequest(rt.op, body)
		if err != nil {
			return nil, err
		}
		r.native = n
	}
	if len(body) <= memoBytes/64 {
		p.bodies.put(k, r)
	}
	return r, nil
}
