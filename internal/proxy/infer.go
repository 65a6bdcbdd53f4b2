package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/flight"
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
		x.event.Stream = req.native.Stream
		reason = x.p.bypass(req, controls)
	}
	switch {
	case reason == "":
		x.cached(req, controls)
	case controls.OnlyIfCached:
		x.onlyIfCached(reason)
	default:
		x.event.Outcome, x.event.Reason = "bypass", reason
		bypassHeaders(x.w.Header(), reason)
		x.forward(&upstream.Request{Method: x.r.Method, URL: target(x.r.URL), Header: x.p.outbound(x.r), Body: body})
	}
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
		Tenant: x.p.o.Tenant(x.r), Namespace: c.Namespace, Op: string(n.Op), Model: n.Folded,
		Digest: x.p.o.Upstream.Digest(n.Folded), Canonical: n.Canonical, Scope: n.Scope,
		Prompt: n.Prompt, ExactOnly: n.ExactOnly, Mode: c.Mode, Threshold: c.Threshold,
		MaxAge: c.MaxAge, Refresh: c.NoCache,
	}
	res := x.p.o.Engine.Lookup(x.r.Context(), q)
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

// replay writes a stored answer.
func (x *exchange) replay(req *request, q *cache.Query, res *cache.Result, a *wire.Answer) {
	now := x.p.o.Now()
	hitHeaders(x.w.Header(), res, q.Key(), now)
	x.event.Outcome, x.event.Source = "hit_"+res.Kind.String(), "cache"
	x.event.InputTokens, x.event.OutputTokens, x.event.ModelTime = a.InputTokens, a.OutputTokens, res.Entry.Cost
	d := x.dialect(req)
	if !req.native.Stream {
		x.whole(http.StatusOK, d.wholeType(), d.object(nil, a))
		return
	}
	x.streamHead(d.streamType())
	if d.lines(a, func(line []byte) error { return x.chunk(line) }) != nil {
		return // the client has gone
	}
}

// flightKey tells apart the upstream calls that can be shared: one question, one
// spelling of the model (it is echoed), one shape, one promise of durability.
type flightKey struct {
	key          cache.Key
	model        string
	stream, sync bool
}

// miss asks the upstream, together with all who ask the same now.
func (x *exchange) miss(req *request, q *cache.Query, c Controls, reason string) {
	n := req.native
	x.event.Outcome, x.event.Reason, x.event.Source = "miss", reason, "ollama"
	f := fill{p: x.p, req: n, q: q, opts: cache.StoreOptions{TTL: c.TTL, Tags: c.Tags, Sync: c.Sync || x.p.o.Sync}, header: x.p.outbound(x.r)}
	reader, leader := x.p.flights.Join(x.r.Context(), flightKey{q.Key(), n.Model, n.Stream, f.opts.Sync}, f.run)
	defer reader.Close()
	if !leader && x.p.o.Hooks.Collapsed != nil {
		x.p.o.Hooks.Collapsed()
	}
	missHeaders(x.w.Header(), reason, q.Key(), !leader)
	status, header, err := reader.Head(x.r.Context())
	if err != nil {
		x.failUpstream(err)
		return
	}
	if header.Get(incompleteHeader) != "" {
		x.w.Header().Set("X-Semcached-Reason", "incomplete")
	}
	d := x.dialect(req)
	if status != http.StatusOK || !n.Stream {
		x.relayWhole(reader, d, status, header)
		return
	}
	x.relayStream(reader, d)
}

// relayWhole passes on an answer that came in one piece, or an error.
func (x *exchange) relayWhole(reader *flight.Reader, d dialect, status int, header http.Header) {
	body, err := reader.Next(x.r.Context())
	if err != nil && err != io.EOF {
		x.failUpstream(err)
		return
	}
	for _, name := range [...]string{"Retry-After", "Www-Authenticate"} {
		if v := header.Get(name); v != "" {
			x.w.Header().Set(name, v)
		}
	}
	kind := header.Get("Content-Type")
	if status != http.StatusOK {
		x.event.Outcome = "error"
	}
	status, kind, body = d.relay(status, kind, body)
	x.whole(status, kind, body)
}

// relayStream passes chunks on as they come.
func (x *exchange) relayStream(reader *flight.Reader, d dialect) {
	x.streamHead(d.streamType())
	var buf []byte
	for {
		line, err := reader.Next(x.r.Context())
		switch {
		case err == io.EOF:
			if end := d.end(nil); len(end) > 0 {
				x.chunk(end)
			}
			return
		case err != nil && x.r.Context().Err() == nil:
			x.event.Outcome = "error"
			x.chunk(d.line(nil, wire.ErrorLine(wire.Native, "the answer broke off: "+err.Error())))
			return
		case err != nil:
			return // the client has gone
		}
		if buf = d.line(buf[:0], line); len(buf) == 0 {
			continue
		}
		if x.chunk(buf) != nil {
			return
		}
	}
}

// failUpstream answers that the upstream did not.
func (x *exchange) failUpstream(err error) {
	if x.r.Context().Err() != nil {
		x.event.Outcome, x.event.Status = "error", 499
		return // nobody is there to be told
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, upstream.ErrTimeout):
		status = http.StatusGatewayTimeout
	case errors.Is(err, flight.ErrPanic):
		status = http.StatusInternalServerError
	}
	x.p.o.Log.Warn("upstream failed", "route", x.event.Route, "error", err)
	x.fail(status, err.Error())
}

// incompleteHeader marks, between fill and its readers, a whole answer that the
// upstream did not finish.
const incompleteHeader = "Incomplete"

