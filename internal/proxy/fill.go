package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/flight"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// streamType is the media type of a native stream.
const streamType = "application/x-ndjson"

// fill makes one answer: it asks the upstream, hands on what comes, and stores
// what is complete. When the upstream fails before the first byte has been handed
// on, others are asked (rescue.go).
type fill struct {
	p          *Proxy
	req        *wire.Request
	q          *cache.Query // nil: there is nothing to look up
	opts       cache.StoreOptions
	promised   bool        // the client itself asked for durability
	header     http.Header // for the upstream
	noStore    bool
	noFallback bool
	failed     *failure // of an upstream that has been asked already
}

// filling is a fill under way.
type filling struct {
	*fill
	ctx   context.Context
	s     *flight.Stream
	start time.Time
	calls calls
	out   *outcome
	c     *wire.Collector
	rw    *wire.Rewriter // nil: nothing is filtered
	head  http.Header    // to be sent before the first chunk; nil afterwards
	// keep stores the answer that c has collected.
	keep   func()
	unkept error // why it could not be made durable, although that was asked for
}

// outcome is what a filling leaves behind for those who waited.
type outcome struct {
	source, remote string
	input, output  int
	eval           time.Duration
	doneReason     string
	err            string
	attempts       []Attempt
	filtered       []string
	kept           *Kept
	hit            cache.Result // of a stored answer that stepped in
}

// failure is how an upstream failed before anything was handed on.
type failure struct {
	kind string // dial, timeout, broken, 5xx, breaker, garbage, error
	err  error
	// The answer, if there was one.
	status int
	header http.Header
	body   []byte
}

func (f *fill) run(ctx context.Context, s *flight.Stream) error {
	r := &filling{fill: f, ctx: ctx, s: s, start: f.p.o.Now(), out: &outcome{source: "ollama"}, c: wire.NewCollector(f.req.Op)}
	r.rw = f.p.rewriter(f.req.Op, func(rule string) { r.out.filtered = append(r.out.filtered, rule) })
	r.calls = calls{p: f.p, req: f.req, provider: "ollama"}
	r.keep = func() { r.store(r.q, "ollama", r.answerDigest(), "") }
	err := r.run()
	r.calls.end(r.c)
	r.out.attempts = r.calls.list
	if a := r.c.Joined(); r.c.Done() {
		r.out.input, r.out.output, r.out.eval, r.out.doneReason = a.InputTokens, a.OutputTokens, a.Eval, a.DoneReason
	}
	if r.c.Failed() != "" {
		r.out.err = r.c.Failed()
	}
	s.SetResult(r.out)
	return err
}

func (r *filling) answerDigest() string {
	if r.q == nil {
		return ""
	}
	return r.q.Digest
}

func (r *filling) run() error {
	// Between this request's lookup and its turn here, another's call may have
	// ended and its answer been stored.
	if r.q != nil {
		if res := r.p.o.Engine.Peek(r.q); res.Kind != cache.Miss && r.replay(&res, nil) {
			return nil
		}
	}
	if r.failed == nil {
		failed, err := r.primary()
		if failed == nil {
			return err
		}
		r.failed = failed
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	return r.rescue()
}

// primary asks the upstreams. With a failure nothing has been handed on; without,
// the answer, or the error, is what there is.
func (r *filling) primary() (*failure, error) {
	header := r.header.Clone()
	header.Set("Content-Type", "application/json")
	resp, err := r.p.o.Upstream.Do(r.ctx, &upstream.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/api/" + string(r.req.Op)}, Header: header, Body: r.req.Body(),
		Retry: true, FailFast: r.mayFallback(), Attempt: r.calls.attempt,
	})
	if err != nil {
		return &failure{kind: kindOf(err), err: err}, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !r.req.Stream {
		return r.wholePrimary(resp)
	}
	failed, err := r.streamPrimary(resp)
	if failed == nil && r.c.Done() {
		r.recovered()
	}
	return failed, err
}

func (r *filling) recovered() {
	if r.p.o.Hooks.Recovered != nil {
		r.p.o.Hooks.Recovered()
	}
}

func (r *filling) incomplete() {
	if r.p.o.Hooks.Incomplete != nil {
		r.p.o.Hooks.Incomplete()
	}
}

// kindOf names the failure of a call.
func kindOf(err error) string {
	switch {
	case errors.Is(err, upstream.ErrTimeout):
		return "timeout"
	case errors.Is(err, upstream.ErrBroken):
		return "broken"
	case errors.Is(err, upstream.ErrUnreachable):
		return "dial"
	case errors.Is(err, upstream.ErrOpen):
		return "breaker"
	}
	return "error"
}

// relayed are the headers of an upstream's answer that clients need.
func relayed(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range [...]string{"Content-Type", "Retry-After", "Www-Authenticate"} {
		if v := h.Get(name); v != "" {
			out.Set(name, v)
		}
	}
	return out
}

// wholePrimary takes an answer that comes in one piece, or an error. Readers hear
// of it when it is complete and stored.
func (r *filling) wholePrimary(resp *http.Response) (*failure, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return &failure{kind: "broken", err: fmt.Errorf("%w: %s", upstream.ErrBroken, readable(err))}, nil
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("%w: the answer is larger than %d bytes", upstream.ErrBroken, maxAnswer)
	}
	header := relayed(resp.Header)
	if resp.StatusCode >= 500 && !blamesRequest(body) {
		return &failure{kind: "5xx", err: statusError(resp.StatusCode, body), status: resp.StatusCode, header: header, body: body}, nil
	}
	if resp.StatusCode != http.StatusOK {
		r.out.err = errorOf(body)
		r.s.SetHead(resp.StatusCode, header)
		r.s.Write(body)
		return nil, nil
	}
	if !isObject(body) {
		return &failure{kind: "garbage", err: errGarbage}, nil
	}
	if text := errorOf(body); text != "" { // an error, whatever the status says
		return &failure{kind: "error", err: errors.New(text), status: http.StatusInternalServerError, header: header, body: body}, nil
	}
	r.head = header
	return nil, r.object(body)
}

