package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/semcached/semcached/internal/wire"
)

// selection says which entries an export or import is about. The zero value selects all.
type selection struct {
	tenant, namespace, tag string
	model                  string    // folded
	since                  time.Time // of being stored
}

// selecting are the flags of a selection.
var selecting = []option{
	{"tenant", "NAME", "only this tenant's entries"},
	{"namespace", "NAME", "only entries of this namespace"},
	{"model", "NAME", "only entries of this model"},
	{"tag", "TAG", "only entries with this tag"},
	{"since", "WHEN", "only entries stored since then: 36h (ago), 2026-01-31 or 2026-01-31T08:00:00Z"},
}

// selected reads the flags.
func (t *dataTool) selected(now time.Time) (selection, error) {
	s := selection{tenant: t.given["tenant"], namespace: t.given["namespace"], tag: t.given["tag"]}
	if m := t.given["model"]; m != "" {
		s.model = wire.FoldModel(m)
	}
	v := t.given["since"]
	if v == "" {
		return s, nil
	}
	if d, err := time.ParseDuration(v); err == nil && d >= 0 {
		s.since = now.Add(-d)
		return s, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, v); err == nil {
			s.since = at
			return s, nil
		}
	}
	return s, fmt.Errorf("--since %q is neither a duration such as 36h nor a date", v)
}

// has reports whether an entry is selected. model is folded; created may be zero, if it
// is not known.
func (s *selection) has(tenant, namespace, model string, tags []string, created time.Time) bool {
	return (s.tenant == "" || s.tenant == tenant) && (s.namespace == "" || s.namespace == namespace) &&
		(s.model == "" || s.model == model) && (s.tag == "" || slices.Contains(tags, s.tag)) && !created.Before(s.since)
}
