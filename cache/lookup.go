package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/cache/guard"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

// Lookup answers q from the cache or says why not. It never fails: whatever
// goes wrong is a miss with a reason. ctx bounds the embedding, which
// Options.EmbedTimeout bounds as well. An exact hit calls no embedder.
func (e *Engine) Lookup(ctx context.Context, q *Query) Result {
	start := e.clock()
	q.Key()
	e.stage("key", start)
	if !e.Ready() {
		return e.miss(q, Result{Reason: ReasonLoading})
	}
	q.began = 1 + e.epochNow()
	if q.Refresh {
		return e.miss(q, Result{Reason: ReasonRefresh})
	}
	start = e.clock()
	en, reason := e.exact(q)
	e.stage("exact", start)
	if en != nil {
		res, ok := e.serve(en, Exact, 1)
		if ok {
			return res
		}
		return e.miss(q, res)
	}
	res := e.semantic(ctx, q)
	if res.Kind == Miss {
		if reason != ReasonAbsent && (res.Reason == ReasonAbsent || res.Reason == ReasonExactOnly) {
			res.Reason = reason // what stood in the way of the exact entry tells more
		}
		return e.miss(q, res)
	}
	return res
}

// Peek looks for the exact entry once more, for a caller whose Lookup of q has
// missed: another's answer may have been stored since. It embeds nothing, and
// counts a hit but no second miss.
func (e *Engine) Peek(q *Query) Result {
	q.Key()
	if !e.Ready() || q.Refresh {
		return Result{}
	}
	if en, _ := e.exact(q); en != nil {
		if res, ok := e.serve(en, Exact, 1); ok {
			return res
		}
	}
	return Result{}
}

// Stale returns the exact entry of q although its time is over, if it has been over
// for no longer than Options.KeepStale: better an old answer than none when nobody
// can be asked (RFC 5861, section 4). All else that keeps an entry from being
// served still does.
func (e *Engine) Stale(q *Query) Result {
	q.Key()
	if !e.Ready() || q.Refresh || e.o.KeepStale == 0 {
		return Result{}
	}
	e.mu.RLock()
	en := e.byKey[q.key]
	e.mu.RUnlock()
	if en == nil || !en.answers(q) {
		return Result{}
	}
	now := e.o.Now()
	reason := en.stale(q, now)
	if reason == ReasonExpired {
		reason = en.stale(q, now.Add(-e.o.KeepStale)) // as it was judged then
		if q.MaxAge > 0 && now.Sub(en.created) > q.MaxAge {
			reason = ReasonMaxAge
		}
	}
	if reason != "" {
		return Result{}
	}
	res, _ := e.serve(en, Stale, 1)
	return res
}

// exact returns the entry of q's key if it may be served, or why there is none.
func (e *Engine) exact(q *Query) (*entry, string) {
	e.mu.RLock()
	en := e.byKey[q.key]
	e.mu.RUnlock()
	if en == nil || !en.answers(q) {
		return nil, ReasonAbsent
	}
	if reason := en.stale(q, e.o.Now()); reason != "" {
		return nil, reason
	}
	return en, ""
}

// answers reports whether en was stored for exactly the request q. The key says
// so already; comparing makes it certain.
func (en *entry) answers(q *Query) bool {
	return en.tenant == q.Tenant && en.namespace == q.Namespace && en.op == q.Op &&
		en.model == q.Model && (q.Provider == "" || en.provider == q.Provider) && bytes.Equal(en.canonical, q.Canonical)
}

// stale returns why en may not be served to q at now, "" if it may.
func (en *entry) stale(q *Query, now time.Time) string {
	switch {
	case !en.Expires.After(now):
		return ReasonExpired
	case q.MaxAge == 0, q.MaxAge > 0 && now.Sub(en.created) > q.MaxAge:
		return ReasonMaxAge
	case q.Digest != "" && en.digest != "" && q.Digest != en.digest:
		return ReasonModelChanged
	}
	return ""
}

// semantic looks for an entry of the same partition whose prompt asks the same.
func (e *Engine) semantic(ctx context.Context, q *Query) Result {
	if reason := q.prepare(); reason != "" {
		return Result{Reason: reason}
	}
	start := e.clock()
	if reason := e.embed(ctx, q); reason != "" {
		return Result{Reason: reason}
	}
	e.stage("embed", start)

	res := Result{Reason: ReasonAbsent, Threshold: e.threshold(q)}
	p := e.partitionOf(q)
	if p == nil {
		return res
	}
	buf := hitBuffers.Get().(*[]index.Hit)
	defer hitBuffers.Put(buf)
	start = e.clock()
	if q.note == nil {
		q.note = new(index.Note) // apart from q, which would have to be on the heap for it
	}
	hits, err := index.SearchNote(p.index, (*buf)[:0], q.vec, res.Threshold, candidates, q.note)
	*buf = hits
	e.stage("ann", start)
	if err != nil {
		res.Reason = reasonOf(err)
		return res
	}
	return e.choose(q, p, hits, res)
}