// fill makes one answer: it asks the upstream, hands on what comes, and stores
// what is complete.
type fill struct {
	p      *Proxy
	req    *wire.Request
	q      *cache.Query
	opts   cache.StoreOptions
	header http.Header
}

func (f fill) run(ctx context.Context, s *flight.Stream) error {
	start := f.p.o.Now()
	// Between this request's lookup and its turn here, another's call may have
	// ended and its answer been stored.
	if res := f.p.o.Engine.Peek(f.q); res.Kind != cache.Miss {
		if a, err := wire.DecodeAnswer(res.Answer); err == nil {
			f.replay(s, a, start)
			return nil
		}
	}
	f.header.Set("Content-Type", "application/json")
	resp, err := f.p.o.Upstream.Do(ctx, &upstream.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/api/" + string(f.req.Op)}, Header: f.header, Body: f.req.Body()})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !f.req.Stream {
		return f.whole(ctx, s, resp, start)
	}
	s.SetHead(resp.StatusCode, resp.Header)
	c := wire.NewCollector(f.req.Op)
	lines := wire.NewLineReader(resp.Body, maxLine)
	var buf []byte
	for {
		line, err := lines.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			s.Write(wire.ErrorLine(wire.Native, "upstream connection lost: "+readable(err)))
			return nil
		}
		c.Add(line)
		buf = append(append(buf[:0], line...), '\n')
		if !c.Done() {
			s.Write(buf)
			continue
		}
		if f.last(ctx, s, buf, lines, c, start) {
			return nil
		}
	}
	if !c.Done() && c.Failed() == "" {
		s.Write(wire.ErrorLine(wire.Native, "the model's answer was cut short"))
	}
	return nil
}

// replay hands on a stored answer in native form.
func (f fill) replay(s *flight.Stream, a *wire.Answer, start time.Time) {
	now := f.p.o.Now()
	r := wire.Replay{Op: f.req.Op, Model: f.req.Model, Now: now, Elapsed: now.Sub(start)}
	kind := "application/x-ndjson"
	if !f.req.Stream {
		kind = "application/json; charset=utf-8"
	}
	s.SetHead(http.StatusOK, http.Header{"Content-Type": {kind}})
	if !f.req.Stream {
		s.Write(r.AppendObject(nil, a))
		return
	}
	r.Lines(a, func(line []byte) error { s.Write(line); return nil })
}

// endTime is how long the final line is held back for the stream's end, which
// follows it at once.
const endTime = 50 * time.Millisecond

// last hands on the final line once the answer is kept: a client may ask again, or
// rely on durability, as soon as it has that line, without waiting for the end of
// the stream. It returns false if more follows, which spoils the answer.
func (f fill) last(ctx context.Context, s *flight.Stream, final []byte, lines *wire.LineReader, c *wire.Collector, start time.Time) bool {
	type result struct {
		line []byte
		err  error
	}
	end := make(chan result, 1)
	go func() {
		line, err := lines.Next()
		end <- result{line, err}
	}()
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	var r result
	select {
	case r = <-end:
		if r.err == io.EOF {
			f.store(ctx, c, start)
		}
		s.Write(final)
	case <-timer.C:
		s.Write(final)
		if r = <-end; r.err == io.EOF {
			f.store(ctx, c, start)
		}
	}
	if r.err != nil {
		return true // a final line without a clean end is shown, and not kept
	}
	c.Add(r.line)
	s.Write(append(append(make([]byte, 0, len(r.line)+1), r.line...), '\n'))
	return false
}

// readable words a failed read for people.
func readable(err error) string {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "the stream ended in the middle"
	}
	return err.Error()
}

// whole reads an answer that comes in one piece, or an error. Readers hear of it
// when it is complete and stored.
func (f fill) whole(ctx context.Context, s *flight.Stream, resp *http.Response, start time.Time) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s", upstream.ErrBroken, readable(err))
	case len(body) > maxAnswer:
		return fmt.Errorf("%w: the answer is larger than %d bytes", upstream.ErrBroken, maxAnswer)
	}
	header := resp.Header
	if resp.StatusCode == http.StatusOK {
		c := wire.NewCollector(f.req.Op)
		c.Add(body)
		if !c.Done() {
			header = header.Clone()
			header.Set(incompleteHeader, "1")
		}
		f.store(ctx, c, start)
	}
	s.SetHead(resp.StatusCode, header)
	s.Write(body)
	return nil
}

// store keeps a complete answer. It takes microseconds unless the client asked for
// durability. The answer is kept even if everybody has left by now.
func (f fill) store(ctx context.Context, c *wire.Collector, start time.Time) {
	a, err := c.Answer()
	if err != nil {
		f.p.o.Log.Debug("answer not stored", "reason", err)
		return
	}
	now := f.p.o.Now()
	a.Digest, a.Provider = f.q.Digest, "ollama"
	if a.Created.IsZero() {
		a.Created = now
	}
	encoded, err := a.AppendBinary(nil)
	if err == nil {
		cost := a.Total
		if cost <= 0 {
			cost = now.Sub(start)
		}
		_, err = f.p.o.Engine.Store(context.WithoutCancel(ctx), f.q, cache.Answer{
			Encoded: encoded, Provider: a.Provider, Digest: a.Digest, Cost: cost,
			InputTokens: a.InputTokens, OutputTokens: a.OutputTokens,
		}, f.opts)
	}
	if err != nil {
		f.p.o.Log.Warn("answer not stored", "error", err)
	}
}
