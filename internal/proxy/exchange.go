package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// exchange is one request and its answer.
type exchange struct {
	p     *Proxy
	w     http.ResponseWriter
	r     *http.Request
	rc    *http.ResponseController
	start time.Time
	event Event

	tenant *tenant.Tenant
	span   span.Span
}

func (p *Proxy) exchange(w http.ResponseWriter, r *http.Request, route string) *exchange {
	x := &exchange{p: p, w: w, r: r, rc: http.NewResponseController(w), start: time.Now(), tenant: tenant.From(r.Context()), span: span.None}
	x.event.Route, x.event.Tenant, x.event.UserAgent = route, x.tenant.Name, r.UserAgent()
	if w.Header().Get("X-Request-Id") == "" {
		w.Header().Set("X-Request-Id", RequestID(r))
	}
	x.event.RequestID = w.Header().Get("X-Request-Id")
	if t := p.o.Tracer; t != nil {
		name := route
		if route == "other" {
			name = ""
		}
		var ctx context.Context
		ctx, x.span = t.Start(t.Extract(r.Context(), r.Header), strings.TrimSpace(r.Method+" "+name), span.Server,
			span.Attr{Key: "http.request.method", Value: r.Method}, span.Attr{Key: "url.path", Value: r.URL.Path},
			span.Attr{Key: "http.route", Value: name}, span.Attr{Key: "user_agent.original", Value: r.UserAgent()})
		x.r = r.WithContext(ctx)
		x.event.TraceID, x.event.SpanID = x.span.IDs()
	} else {
		x.event.TraceID = traceID(r.Header.Get("Traceparent"))
	}
	return x
}

