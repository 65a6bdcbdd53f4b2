package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/wire"
)

//go:embed openapi.yaml
var openAPI []byte

// cacheAPI serves the routes under /cache.
type cacheAPI struct{ o Options }

// apiRoute is one of them.
type apiRoute struct {
	method, path string
	handler      gin.HandlerFunc
}

func (c cacheAPI) routes() []apiRoute {
	return []apiRoute{
		{http.MethodPost, "/cache/lookup", c.lookup},
		{http.MethodPost, "/cache/store", c.store},
		{http.MethodPost, "/cache/explain", c.explain},
		{http.MethodPost, "/cache/invalidate", c.invalidate},
		{http.MethodGet, "/cache/stats", c.stats},
		{http.MethodGet, "/cache/entries/:id", c.entry},
		{http.MethodDelete, "/cache/entries/:id", c.delete},
		{http.MethodGet, "/cache/openapi.yaml", c.openAPI},
	}
}

// unnamed stands for the model of questions that name none.
const unnamed = "-"

// question is the body of lookup, store and explain: our own fields, and what is
// left, a native request.
type question struct {
	request   *wire.Request
	namespace string
	vector    []float32
	threshold float32
	ttl       time.Duration
	tags      []string
	sync      bool
	answer    json.RawMessage
}

// fieldError is a mistake in a named field.
type fieldError struct {
	field string
	err   error
}

func (e fieldError) Error() string { return e.field + ": " + e.err.Error() }

// controlFields are ours; they do not reach the request.
var controlFields = []string{"namespace", "vector", "threshold", "ttl_seconds", "tags", "durability", "answer"}

// readQuestion takes a body apart.
func readQuestion(body []byte) (*question, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, fmt.Errorf("the body is not a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("the body is not a JSON object")
	}
	q := new(question)
	if err := q.controls(fields); err != nil {
		return nil, err
	}
	for _, name := range controlFields {
		delete(fields, name)
	}
	if !has(fields, "model") {
		fields["model"] = json.RawMessage(`"` + unnamed + `"`)
	}
	op := wire.OpGenerate
	if has(fields, "messages") {
		op = wire.OpChat
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	q.request, err = wire.DecodeRequest(op, rest)
	return q, err
}

// has reports whether a field is there, in any case: that is how it will be read.
func has(fields map[string]json.RawMessage, name string) bool {
	for f := range fields {
		if strings.EqualFold(f, name) {
			return true
		}
	}
	return false
}

// controls reads our own fields.
func (q *question) controls(fields map[string]json.RawMessage) error {
	var ttl *int64
	var threshold *float64
	var durability string
	for name, into := range map[string]any{
		"namespace": &q.namespace, "vector": &q.vector, "threshold": &threshold, "ttl_seconds": &ttl, "tags": &q.tags, "durability": &durability,
	} {
		if raw, ok := fields[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return fieldError{name, errors.New("wrong type or out of range")}
			}
		}
	}
	q.answer = fields["answer"]
	var err error
	if err = proxy.CheckNamespace(q.namespace); err != nil {
		return fieldError{"namespace", err}
	}
	if err = proxy.CheckTags(q.tags); err != nil {
		return fieldError{"tags", err}
	}
	if threshold != nil {
		if q.threshold, err = proxy.CheckThreshold(*threshold); err != nil {
			return fieldError{"threshold", err}
		}
	}
	if ttl != nil {
		if q.ttl, err = proxy.ParseTTL(fmt.Sprint(*ttl)); err != nil {
			return fieldError{"ttl_seconds", err}
		}
	}
	if durability != "" {
		if q.sync, err = proxy.ParseDurability(durability); err != nil {
			return fieldError{"durability", err}
		}
	}
	return nil
}

// query is the question for the engine.
func (q *question) query(tenant string) *cache.Query {
	n := q.request
	return &cache.Query{
		Tenant: tenant, Namespace: q.namespace, Op: string(n.Op), Model: n.Folded, Canonical: n.Canonical,
		Scope: n.Scope, Prompt: n.Prompt, ExactOnly: n.ExactOnly, Vector: q.vector, Threshold: q.threshold, MaxAge: -1,
	}
}

