package cache

import (
	"cmp"
	"slices"
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

// miss counts res and returns it. What was asked for in vain was asked for: if it is
// stored, that counts for its worth.
func (e *Engine) miss(q *Query, res Result) Result {
	e.policy.Use(q.key.hash())
	e.count.missed.Add(1)
	add(&e.count.reasons, res.Reason, 1)
	return res
}

// tenantsShown bounds Stats.Tenants.
const tenantsShown = 10

// Usage returns what one tenant keeps, and its quota.
func (e *Engine) Usage(tenant string) Tenant {
	e.mu.RLock()
	defer e.mu.RUnlock()
	items, bytes := e.policy.Group(tenant)
	return Tenant{Name: tenant, Entries: len(items), Bytes: bytes, Quota: e.policy.Limit(tenant)}
}

// Stats returns the current figures. Its cost grows with the number of partitions and
// tenants; it is meant for scrapes, not for requests.
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
	s.Entries, s.Bytes, s.Partitions = len(e.policy.Items()), e.policy.Bytes(), len(e.parts)
	s.AnswerBytes = e.answerBytes
	e.policy.Groups(func(name string, used, quota Quota) {
		s.Tenants = append(s.Tenants, Tenant{name, used.Entries, used.Bytes, quota})
	})
	parts := make([]*partition, 0, len(e.parts))
	for _, p := range e.parts {
		parts = append(parts, p)
	}
	e.mu.RUnlock()
	slices.SortFunc(s.Tenants, func(a, b Tenant) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	s.Tenants = slices.Clip(s.Tenants[:min(len(s.Tenants), tenantsShown)])
	s.AnswersHeld, s.AnswerMemory = e.answers.stats()
	s.AnswerMemoryMax, s.AnswerReads = e.answers.max, e.answers.reads.Load()
	s.Unsaved, _ = e.unsaved.len()
	for _, p := range parts {
		is := p.index.Stats()
		t, ok := s.Tiers[is.Tier]
		if !ok {
			t.Recall = 1
		}
		if is.Probed > 0 {
			t.Probed += is.Probed
			t.Recall = min(t.Recall, is.Recall)
		}
		t.Indexes++
		t.Vectors += is.Entries
		t.Tombstones += is.Tombstones
		t.Bytes += is.Bytes
		t.Hot += is.Hot
		s.Tiers[is.Tier] = t
	}
	return s
}