// object hands on a whole native answer, filtered, once it is stored.
func (r *filling) object(body []byte) (err error) {
	if r.rw != nil {
		if body, err = r.rw.Object(body); err != nil {
			return err
		}
	}
	r.c.Add(body)
	if r.c.Done() {
		r.recovered()
	} else {
		r.head.Set("X-Semcached-Reason", "incomplete")
	}
	r.keep()
	r.tellDurability()
	r.begin()
	r.s.Write(body)
	return nil
}

// tellDurability says in the head of a whole answer what became of it on disk.
func (r *filling) tellDurability() {
	switch {
	case r.unkept != nil:
		r.head.Set("X-Semcached-Durability", "failed")
	case r.opts.Sync && r.out.kept != nil:
		r.head.Set("X-Semcached-Durability", "sync")
	}
}

// end hands on the final line of a stream once its answer is kept. Its head was sent
// long ago; a client that has asked for durability is told of a failure by an error
// line in the place of the final one. If only the configuration asks, the answer,
// which is right, comes whole: log and metrics tell.
func (r *filling) end(final []byte) {
	if r.promised && r.unkept != nil {
		r.out.err = "the answer is complete, but it could not be made durable: " + r.unkept.Error()
		final = wire.ErrorLine(wire.Native, r.out.err)
	}
	r.begin()
	r.s.Write(final)
}

// blamesRequest reports whether Ollama's 500 is about a wrong option.
func blamesRequest(body []byte) bool { return strings.HasPrefix(errorOf(body), "option ") }

func errorOf(body []byte) string {
	c := wire.NewCollector(wire.OpChat)
	c.Add(body)
	return c.Failed()
}

func statusError(status int, body []byte) error {
	text := errorOf(body)
	if text == "" {
		text = http.StatusText(status)
	}
	return fmt.Errorf("ollama answered %d: %s", status, text)
}

func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && b[0] == '{' && json.Valid(b)
}

// begin sends the head if that has not been done.
func (r *filling) begin() {
	if r.head != nil {
		r.s.SetHead(http.StatusOK, r.head)
		r.head = nil
	}
}

// lines returns what is to be handed on for one native line.
func (r *filling) lines(line []byte) ([][]byte, error) {
	if r.rw == nil {
		return [][]byte{append(line[:len(line):len(line)], '\n')}, nil
	}
	return r.rw.Line(line)
}

// cut ends a stream that cannot be ended well.
func (r *filling) cut(message string) {
	r.begin()
	line := wire.ErrorLine(wire.Native, message)
	r.incomplete()
	r.c.Add(line)
	r.s.Write(line)
}