// choose serves the best of hits that nothing speaks against.
func (e *Engine) choose(q *Query, p *partition, hits []index.Hit, res Result) Result {
	now := e.o.Now()
	for _, h := range hits {
		en := e.entry(h.ID)
		if en == nil {
			continue // removed since the search
		}
		verdict := e.judge(q, en, now)
		if verdict == "" {
			served, ok := e.serve(en, Semantic, h.Score)
			if ok {
				served.Threshold = res.Threshold
				e.similarity(h.Score, true)
				return served
			}
			verdict = served.Reason
		}
		if res.Nearest == nil { // the first reason is that of the best candidate
			res.Reason = verdict
			res.Nearest = &Candidate{ID: h.ID, Similarity: h.Score, Verdict: verdict}
		}
	}
	if res.Nearest != nil {
		e.similarity(res.Nearest.Similarity, false)
	} else if q.WantNearest {
		res.Nearest = e.nearest(q, p)
	}
	return res
}

// judge returns why en may not answer q although it is similar enough.
func (e *Engine) judge(q *Query, en *entry, now time.Time) string {
	if reason := en.stale(q, now); reason != "" {
		return reason
	}
	if en.prompt == q.Prompt {
		return ""
	}
	if veto := q.sig.Veto(en.sig.of(en.prompt)); veto != "" {
		return "guard-" + veto
	}
	return ""
}

// nearest returns the most similar entry of p, nil if p is empty.
func (e *Engine) nearest(q *Query, p *partition) *Candidate {
	hits, err := p.index.TopK(nil, q.vec, 1)
	if err != nil || len(hits) == 0 {
		return nil
	}
	return &Candidate{ID: hits[0].ID, Similarity: hits[0].Score, Verdict: "below-threshold"}
}

// serve makes the result of a hit. It is false when the answer cannot be read, and the
// result says why; a damaged entry is removed.
func (e *Engine) serve(en *entry, kind Kind, similarity float32) (Result, bool) {
	start := e.clock()
	answer, err := e.answer(en)
	e.stage("fetch", start)
	if err != nil {
		return Result{Reason: e.unreadable(en, err)}, false
	}
	en.hits.Add(1)
	e.policy.Use(en.Hash)
	switch kind {
	case Exact:
		e.count.exact.Add(1)
	case Semantic:
		e.count.semantic.Add(1)
	case Stale:
		e.count.stale.Add(1)
	}
	return Result{Kind: kind, Similarity: similarity, Entry: en.describe(), Answer: answer}, true
}

// unreadable deals with an entry whose answer cannot be read, and names the miss.
func (e *Engine) unreadable(en *entry, err error) (reason string) {
	switch {
	case e.entry(en.id) != en:
		return ReasonAbsent // removed since it was found
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrVersion):
		e.o.Log.Warn("dropping an entry whose answer cannot be read", "id", en.id, "error", err)
		e.drop([]uint64{en.id}, "corrupt")
		return ReasonCorrupt
	}
	e.o.Log.Warn("an answer cannot be read now", "id", en.id, "error", err)
	return ReasonStoreFault
}

// prepare reads the prompt's signature and returns why q may not be looked up
// semantically.
func (q *Query) prepare() string {
	if q.Scope == nil || q.Mode == ModeExact || q.Prompt == "" {
		return ReasonExactOnly
	}
	if q.sig == nil {
		q.sig = guard.Sign(q.Prompt)
	}
	switch {
	case q.sig.TimeSensitive():
		return ReasonTimely
	case q.sig.ContextDependent():
		return ReasonContext
	}
	return ""
}

// embed gives q its vector, space and partition.
func (e *Engine) embed(ctx context.Context, q *Query) (reason string) {
	if q.vec != nil {
		return ""
	}
	if q.Vector != nil {
		if err := e.CheckVector(q.Tenant, q.Namespace, q.Vector); err != nil {
			return ReasonBadVector
		}
		q.place(q.Vector, callerSpace(len(q.Vector)))
		return ""
	}
	if e.o.Embedder == nil {
		return ReasonExactOnly
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.EmbedTimeout)
	defer cancel()
	vec, space, err := e.o.Embedder.Embed(ctx, q.Prompt)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return ReasonEmbedTimeout
		}
		e.o.Log.Debug("embedding failed", "error", err)
		return ReasonNoEmbedding
	}
	q.place(vec, space)
	return ""
}

