package cache

import (
	"sync"
	"sync/atomic"
)

// counters count since the start. The maps' keys come from this package and
// from package guard, so they are few.
type counters struct {
	exact, semantic, stale, missed   atomic.Uint64
	stored, storeFailed, lateDropped atomic.Uint64
	reasons, evictions               sync.Map // string -> *atomic.Uint64
}

func add(m *sync.Map, name string, n uint64) {
	c, ok := m.Load(name)
	if !ok {
		c, _ = m.LoadOrStore(name, new(atomic.Uint64))
	}
	c.(*atomic.Uint64).Add(n)
}

func read(m *sync.Map) map[string]uint64 {
	out := make(map[string]uint64)
	m.Range(func(k, v any) bool {
		out[k.(string)] = v.(*atomic.Uint64).Load()
		return true
	})
	return out
}

func (c *counters) evicted(reason string, n int) { add(&c.evictions, reason, uint64(n)) }

// miss counts res and returns it.
func (e *Engine) miss(res Result) Result {
	e.count.missed.Add(1)
	add(&e.count.reasons, res.Reason, 1)
	return res
}

// Usage returns the number and bytes of one tenant's entries. Its cost grows with the
// number of all entries.
func (e *Engine) Usage(tenant string) (entries int, bytes int64) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, en := range e.all {
		if en.tenant == tenant {
			entries++
			bytes += en.size
		}
	}
	return entries, bytes
}

// Stats returns the current figures. Its cost grows with the number of
// partitions; it is meant for scrapes, not for requests.
func (e *Engine) Stats() Stats {
	s := Stats{
		Loading:       !e.Ready(),
		MaxBytes:      e.o.MaxBytes,
		HitsExact:     e.count.exact.Load(),
		HitsSemantic:  e.count.semantic.Load(),
		HitsStale:     e.count.stale.Load(),
		Misses:        e.count.missed.Load(),
		Stored:        e.count.stored.Load(),
		StoreFailures: e.count.storeFailed.Load(),
		Unembedded:    e.count.lateDropped.Load(),
		Evictions:     read(&e.count.evictions),
		MissReasons:   read(&e.count.reasons),
		Tiers:         make(map[string]Tier),
	}
	e.mu.RLock()
	s.Entries, s.Bytes, s.Partitions = len(e.all), e.bytes, len(e.parts)
	parts := make([]*partition, 0, len(e.parts))
	for _, p := range e.parts {
		parts = append(parts, p)
	}
	e.mu.RUnlock()
	for _, p := range parts {
		is := p.index.Stats()
		t := s.Tiers[is.Tier]
		t.Indexes++
		t.Vectors += is.Entries
		t.Tombstones += is.Tombstones
		t.Bytes += is.Bytes
		s.Tiers[is.Tier] = t
	}
	return s
}