// body reads a request's body within the limit.
func (c cacheAPI) body(g *gin.Context) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(g.Writer, g.Request.Body, c.o.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		fail(g, http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", large.Limit))
	case err != nil:
		fail(g, http.StatusBadRequest, "the request body broke off")
	}
	return b, err == nil
}

// question reads a body and checks it against the engine; on false it has answered.
func (c cacheAPI) question(g *gin.Context) (*question, *cache.Query, bool) {
	b, ok := c.body(g)
	if !ok {
		return nil, nil, false
	}
	if !c.ready(g) {
		return nil, nil, false
	}
	q, err := readQuestion(b)
	if err != nil {
		fail(g, http.StatusBadRequest, err.Error())
		return nil, nil, false
	}
	query := q.query(tenant.From(g.Request.Context()).Name)
	if q.vector != nil {
		if err := c.o.Engine.CheckVector(query.Tenant, query.Namespace, q.vector); err != nil {
			fail(g, http.StatusUnprocessableEntity, fieldError{"vector", err}.Error())
			return nil, nil, false
		}
	}
	return q, query, true
}

func (c cacheAPI) ready(g *gin.Context) bool {
	if c.o.Engine.Ready() {
		return true
	}
	g.Header("Retry-After", "1")
	fail(g, http.StatusServiceUnavailable, "entries are still being loaded")
	return false
}

func (c cacheAPI) lookup(g *gin.Context) {
	q, query, ok := c.question(g)
	if !ok {
		return
	}
	if q.request.Bypass != "" {
		g.JSON(http.StatusOK, gin.H{"hit": false, "reason": "bypass-" + q.request.Bypass})
		return
	}
	query.WantNearest = true
	start := c.o.Now()
	res := c.o.Engine.Lookup(g.Request.Context(), query)
	if res.Kind == cache.Miss {
		miss := gin.H{"hit": false, "reason": res.Reason}
		if n := res.Nearest; n != nil {
			miss["nearest"] = gin.H{"id": proxy.FormatID(n.ID), "similarity": n.Similarity}
		}
		g.JSON(http.StatusOK, miss)
		return
	}
	now := c.o.Now()
	a, err := wire.DecodeAnswer(res.Answer)
	if err != nil {
		g.JSON(http.StatusOK, gin.H{"hit": false, "reason": cache.ReasonCorrupt})
		return
	}
	if !c.screened(g, q.request.Op, a) {
		return
	}
	answer := render(q.request.Op, q.request.Model, a, now, now.Sub(start))
	g.JSON(http.StatusOK, gin.H{
		"hit": true, "kind": res.Kind.String(), "similarity": res.Similarity, "id": proxy.FormatID(res.Entry.ID), "answer": answer,
		"age_seconds": seconds(now.Sub(res.Entry.Created)), "ttl_seconds": seconds(res.Entry.Expires.Sub(now)),
	})
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// render writes a stored answer as Ollama's final object.
func render(op wire.Op, model string, a *wire.Answer, now time.Time, elapsed time.Duration) json.RawMessage {
	if model == unnamed && a.Model != "" {
		model = a.Model
	}
	return wire.Replay{Op: op, Model: model, Now: now, Elapsed: elapsed}.AppendObject(nil, a)
}

func (c cacheAPI) store(g *gin.Context) {
	q, query, ok := c.question(g)
	if !ok {
		return
	}
	if q.request.Bypass != "" {
		fail(g, http.StatusUnprocessableEntity, "this request is never cached: "+q.request.Bypass)
		return
	}
	a, err := readAnswer(q.request, q.answer, c.o.Now())
	if err != nil {
		fail(g, http.StatusUnprocessableEntity, fieldError{"answer", err}.Error())
		return
	}
	encoded, err := a.AppendBinary(nil)
	if err != nil {
		fail(g, http.StatusUnprocessableEntity, fieldError{"answer", err}.Error())
		return
	}
	id, err := c.o.Engine.Store(g.Request.Context(), query, cache.Answer{
		Encoded: encoded, Provider: a.Provider, Cost: a.Total, InputTokens: a.InputTokens, OutputTokens: a.OutputTokens,
	}, cache.StoreOptions{TTL: q.ttl, Tags: q.tags, Sync: q.sync, Embed: true})
	if err != nil {
		c.storeFailed(g, err)
		return
	}
	g.JSON(http.StatusCreated, gin.H{"stored": true, "id": proxy.FormatID(id), "durable": q.sync})
}

// storeFailed answers that an entry was not kept.
func (c cacheAPI) storeFailed(g *gin.Context, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, cache.ErrVector), errors.Is(err, cache.ErrNoAnswer):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, cache.ErrTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, cache.ErrLoading), errors.Is(err, cache.ErrBusy):
		g.Header("Retry-After", "1")
		status = http.StatusServiceUnavailable
	default:
		c.o.Log.Error("store failed", "error", err)
		status = http.StatusInsufficientStorage
	}
	fail(g, status, err.Error())
}