func (q *Query) place(vec []float32, space string) {
	q.vec, q.space, q.part = vec, space, q.partition(space)
}

// callerPrefix begins the space of vectors that came with the request.
const callerPrefix = "caller/"

func callerSpace(dims int) string { return fmt.Sprintf("%s%d", callerPrefix, dims) }

// threshold returns the similarity asked for in q's space. A cosine of exactly
// 1 is out of reach of float32 rounding, so the strictest is a hair below.
func (e *Engine) threshold(q *Query) float32 {
	t := math.Float32frombits(e.minimum.Load())
	switch {
	case t != 0:
	case strings.HasPrefix(q.space, callerPrefix):
		t = callerThreshold
	default:
		t = e.o.Embedder.Threshold(q.space)
	}
	return min(max(t, q.Threshold), 1-1e-6)
}

// Explain does what Lookup does and tells what it saw, serving and counting
// nothing.
func (e *Engine) Explain(ctx context.Context, q *Query) Explanation {
	key := q.Key()
	x := Explanation{Key: fmt.Sprintf("%x", key[:]), Reason: ReasonLoading}
	if !e.Ready() {
		return x
	}
	en, reason := e.exact(q)
	if en != nil {
		x.Kind, x.Reason = Exact, ""
		x.Candidates = []Candidate{{ID: en.id, Similarity: 1}}
		return x
	}
	x.Reason = reason
	if reason := q.prepare(); reason != "" {
		x.Reason = reason
		return x
	}
	if reason := e.embed(ctx, q); reason != "" {
		x.Reason = reason
		return x
	}
	x.Partition, x.Space, x.Threshold = fmt.Sprintf("%x", q.part[:]), q.space, e.threshold(q)
	p := e.partitionOf(q)
	if p == nil {
		return x
	}
	hits, err := p.index.TopK(nil, q.vec, candidates)
	if err != nil {
		x.Reason = reasonOf(err)
		return x
	}
	e.explainHits(q, hits, &x)
	return x
}

// explainHits judges hits and decides as choose would.
func (e *Engine) explainHits(q *Query, hits []index.Hit, x *Explanation) {
	now := e.o.Now()
	for _, h := range hits {
		en := e.entry(h.ID)
		if en == nil {
			continue
		}
		c := Candidate{ID: h.ID, Similarity: h.Score, Verdict: "below-threshold"}
		if h.Score >= x.Threshold {
			c.Verdict = e.judge(q, en, now)
			switch {
			case c.Verdict == "" && x.Kind == Miss:
				x.Kind, x.Reason = Semantic, ""
			case x.Kind == Miss && x.Reason == ReasonAbsent:
				x.Reason = c.Verdict
			}
		}
		x.Candidates = append(x.Candidates, c)
	}
}

func (e *Engine) partitionOf(q *Query) *partition {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.parts[q.part]
}

func (e *Engine) entry(id uint64) *entry {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.byID[id]
}

func (e *Engine) epochNow() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.epoch
}

// clock and stage time a step of a lookup, if anybody listens.
func (e *Engine) clock() time.Time {
	if e.o.Hooks.Stage == nil {
		return time.Time{}
	}
	return time.Now()
}

func (e *Engine) stage(name string, start time.Time) {
	if e.o.Hooks.Stage != nil {
		e.o.Hooks.Stage(name, time.Since(start))
	}
}

func (e *Engine) similarity(cosine float32, served bool) {
	if e.o.Hooks.Similarity != nil {
		e.o.Hooks.Similarity(cosine, served)
	}
}

// reasonOf names the miss that an index error causes.
func reasonOf(err error) string {
	if errors.Is(err, index.ErrDimension) || errors.Is(err, index.ErrZeroVector) || errors.Is(err, index.ErrNotFinite) {
		return ReasonBadVector
	}
	return ReasonIndex
}

// signature is an entry's guard.Signature, read when first needed: most entries
// never become candidates.
type signature struct {
	p atomic.Pointer[guard.Signature]
}

func (s *signature) of(prompt string) *guard.Signature {
	if sig := s.p.Load(); sig != nil {
		return sig
	}
	sig := guard.Sign(prompt)
	s.p.Store(sig)
	return sig
}

var hitBuffers = sync.Pool{New: func() any { b := make([]index.Hit, 0, candidates); return &b }}
