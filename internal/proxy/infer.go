package proxy

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// route is an inference route.
type route struct {
	path   string
	op     wire.Op
	openai bool
}

// Inference returns the handler of POST /api/chat or /api/generate.
func (p *Proxy) Inference(op wire.Op) http.Handler {
	return p.handler(route{path: "/api/" + string(op), op: op})
}

// ChatCompletions returns the handler of POST /v1/chat/completions. It shares
// entries with /api/chat: the request is translated, asked natively, and the
// answer written as OpenAI's.
func (p *Proxy) ChatCompletions() http.Handler {
	return p.handler(route{path: "/v1/chat/completions", op: wire.OpChat, openai: true})
}

func (p *Proxy) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := p.exchange(w, r, rt.path)
		if p.o.Hooks.Inflight != nil {
			p.o.Hooks.Inflight(1)
			defer p.o.Hooks.Inflight(-1)
		}
		defer x.finish()
		x.infer(rt)
	})
}

// infer answers an inference request.
func (x *exchange) infer(rt route) {
	controls, err := ParseControls(x.r.Header)
	if err != nil {
		x.fail(http.StatusBadRequest, strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	body, ok := x.readBody()
	if !ok {
		return
	}
	reason := ""
	var req *request
	if x.r.Header.Get("Content-Encoding") != "" {
		reason = "content-encoding" // Ollama judges
	} else if req, err = x.p.decode(rt, body); err != nil {
		reason = "malformed"
		if errors.Is(err, wire.ErrUntranslatable) {
			reason = "untranslatable"
		}
	} else {
		x.describe(req)
		reason = x.p.bypass(req, controls)
	}
	switch {
	case reason == "":
		x.cached(req, controls)
	case controls.OnlyIfCached:
		x.onlyIfCached(reason)
	default:
		x.bypassed(req, controls, reason, body)
	}
}

func (x *exchange) describe(req *request) {
	n := req.native
	x.event.Stream, x.event.Model, x.event.Turns, x.event.Prompt = n.Stream, n.Model, n.Turns, n.Prompt
}

// bypass returns why the cache has nothing to do with a request.
func (p *Proxy) bypass(req *request, c Controls) string {
	switch {
	case req.native.Bypass != "":
		return req.native.Bypass
	case c.NoStore:
		return "no-store"
	case c.Off:
		return "mode-off"
	case !p.o.Engine.Ready():
		return cache.ReasonLoading
	}
	return ""
}

// silent are the reasons of requests that no model answers.
func silent(reason string) bool {
	return reason == "load" || reason == "unload" || reason == "debug" || reason == "model"
}

// bypassed asks the upstream and keeps nothing. The request and its answer pass
// untouched unless the answer has to be filtered or somebody else has to give it.
func (x *exchange) bypassed(req *request, c Controls, reason string, body []byte) {
	x.event.Outcome, x.event.Reason = "bypass", reason
	bypassHeaders(x.w.Header(), reason)
	up := &upstream.Request{Method: x.r.Method, URL: target(x.r.URL), Header: x.p.outbound(x.r), Body: body}
	if req == nil {
		if x.p.o.Filter.Changes() {
			status := http.StatusForbidden
			if reason == "malformed" {
				status = http.StatusBadRequest
			}
			x.fail(status, "the output filter cannot read the answer to this request ("+reason+")")
			return
		}
		x.forward(up, nil)
		return
	}
	if silent(reason) {
		x.forward(up, nil)
		return
	}
	up.Retry = true
	f := x.fill(req, nil, c)
	alone := func(failed *failure) {
		f.failed = failed
		x.ask(req, f, flightKey{alone: x}, func(bool) {})
	}
	if x.p.o.Filter.Changes() {
		alone(nil)
		return
	}
	if !f.mayFallback() {
		x.forward(up, nil)
		return
	}
	up.FailFast = true
	x.forward(up, alone)
}

// onlyIfCached refuses to ask the upstream (RFC 9111, section 5.2.1.7).
func (x *exchange) onlyIfCached(reason string) {
	h := x.w.Header()
	h.Set("X-Should-Retry", "false") // SDKs would ask three times
	h.Set("X-Cache", "MISS")
	h.Set("X-Semcached-Reason", reason)
	x.event.Reason = reason
	x.fail(http.StatusGatewayTimeout, "not in the cache ("+reason+"), and only-if-cached was asked for")
	x.event.Outcome = "miss"
}

// cached looks the request up and serves a hit or a miss.
func (x *exchange) cached(req *request, c Controls) {
	n := req.native
	q := &cache.Query{
		Tenant: x.tenant.Name, Namespace: c.Namespace, Op: string(n.Op), Model: n.Folded,
		Digest: x.p.o.Upstream.Digest(n.Folded), Canonical: n.Canonical, Scope: n.Scope,
		Prompt: n.Prompt, ExactOnly: n.ExactOnly, Mode: c.Mode, Threshold: c.Threshold,
		MaxAge: c.MaxAge, Refresh: c.NoCache,
	}
	res := x.lookup(q)
	x.event.Key = q.Key()
	if res.Kind != cache.Miss {
		if a, err := wire.DecodeAnswer(res.Answer); err == nil {
			x.replay(req, q, &res, a)
			return
		}
		res.Reason = cache.ReasonCorrupt
	}
	if res.Reason == cache.ReasonExactOnly && n.ExactOnly != "" {
		res.Reason = "exact-only-" + n.ExactOnly
	}
	if c.OnlyIfCached {
		x.onlyIfCached(res.Reason)
		return
	}
	x.miss(req, q, c, res.Reason)
}

// lookup asks the engine.
func (x *exchange) lookup(q *cache.Query) cache.Result {
	if x.p.o.Tracer == nil {
		return x.p.o.Engine.Lookup(x.r.Context(), q)
	}
	ctx, s := x.p.o.Tracer.Start(x.r.Context(), "cache lookup", span.Internal)
	defer s.End()
	res := x.p.o.Engine.Lookup(ctx, q)
	result := "hit_" + res.Kind.String()
	if res.Kind == cache.Miss {
		result = "miss"
		s.Set(span.Attr{Key: "semcached.reason", Value: res.Reason})
		if res.Nearest != nil {
			s.Set(span.Attr{Key: "semcached.similarity", Value: float64(res.Nearest.Similarity)})
		}
	} else {
		s.Set(span.Attr{Key: "semcached.similarity", Value: float64(res.Similarity)},
			span.Attr{Key: "semcached.age_s", Value: x.p.o.Now().Sub(res.Entry.Created).Seconds()})
	}
	s.Set(span.Attr{Key: "semcached.result", Value: result}, span.Attr{Key: "semcached.key", Value: shortKey(q.Key())},
		span.Attr{Key: "semcached.threshold", Value: float64(res.Threshold)})
	return res
}

// replay writes a stored answer.
func (x *exchange) replay(req *request, q *cache.Query, res *cache.Result, a *wire.Answer) {
	now := x.p.o.Now()
	hitHeaders(x.w.Header(), res, q.Key(), now)
	x.event.Outcome, x.event.Source = "hit_"+res.Kind.String(), "cache"
	x.event.hit(res, a, now)
	if err := x.p.screen(req.native.Op, a, x.filtered); err != nil {
		x.failUpstream(err)
		return
	}
	d := x.dialect(req)
	if !req.native.Stream {
		start := time.Now()
		body := d.object(nil, a)
		if x.p.o.Hooks.Rendered != nil {
			x.p.o.Hooks.Rendered(time.Since(start))
		}
		x.whole(http.StatusOK, d.wholeType(), body)
		return
	}
	x.streamHead(d.streamType())
	if d.lines(a, func(line []byte) error { return x.chunk(line) }) != nil {
		return // the client has gone
	}
}

// flightKey tells apart the upstream calls that can be shared: one question, one
// spelling of the model (it is echoed), one shape, one promise of durability, one
// set of rights.
type flightKey struct {
	key                               cache.Key
	model                             string
	stream, sync, noStore, noFallback bool
	promised                          bool
	alone                             *exchange // not shared
}

// miss asks the upstream, together with all who ask the same now.
func (x *exchange) miss(req *request, q *cache.Query, c Controls, reason string) {
	x.event.Outcome, x.event.Reason, x.event.Source = "miss", reason, "ollama"
	f := x.fill(req, q, c)
	key := flightKey{key: q.Key(), model: req.native.Model, stream: req.native.Stream, sync: f.opts.Sync, promised: f.promised, noStore: f.noStore, noFallback: f.noFallback}
	x.ask(req, f, key, func(collapsed bool) {
		missHeaders(x.w.Header(), reason, q.Key(), collapsed)
	})
}

// fill returns what makes the answer to req. Without q it is neither looked up nor
// kept.
func (x *exchange) fill(req *request, q *cache.Query, c Controls) *fill {
	return &fill{
		p: x.p, req: req.native, q: q, header: x.p.outbound(x.r),
		opts:       cache.StoreOptions{TTL: c.TTL, Tags: c.Tags, Sync: c.Sync || x.p.o.Sync},
		promised:   c.Sync,
		noStore:    q == nil || !x.tenant.May(tenant.Write),
		noFallback: c.NoFallback || x.tenant.NoFallback,
	}
}

// ask joins or starts the making of an answer, and passes it on.
func (x *exchange) ask(req *request, f *fill, key flightKey, headers func(collapsed bool)) {
	reader, leader := x.p.flights.Join(x.r.Context(), key, f.run)
	defer reader.Close()
	if !leader && x.p.o.Hooks.Collapsed != nil {
		x.p.o.Hooks.Collapsed()
	}
	headers(!leader)
	status, header, err := reader.Head(x.r.Context())
	if err != nil {
		x.outcome(reader.Result())
		x.failUpstream(err)
		return
	}
	if header.Get("X-Cache") != "" { // a stored answer after all
		x.w.Header().Del("X-Semcached-Reason")
	}
	for name, values := range header {
		if name != "Content-Type" {
			x.w.Header()[name] = values
		}
	}
	d := x.dialect(req)
	if kind := header.Get("Content-Type"); status != http.StatusOK || !req.native.Stream || !strings.HasPrefix(kind, streamType) {
		x.relayWhole(reader, d, status, kind)
	} else {
		x.relayStream(reader, d)
	}
	x.outcome(reader.Result())
	if !leader {
		x.event.Kept = nil
	}
}

// outcome takes over what the maker of an answer has left.
func (x *exchange) outcome(result any) {
	o, ok := result.(*outcome)
	if !ok {
		return
	}
	e := &x.event
	e.Attempts, e.Remote, e.Filtered = o.attempts, o.remote, append(e.Filtered, o.filtered...)
	e.InputTokens, e.OutputTokens, e.Eval, e.DoneReason, e.Kept = o.input, o.output, o.eval, o.doneReason, o.kept
	if o.source != "" {
		e.Source = o.source
	}
	if o.err != "" {
		e.Err = o.err
		e.Outcome = "error"
	}
	if o.hit.Kind != cache.Miss {
		e.Outcome, e.Similarity, e.ModelTime = "hit_"+o.hit.Kind.String(), o.hit.Similarity, o.hit.Entry.Cost
		if o.hit.Kind == cache.Stale {
			e.Outcome = "stale"
		}
	}
}

// span begins a span if there is a tracer.
func (p *Proxy) span(ctx context.Context, name string, kind span.Kind, attrs ...span.Attr) (context.Context, span.Span) {
	if p.o.Tracer == nil {
		return ctx, span.None
	}
	return p.o.Tracer.Start(ctx, name, kind, attrs...)
}
