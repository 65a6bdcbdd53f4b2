package cache

import (
	"iter"
)

const (
	// maxEvictions bounds the work that one Store may cause.
	maxEvictions = 64
	// dropBatch bounds how long a mass removal holds the engine's lock.
	dropBatch = 1000
)

// shrink evicts entries, at most limit of them, until the byte budget and the tenants'
// quotas are kept. Which ones is package admission's choice.
func (e *Engine) shrink(limit int) {
	e.policy.Sketch().Age() // outside the lock, for it takes its time
	for range limit {
		e.mu.Lock()
		victim, reason := e.policy.Victim(e.o.Now())
		if victim == nil {
			e.mu.Unlock()
			return
		}
		en := victim.Value
		ix := e.removeLocked(en)
		e.eraseLocked([]uint64{en.id}, nil) // only ErrClosed: nothing is served after that
		e.mu.Unlock()
		if ix != nil {
			ix.Remove(en.id)
		}
		e.evicted(reason, 1)
	}
}

// SetQuotas replaces the tenants' quotas, by name. Entries beyond them go at once or
// within the next seconds.
func (e *Engine) SetQuotas(quotas map[string]Quota) {
	e.mu.Lock()
	e.policy.Limits(quotas)
	e.mu.Unlock()
	if e.Ready() {
		e.shrink(maxEvictions)
	}
}

func (e *Engine) evicted(reason string, n int) {
	if n == 0 || reason == "" {
		return
	}
	e.count.evicted(reason, n)
	if e.o.Hooks.Evicted != nil {
		e.o.Hooks.Evicted(reason, n)
	}
}

// batches yields ids in slices of at most dropBatch.
func batches(ids []uint64) iter.Seq[[]uint64] {
	return func(yield func([]uint64) bool) {
		for len(ids) > 0 {
			n := min(len(ids), dropBatch)
			if !yield(ids[:n]) {
				return
			}
			ids = ids[n:]
		}
	}
}
