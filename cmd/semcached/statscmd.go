package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// dataReport is what stats --json prints.
type dataReport struct {
	File         string                    `json:"file"`
	Records      int                       `json:"records"`
	Expired      int                       `json:"expired"` // of records
	AnswerBytes  int64                     `json:"answer_bytes"`
	ModelSeconds float64                   `json:"model_seconds"` // that the answers took
	By           map[string]map[string]int `json:"by"`            // records by tenant, namespace, model, provider, space
	Oldest       time.Time                 `json:"oldest,omitzero"`
	Newest       time.Time                 `json:"newest,omitzero"`
}

// groups are the headings of a dataReport, in order.
var groups = []string{"tenant", "namespace", "model", "provider", "space"}

func (d *dataReport) add(r *store.Record, now time.Time) {
	d.Records++
	if !r.Expires.After(now) {
		d.Expired++
	}
	d.AnswerBytes += int64(len(r.Answer))
	d.ModelSeconds += r.Cost.Seconds()
	for i, v := range [...]string{r.Tenant, r.Namespace, r.Model, r.Provider, r.Space} {
		d.By[groups[i]][cmp.Or(v, "(none)")]++
	}
	if d.Oldest.IsZero() || r.Created.Before(d.Oldest) {
		d.Oldest = r.Created.UTC()
	}
	if r.Created.After(d.Newest) {
		d.Newest = r.Created.UTC()
	}
}

// dataStats prints what is in the data file. Exit code 3: some of it is damaged, and not
// counted.
func dataStats(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, fileOption, jsonOption)
	if !ok {
		return code
	}
	d := dataReport{By: make(map[string]map[string]int)}
	for _, g := range groups {
		d.By[g] = make(map[string]int)
	}
	now := time.Now()
	err := t.read(ctx, func(path, name string) error {
		d.File = name
		return bolt.Each(ctx, path, func(r *store.Record) error { d.add(r, now); return nil })
	})
	switch {
	case errors.Is(err, store.ErrCorrupt) && d.Records > 0:
		fmt.Fprintln(t.stderr, "semcached: what is sound:", err)
		code = exitPartly
	case err != nil:
		return t.fail(err)
	}
	if t.on("json") {
		b, _ := json.MarshalIndent(d, "", "  ")
		fmt.Fprintf(t.stdout, "%s\n", b)
		return code
	}
	saved := time.Duration(d.ModelSeconds * float64(time.Second)).Round(time.Millisecond)
	fmt.Fprintf(t.stdout, "%s\n  %d records, %d expired; answers of %d bytes that took the models %v\n", d.File, d.Records, d.Expired, d.AnswerBytes, saved)
	if d.Records > 0 {
		fmt.Fprintf(t.stdout, "  stored from %s to %s\n", d.Oldest.Format(time.RFC3339), d.Newest.Format(time.RFC3339))
	}
	const most = 10 // of each group
	for _, what := range groups {
		names := slices.Sorted(maps.Keys(d.By[what]))
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(d.By[what][b], d.By[what][a]) })
		for _, name := range names[:min(most, len(names))] {
			fmt.Fprintf(t.stdout, "  %-9s %7d  %s\n", what, d.By[what][name], name)
		}
		if n := len(names) - most; n > 0 {
			fmt.Fprintf(t.stdout, "  %-9s and %d others\n", what, n)
		}
	}
	return code
}