// readAnswer reads the answer to store: a text, or Ollama's final object, which
// must be complete.
func readAnswer(r *wire.Request, raw json.RawMessage, now time.Time) (*wire.Answer, error) {
	var text string
	switch raw = bytes.TrimSpace(raw); {
	case len(raw) == 0 || string(raw) == "null":
		return nil, errors.New("is missing")
	case raw[0] == '"':
		if err := json.Unmarshal(raw, &text); err != nil || strings.TrimSpace(text) == "" {
			return nil, errors.New("is empty")
		}
		return &wire.Answer{Role: "assistant", Content: text, DoneReason: "stop", Model: r.Model, Provider: "api", Created: now}, nil
	}
	c := wire.NewCollector(r.Op)
	if err := c.Add(raw); err != nil {
		return nil, errors.New("is neither a text nor an answer object")
	}
	a, err := c.Answer()
	if err != nil {
		return nil, err
	}
	a.Provider = "api"
	if a.Created.IsZero() {
		a.Created = now
	}
	return a, nil
}

func (c cacheAPI) explain(g *gin.Context) {
	q, query, ok := c.question(g)
	if !ok {
		return
	}
	x := c.o.Engine.Explain(g.Request.Context(), query)
	if q.request.Bypass != "" {
		x = cache.Explanation{Key: x.Key, Reason: "bypass-" + q.request.Bypass}
	}
	near := make([]gin.H, 0, len(x.Candidates))
	for _, n := range x.Candidates {
		near = append(near, gin.H{"id": proxy.FormatID(n.ID), "similarity": n.Similarity, "verdict": n.Verdict})
	}
	g.JSON(http.StatusOK, gin.H{
		"outcome": x.Kind.String(), "reason": x.Reason,
		"key": gin.H{"sha256": x.Key, "tenant": query.Tenant, "namespace": query.Namespace, "operation": query.Op, "model": query.Model,
			"canonical": json.RawMessage(query.Canonical)},
		"partition": gin.H{"sha256": x.Partition, "space": x.Space, "exact_only": q.request.ExactOnly},
		"threshold": x.Threshold, "candidates": near,
	})
}

// selection is the body of invalidate.
type selection struct {
	Namespace *string `json:"namespace"`
	Model     string  `json:"model"`
	Tag       string  `json:"tag"`
	Prompt    string  `json:"prompt"`
	All       bool    `json:"all"`
	DryRun    bool    `json:"dry_run"`
}

func (c cacheAPI) invalidate(g *gin.Context) {
	b, ok := c.body(g)
	if !ok || !c.ready(g) {
		return
	}
	var s selection
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // a misspelt field must not widen the selection
	if err := dec.Decode(&s); err != nil {
		fail(g, http.StatusBadRequest, "the body is not a selection: "+err.Error())
		return
	}
	sel := cache.Selection{Tenant: tenant.From(g.Request.Context()).Name, Namespace: s.Namespace, Tag: s.Tag, Prompt: s.Prompt, All: s.All, DryRun: s.DryRun}
	if s.Model != "" {
		sel.Model = wire.FoldModel(s.Model)
	}
	matched, deleted, err := c.o.Engine.Invalidate(g.Request.Context(), sel)
	switch {
	case errors.Is(err, cache.ErrEmptySelection):
		fail(g, http.StatusBadRequest, `nothing is selected: give namespace, model, tag, prompt, or "all": true`)
	case err != nil:
		c.o.Log.Error("invalidate failed", "error", err)
		fail(g, http.StatusInternalServerError, "the entries are gone from memory, but not yet from the disk: "+err.Error())
	default:
		g.JSON(http.StatusOK, gin.H{"matched": matched, "deleted": deleted})
	}
}

