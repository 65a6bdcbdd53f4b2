package cache

import (
	"context"
)

// lateJob is an entry that waits for its vector.
type lateJob struct {
	entry *entry
	query Query
}

// embedLater queues en for a vector; when the queue is full it stays exact-only.
func (e *Engine) embedLater(en *entry, q *Query) {
	select {
	case e.late <- lateJob{en, *q}:
	default:
		e.count.lateDropped.Add(1)
	}
}

func (e *Engine) embedLate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-e.late:
			e.embedOne(ctx, j)
		}
	}
}

// embedOne gives one entry its vector and writes its record again with it.
func (e *Engine) embedOne(ctx context.Context, j lateJob) {
	ctx, cancel := context.WithTimeout(ctx, lateEmbedTimeout)
	defer cancel()
	vec, space, err := e.o.Embedder.Embed(ctx, j.query.Prompt)
	if err != nil {
		e.count.lateDropped.Add(1)
		e.o.Log.Debug("entry stays exact-only: embedding failed", "id", j.entry.id, "error", err)
		return
	}
	j.query.place(vec, space)
	answer, err := e.answer(j.entry) // the store takes whole records only
	if err != nil {
		e.count.lateDropped.Add(1)
		return
	}
	e.gate.RLock()
	defer e.gate.RUnlock()
	if err := e.attach(j.entry, j.query.part, space, vec, nil); err != nil {
		e.o.Log.Warn("entry is exact-only: its vector cannot be indexed", "id", j.entry.id, "error", err)
		return
	}
	rec := j.entry.record(answer, j.query.part, space, vec)
	e.mu.Lock() // so that no Delete of a removed entry comes before this Put
	defer e.mu.Unlock()
	if !j.entry.removed {
		e.saveLocked(j.entry, rec, nil)
	}
}
