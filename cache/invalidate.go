package cache

import (
	"context"
	"slices"
)

// invalidation is a Selection that has been carried out, remembered so that an
// answer which was being made meanwhile is not kept.
type invalidation struct {
	number uint64
	sel    Selection
}

// rememberInvalidations bounds Engine.recent. A Store whose Lookup is older than
// all of them is refused: it cannot be known to be unaffected.
const rememberInvalidations = 256

// Invalidate removes the selected entries and returns how many matched and how
// many were deleted (none on a dry run). It returns when the removal is durable;
// answers being made for matching requests are not kept either. Errors:
// ErrEmptySelection, ErrLoading, those of the store, ctx's; lookups do not see
// the entries any more even then.
func (e *Engine) Invalidate(ctx context.Context, s Selection) (matched, deleted int, err error) {
	if s.empty() {
		return 0, 0, ErrEmptySelection
	}
	if !e.Ready() {
		return 0, 0, ErrLoading
	}
	if !s.DryRun {
		e.remember(s)
	}
	ids := e.selected(s)
	if s.DryRun || len(ids) == 0 {
		return len(ids), 0, nil
	}
	return len(ids), len(ids), e.dropDurably(ctx, ids, "invalidate")
}

func (e *Engine) selected(s Selection) []uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var ids []uint64
	items, _ := e.policy.Group(s.Tenant)
	for _, it := range items {
		if s.matches(it.Value) {
			ids = append(ids, it.Value.id)
		}
	}
	return ids
}

func (e *Engine) remember(s Selection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.epoch++
	if len(e.recent) == rememberInvalidations {
		e.recent = slices.Delete(e.recent, 0, 1)
	}
	e.recent = append(e.recent, invalidation{e.epoch, s})
}

// invalidatedLocked reports whether an invalidation since q's Lookup covers en,
// or may have.
func (e *Engine) invalidatedLocked(q *Query, en *entry) bool {
	if q.began == 0 || e.epoch < q.began {
		return false
	}
	if e.recent[0].number > q.began {
		return true
	}
	for _, inv := range e.recent {
		if inv.number >= q.began && inv.sel.matches(en) {
			return true
		}
	}
	return false
}

func (s Selection) empty() bool {
	return !s.All && s.Namespace == nil && s.Model == "" && s.Tag == "" && s.Prompt == ""
}

// matches reports whether s selects en. All adds nothing to set fields.
func (s Selection) matches(en *entry) bool {
	return en.tenant == s.Tenant &&
		(s.Namespace == nil || en.namespace == *s.Namespace) &&
		(s.Model == "" || en.model == s.Model) &&
		(s.Tag == "" || slices.Contains(en.tags, s.Tag)) &&
		(s.Prompt == "" || en.prompt == s.Prompt)
}