// traceID returns the trace's ID in a traceparent header (W3C Trace Context, section
// 3.2.2), "" if there is none.
func traceID(parent string) string {
	const idStart, idEnd, length = 3, 35, 55
	if len(parent) < length || parent[:2] == "ff" || parent[2] != '-' || parent[idEnd] != '-' {
		return ""
	}
	id := parent[idStart:idEnd]
	if strings.Trim(id, "0") == "" || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

func (x *exchange) finish() {
	x.event.Duration = time.Since(x.start)
	if x.p.o.Tracer != nil {
		e := &x.event
		x.span.Set(span.Attr{Key: "http.response.status_code", Value: e.Status}, span.Attr{Key: "semcached.outcome", Value: e.Outcome},
			span.Attr{Key: "semcached.source", Value: e.Source}, span.Attr{Key: "semcached.reason", Value: e.Reason})
		if e.Status >= 500 {
			x.span.Fail(strconv.Itoa(e.Status))
		}
		x.span.End()
	}
	if x.p.o.Hooks.Done != nil {
		x.p.o.Hooks.Done(x.event)
	}
}

// readBody reads the whole body, within the limit.
func (x *exchange) readBody() ([]byte, bool) {
	if x.p.looped(x.r) {
		x.fail(http.StatusLoopDetected, "loop detected: the upstream leads back here")
		return nil, false
	}
	if x.r.ContentLength > x.p.o.MaxBody {
		x.tooLarge()
		return nil, false
	}
	var b bytes.Buffer
	if n := x.r.ContentLength; n > 0 {
		b.Grow(int(min(n, 1<<20)) + bytes.MinRead)
	}
	_, err := b.ReadFrom(http.MaxBytesReader(x.w, x.r.Body, x.p.o.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		x.tooLarge()
		return nil, false
	case err != nil:
		x.fail(http.StatusBadRequest, "the request body broke off")
		return nil, false
	}
	x.event.In = int64(b.Len())
	return b.Bytes(), true
}

func (x *exchange) tooLarge() {
	x.w.Header().Set("Connection", "close") // the rest of the body is not read
	x.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", x.p.o.MaxBody))
}

// fail answers with an error in the caller's protocol.
func (x *exchange) fail(status int, message string) {
	x.event.Outcome, x.event.Err = "error", message
	kind, body := wire.ErrorBody(wire.ProtocolOf(x.r.URL.Path), status, message)
	x.whole(status, kind, body)
}

// whole writes an answer in one piece.
func (x *exchange) whole(status int, kind string, body []byte) {
	h := x.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	x.head(status)
	x.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, _ := x.w.Write(body)
	x.event.Out += int64(n)
}

// streamHead begins an answer in chunks. Proxies must not hold them back.
func (x *exchange) streamHead(kind string) {
	h := x.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	x.head(http.StatusOK)
}

func (x *exchange) head(status int) {
	x.event.Status, x.event.FirstByte = status, time.Since(x.start)
	x.w.WriteHeader(status)
}

// chunk writes and flushes one piece of a stream.
func (x *exchange) chunk(b []byte) error {
	x.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := x.w.Write(b)
	x.event.Out += int64(n)
	if err != nil {
		return err
	}
	return x.rc.Flush()
}

// forward passes a request to the upstream and its answer back, both unchanged. If
// the upstream fails before its answer and rescue is not nil, that answers.
func (x *exchange) forward(req *upstream.Request, rescue func(*failure)) {
	c := calls{p: x.p, provider: "ollama"}
	req.Attempt = c.attempt
	resp, err := x.p.o.Upstream.Do(x.r.Context(), req)
	x.event.Attempts = c.list
	if c.open != nil {
		defer c.open.End()
	}
	if err != nil && rescue != nil && x.r.Context().Err() == nil {
		rescue(&failure{kind: kindOf(err), err: err})
		return
	}
	if err != nil {
		x.failUpstream(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 500 && rescue != nil {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil || !blamesRequest(body) {
			rescue(&failure{kind: "5xx", err: statusError(resp.StatusCode, body), status: resp.StatusCode, header: relayed(resp.Header), body: body})
			return
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	if rescue != nil && x.p.o.Hooks.Recovered != nil {
		x.p.o.Hooks.Recovered()
	}
	if x.event.Source = "ollama"; resp.StatusCode >= 500 {
		x.event.Outcome = "error"
	}
	h := x.w.Header()
	upstream.DropHopByHop(resp.Header)
	for name, values := range resp.Header {
		h[name] = values
	}
	x.head(resp.StatusCode)
	if x.r.Method == http.MethodHead {
		return
	}
	x.copy(resp)
}

// copy passes a body on piece by piece as it comes.
func (x *exchange) copy(resp *http.Response) {
	buf := make([]byte, 32<<10)
	last := byte('\n')
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			last = buf[n-1]
			if x.chunk(buf[:n]) != nil {
				return // the client has gone
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			x.brokenOff(resp, err, last == '\n')
			return
		}
	}
}

// brokenOff ends an answer whose source has died: with an error where the format
// has a place for one, else by cutting the connection, so that the client does not
// take the part for the whole.
func (x *exchange) brokenOff(resp *http.Response, err error, lineEnded bool) {
	x.event.Outcome = "error"
	message := "upstream connection lost: " + readable(err)
	switch {
	case x.shutdown():
		message = ErrShutdown.Error()
	case x.r.Context().Err() != nil:
		return
	}
	x.event.Err = message
	switch resp.Header.Get("Content-Type") {
	case "application/x-ndjson":
		line := wire.ErrorLine(wire.Native, message)
		if !lineEnded { // but no blank lines: some clients choke on them
			line = append([]byte{'\n'}, line...)
		}
		x.chunk(line)
	case "text/event-stream":
		x.chunk(append([]byte("\n\n"), wire.ErrorLine(wire.ProtocolOf(x.r.URL.Path), message)...))
	default:
		panic(http.ErrAbortHandler)
	}
}

// dialect writes answers in one caller's protocol.
type dialect interface {
	wholeType() string
	streamType() string
	// object and lines render a stored answer.
	object(dst []byte, a *wire.Answer) []byte
	lines(a *wire.Answer, yield func([]byte) error) error
	// line renders a line of the upstream's stream, end what follows the last.
	line(dst, native []byte) []byte
	end(dst []byte) []byte
	// relay renders an answer of the upstream that came in one piece.
	relay(status int, kind string, body []byte) (int, string, []byte)
}

func (x *exchange) dialect(req *request) dialect {
	if !req.openai {
		return nativeDialect{x: x, op: req.native.Op, model: req.native.Model}
	}
	p := wire.OpenAIReplay{
		ID: "chatcmpl-" + strconv.Itoa(rand.IntN(1_000_000)), Model: req.native.Model,
		Now: x.p.o.Now(), IncludeUsage: req.usage,
	}
	return &openAIDialect{p: p, s: wire.NewOpenAIStream(p)}
}

// nativeDialect passes the upstream's own bytes on.
type nativeDialect struct {
	x     *exchange
	op    wire.Op
	model string
}

func (d nativeDialect) replay() wire.Replay {
	return wire.Replay{Op: d.op, Model: d.model, Now: d.x.p.o.Now(), Elapsed: time.Since(d.x.start)}
}

func (nativeDialect) wholeType() string  { return "application/json; charset=utf-8" }
func (nativeDialect) streamType() string { return "application/x-ndjson" }

func (d nativeDialect) object(dst []byte, a *wire.Answer) []byte {
	return d.replay().AppendObject(dst, a)
}

func (d nativeDialect) lines(a *wire.Answer, yield func([]byte) error) error {
	return d.replay().Lines(a, yield)
}

func (nativeDialect) line(dst, native []byte) []byte { return append(dst, native...) }
func (nativeDialect) end(dst []byte) []byte          { return dst }

func (nativeDialect) relay(status int, kind string, body []byte) (int, string, []byte) {
	return status, kind, body
}

// openAIDialect translates.
type openAIDialect struct {
	p wire.OpenAIReplay
	s *wire.OpenAIStream
}

func (*openAIDialect) wholeType() string  { return "application/json" }
func (*openAIDialect) streamType() string { return "text/event-stream" }

func (d *openAIDialect) object(dst []byte, a *wire.Answer) []byte { return d.p.AppendObject(dst, a) }

// lines goes through the native form, so that hits and misses read the same.
func (d *openAIDialect) lines(a *wire.Answer, yield func([]byte) error) error {
	native := wire.Replay{Op: wire.OpChat, Model: d.p.Model, Now: d.p.Now}
	var buf []byte
	return native.Lines(a, func(line []byte) error {
		buf = d.s.Append(buf[:0], line)
		return yield(buf)
	})
}

func (d *openAIDialect) line(dst, native []byte) []byte { return d.s.Append(dst, native) }
func (d *openAIDialect) end(dst []byte) []byte          { return d.s.Close(dst) }

func (d *openAIDialect) relay(status int, _ string, body []byte) (int, string, []byte) {
	c := wire.NewCollector(wire.OpChat)
	c.Add(body)
	fail := func(status int, message string) (int, string, []byte) {
		kind, body := wire.ErrorBody(wire.OpenAI, status, message)
		return status, kind, body
	}
	switch {
	case status != http.StatusOK && c.Failed() != "":
		return fail(status, c.Failed())
	case status != http.StatusOK:
		return fail(status, http.StatusText(status))
	case !c.Done() || c.Failed() != "":
		// Ollama's own layer shows this as a complete answer.
		return fail(http.StatusBadGateway, "the model's answer was cut short")
	}
	return status, d.wholeType(), d.p.AppendObject(nil, c.Joined())
}

// hit takes over what is known of a stored answer.
func (e *Event) hit(res *cache.Result, a *wire.Answer, now time.Time) {
	e.InputTokens, e.OutputTokens, e.Eval, e.DoneReason = a.InputTokens, a.OutputTokens, a.Eval, a.DoneReason
	e.ModelTime, e.Similarity, e.Age = res.Entry.Cost, res.Similarity, now.Sub(res.Entry.Created)
}

// filtered notes a rule that matched.
func (x *exchange) filtered(rule string) { x.event.Filtered = append(x.event.Filtered, rule) }

// rewriter returns what filters one answer, nil if there is no filter. matched is
// told the name of every rule that matches.
func (p *Proxy) rewriter(op wire.Op, matched func(rule string)) *wire.Rewriter {
	f := p.o.Filter
	if f == nil {
		return nil
	}
	hit := func(h filter.Hit) {
		matched(h.Rule)
		if p.o.Hooks.Filtered != nil {
			p.o.Hooks.Filtered(h.Rule, h.Action.String())
		}
	}
	return wire.NewRewriter(op, f.Stream(hit), f.Stream(hit), f.Stream(hit))
}

// screen filters a stored answer in place: it may be older than the rules.
func (p *Proxy) screen(op wire.Op, a *wire.Answer, matched func(rule string)) error {
	rw := p.rewriter(op, matched)
	if rw == nil {
		return nil
	}
	return rw.Answer(a)
}

// Screen filters an answer that leaves by another way than the proxy's own.
func (p *Proxy) Screen(op wire.Op, a *wire.Answer) error { return p.screen(op, a, func(string) {}) }