// streamPrimary hands on a stream. Its head waits for the first line, so that a
// failure before that can still be made good.
func (r *filling) streamPrimary(resp *http.Response) (*failure, error) {
	lines := wire.NewLineReader(resp.Body, maxLine)
	line, err := lines.Next()
	switch {
	case err != nil:
		return &failure{kind: "broken", err: fmt.Errorf("%w: %s", upstream.ErrBroken, readable(err))}, nil
	case !isObject(line):
		return &failure{kind: "garbage", err: errGarbage}, nil
	case errorOf(line) != "":
		body := append(append([]byte(nil), line...), '\n')
		return &failure{kind: "error", err: errors.New(errorOf(line)), status: resp.StatusCode, header: relayed(resp.Header), body: body}, nil
	}
	r.head = relayed(resp.Header)
	if !strings.HasPrefix(r.head.Get("Content-Type"), streamType) {
		r.head.Set("Content-Type", streamType)
	}
	for err == nil {
		var out [][]byte
		if out, err = r.lines(line); err != nil {
			return nil, r.stop(err)
		}
		for _, l := range out {
			r.c.Add(l)
			if !r.c.Done() {
				r.begin()
				r.s.Write(l)
				continue
			}
			if r.last(l, lines) {
				return nil, nil
			}
		}
		line, err = lines.Next()
	}
	if err != io.EOF {
		r.cut("upstream connection lost: " + readable(err))
		return nil, nil
	}
	if !r.c.Done() && r.c.Failed() == "" {
		if err := r.flush(); err != nil {
			return nil, r.stop(err)
		}
		r.cut("the model's answer was cut short")
	}
	return nil, nil
}

// errGarbage: the upstream answered 200 and something else.
var errGarbage = fmt.Errorf("%w: what came is no answer", upstream.ErrBroken)

// flush hands on what the filter holds back.
func (r *filling) flush() error {
	if r.rw == nil {
		return nil
	}
	out, err := r.rw.Close()
	for _, l := range out {
		r.begin()
		r.s.Write(l)
	}
	return err
}

// stop ends an answer that the filter withholds: with its error if nothing has been
// handed on, else with an error line.
func (r *filling) stop(err error) error {
	r.out.err = err.Error()
	if r.head != nil {
		return err
	}
	r.cut(err.Error())
	return nil
}

// endTime is how long the final line is held back for the stream's end, which
// follows it at once, unless the machine is very busy.
const endTime = 250 * time.Millisecond

// last hands on the final line once the answer is kept: a client may ask again, or
// rely on durability, as soon as it has that line, without waiting for the end of
// the stream. It returns false if more follows, which spoils the answer.
func (r *filling) last(final []byte, lines *wire.LineReader) bool {
	type result struct {
		line []byte
		err  error
	}
	end := make(chan result, 1)
	go func() {
		line, err := lines.Next()
		end <- result{line, err}
	}()
	timer := time.NewTimer(r.p.o.endTime)
	defer timer.Stop()
	if r.promised {
		timer.Stop() // then the promise is kept first
	}
	var more result
	r.begin()
	select {
	case more = <-end:
		if more.err == io.EOF {
			r.keep()
		}
		r.end(final)
	case <-timer.C:
		r.s.Write(final)
		if more = <-end; more.err == io.EOF {
			r.keep()
		}
	}
	if more.err != nil {
		return true // a final line without a clean end is shown, and not kept
	}
	r.c.Add(more.line)
	r.s.Write(append(append(make([]byte, 0, len(more.line)+1), more.line...), '\n'))
	return false
}

// readable words a failed read for people.
func readable(err error) string {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the stream ended in the middle"
	case err == io.EOF:
		return "the stream ended before it began"
	}
	return err.Error()
}

// store keeps a complete answer under q. It takes microseconds unless the client
// asked for durability. The answer is kept even if everybody has left by now.
func (r *filling) store(q *cache.Query, provider, digest, model string) {
	if r.noStore || q == nil {
		return
	}
	a, err := r.c.Answer()
	if err != nil {
		r.p.o.Log.Debug("answer not stored", "reason", err)
		r.incomplete()
		return
	}
	now := r.p.o.Now()
	a.Digest, a.Provider = digest, provider
	if model != "" {
		a.Model = model
	}
	if a.Created.IsZero() {
		a.Created = now
	}
	ctx, s := r.p.span(context.WithoutCancel(r.ctx), "cache store", span.Internal)
	defer s.End()
	encoded, err := a.AppendBinary(nil)
	if err == nil {
		cost := a.Total
		if cost <= 0 {
			cost = now.Sub(r.start)
		}
		_, err = r.p.o.Engine.Store(ctx, q, cache.Answer{
			Encoded: encoded, Provider: a.Provider, Digest: a.Digest, Cost: cost,
			InputTokens: a.InputTokens, OutputTokens: a.OutputTokens,
		}, r.opts)
	}
	if err != nil {
		s.Fail("store")
		r.p.o.Log.Warn("answer not stored", "error", err, "durable", r.opts.Sync)
		if r.opts.Sync {
			r.unkept = err
		}
		return
	}
	r.out.kept = &Kept{Op: r.req.Op, Namespace: q.Namespace, Canonical: q.Canonical, Tags: r.opts.Tags, Answer: a}
}