// id reads the entry's ID from the path; on false it has answered.
func (c cacheAPI) id(g *gin.Context) (uint64, bool) {
	id, ok := proxy.ParseID(g.Param("id"))
	if !ok {
		fail(g, http.StatusBadRequest, "an entry's ID has 16 hexadecimal digits")
		return 0, false
	}
	return id, c.ready(g)
}

func (c cacheAPI) entry(g *gin.Context) {
	id, ok := c.id(g)
	if !ok {
		return
	}
	e, encoded, err := c.o.Engine.Entry(tenant.From(g.Request.Context()).Name, id)
	var a *wire.Answer
	if err == nil {
		a, err = wire.DecodeAnswer(encoded)
	}
	switch {
	case errors.Is(err, cache.ErrNotFound):
		fail(g, http.StatusNotFound, "there is no such entry")
	case err != nil:
		fail(g, http.StatusInternalServerError, "the entry cannot be read: "+err.Error())
	case c.screened(g, wire.Op(e.Op), a):
		now := c.o.Now()
		g.JSON(http.StatusOK, gin.H{
			"id": proxy.FormatID(e.ID), "namespace": e.Namespace, "operation": e.Op, "model": e.Model, "digest": e.Digest,
			"provider": e.Provider, "tags": append([]string{}, e.Tags...), "prompt": e.Prompt, "semantic": e.Semantic, "bytes": e.Bytes,
			"hits": e.Hits, "created": e.Created.UTC().Format(time.RFC3339), "expires": e.Expires.UTC().Format(time.RFC3339),
			"age_seconds": seconds(now.Sub(e.Created)), "ttl_seconds": seconds(e.Expires.Sub(now)), "answer": render(wire.Op(e.Op), e.Model, a, e.Created, 0),
		})
	}
}

func (c cacheAPI) delete(g *gin.Context) {
	id, ok := c.id(g)
	if !ok {
		return
	}
	switch err := c.o.Engine.Delete(g.Request.Context(), tenant.From(g.Request.Context()).Name, id); {
	case errors.Is(err, cache.ErrNotFound):
		fail(g, http.StatusNotFound, "there is no such entry")
	case err != nil:
		fail(g, http.StatusInternalServerError, "the entry is gone from memory, but not yet from the disk: "+err.Error())
	default:
		g.Status(http.StatusNoContent)
	}
}

// stats shows the figures of the whole cache, or with tenants only the asker's own.
func (c cacheAPI) stats(g *gin.Context) {
	if c.o.Tenants.Len() > 0 {
		name := tenant.From(g.Request.Context()).Name
		u := c.o.Engine.Usage(name)
		g.JSON(http.StatusOK, gin.H{"tenant": name, "entries": u.Entries, "bytes": u.Bytes, "max_entries": u.Quota.Entries, "max_bytes": u.Quota.Bytes})
		return
	}
	s := c.o.Engine.Stats()
	tiers := gin.H{}
	for name, t := range s.Tiers {
		tiers[name] = gin.H{"indexes": t.Indexes, "vectors": t.Vectors, "tombstones": t.Tombstones, "bytes": t.Bytes, "hot_bytes": t.Hot, "recall": t.Recall, "probed": t.Probed}
	}
	g.JSON(http.StatusOK, gin.H{
		"loading": s.Loading, "entries": s.Entries, "bytes": s.Bytes, "max_bytes": s.MaxBytes, "partitions": s.Partitions,
		"hits":    gin.H{"exact": s.HitsExact, "semantic": s.HitsSemantic, "stale": s.HitsStale},
		"misses":  gin.H{"total": s.Misses, "by_reason": s.MissReasons},
		"answers": gin.H{"bytes": s.AnswerBytes, "held": s.AnswersHeld, "held_bytes": s.AnswerMemory, "max_held_bytes": s.AnswerMemoryMax, "reads": s.AnswerReads},
		"stored":  s.Stored, "store_failures": s.StoreFailures, "unsaved": s.Unsaved, "evictions": s.Evictions, "index": tiers,
	})
}

func (c cacheAPI) openAPI(g *gin.Context) {
	g.Data(http.StatusOK, "application/yaml", openAPI)
}
