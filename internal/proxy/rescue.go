package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// exhausted: neither the upstreams nor the fallback have an answer.
type exhausted struct {
	local, remote error
	host          string
	retryAfter    string
}

func (e *exhausted) Error() string {
	return fmt.Sprintf("no answer from Ollama (%s) and none from the fallback %s (%s)", e.local, e.host, e.remote)
}

func (e *exhausted) Unwrap() []error { return []error{e.local, e.remote} }

// mayFallback reports whether the fallback may answer this request: there is one,
// it has the model, the caller does not forbid it, and the question can be put to it.
func (f *fill) mayFallback() bool {
	if f.p.o.Fallback == nil || f.noFallback {
		return false
	}
	model, ok := f.p.o.Fallback.model(f.req.Folded)
	if !ok {
		return false
	}
	_, err := f.req.CloudBody(wire.CloudOptions{Model: model, MaxTokens: f.p.o.Fallback.MaxTokens})
	return err == nil
}

// rescue finds an answer after the upstreams have failed: the fallback's stored
// one, the fallback's, an expired one. If there is none it says so, in the
// upstream's own words if it had any.
func (r *filling) rescue() error {
	report := func(result string) {
		if r.p.o.Hooks.Fallback != nil {
			r.p.o.Hooks.Fallback(r.failed.kind, result)
		}
	}
	var second error
	if r.mayFallback() {
		if r.stored() {
			report("cached")
			return nil
		}
		r.p.o.Log.Warn("asking the fallback", "fallback", r.p.o.Fallback.Host, "reason", r.failed.kind, "error", r.failed.err)
		done, err := r.cloud()
		var blocked *filter.BlockedError
		switch {
		case done:
			report("served")
			return nil
		case errors.As(err, &blocked):
			report("failed")
			return err
		case r.ctx.Err() != nil:
			return r.ctx.Err()
		}
		second = err
	}
	if r.q != nil {
		if res := r.p.o.Engine.Stale(r.q); res.Kind != cache.Miss && r.replay(&res, r.q) {
			report("stale")
			return nil
		}
	}
	r.out.source = ""
	switch {
	case second != nil:
		report("failed")
		e := &exhausted{local: r.failed.err, remote: second, host: r.p.o.Fallback.Host}
		var refused *cloudStatus
		if errors.As(second, &refused) {
			e.retryAfter = refused.retryAfter
		}
		return e
	case r.failed.status != 0:
		report("none")
		r.out.err = r.failed.err.Error()
		r.s.SetHead(r.failed.status, r.failed.header)
		r.s.Write(r.failed.body)
		return nil
	}
	report("none")
	return r.failed.err
}

// replay hands on a stored answer in native form; with q it says that it is one.
// It returns false if the answer cannot be read.
func (r *filling) replay(res *cache.Result, q *cache.Query) bool {
	a, err := wire.DecodeAnswer(res.Answer)
	if err != nil || r.p.screen(r.req.Op, a, func(string) {}) != nil {
		return false
	}
	now := r.p.o.Now()
	p := wire.Replay{Op: r.req.Op, Model: r.req.Model, Now: now, Elapsed: now.Sub(r.start)}
	header := http.Header{"Content-Type": {streamType}}
	if !r.req.Stream {
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if q != nil {
		hitHeaders(header, res, q.Key(), now)
		r.out.hit, r.out.source = *res, "cache"
		r.out.input, r.out.output = a.InputTokens, a.OutputTokens
		if q.Provider != "" {
			r.out.remote = r.p.o.Fallback.Host
			p.RemoteModel, p.RemoteHost = a.Model, r.out.remote
			header.Set("X-Semcached-Remote", r.out.remote)
		}
	}
	r.s.SetHead(http.StatusOK, header)
	if !r.req.Stream {
		r.s.Write(p.AppendObject(nil, a))
		return true
	}
	p.Lines(a, func(line []byte) error { r.s.Write(line); return nil })
	return true
}

// provider is the name under which the fallback's answers are kept: its host and
// its model, so that nobody takes them for the local model's.
func (r *filling) provider() string {
	model, _ := r.p.o.Fallback.model(r.req.Folded)
	return r.p.o.Fallback.Host + "/" + model
}

// stored answers with what the fallback said to the same question before.
func (r *filling) stored() bool {
	if r.q == nil {
		return false
	}
	q := r.q.WithProvider(r.provider())
	res := r.p.o.Engine.Lookup(r.ctx, q)
	return res.Kind != cache.Miss && r.replay(&res, q)
}

// cloudStatus: the fallback refused.
type cloudStatus struct {
	status     int
	text       string
	retryAfter string
}

func (e *cloudStatus) Error() string { return fmt.Sprintf("it answered %d: %s", e.status, e.text) }

// maxRefusal bounds what is read of a fallback's error.
const maxRefusal = 64 << 10

// cloud asks the fallback. Without done nothing has been handed on, and the error
// says why.
func (r *filling) cloud() (done bool, err error) {
	fb := r.p.o.Fallback
	model, _ := fb.model(r.req.Folded)
	body, err := r.req.CloudBody(wire.CloudOptions{Model: model, MaxTokens: fb.MaxTokens})
	if err != nil {
		return false, err
	}
	// Nothing of the client's header goes there, its Authorization least of all.
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"semcached"}}
	if fb.Key != "" {
		h.Set("Authorization", "Bearer "+fb.Key)
	}
	r.calls.provider, r.calls.model, r.calls.foreign = "openai", model, true
	resp, err := fb.Pool.Do(r.ctx, &upstream.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/chat/completions"}, Header: h, Body: body, FailFast: true, Attempt: r.calls.attempt})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		e := &cloudStatus{status: resp.StatusCode, text: wire.CloudError(b), retryAfter: resp.Header.Get("Retry-After")}
		if e.text == "" {
			e.text = http.StatusText(e.status)
		}
		return false, e
	}
	p := wire.Replay{Op: r.req.Op, Model: r.req.Model, RemoteModel: model, RemoteHost: fb.Host}
	t := wire.NewCloud(p, r.p.o.Now(), r.p.o.Now)
	r.keep = func() {
		if r.q != nil && !t.Censored() {
			r.store(r.q.WithProvider(r.provider()), r.provider(), "", model)
		}
	}
	r.out.source, r.out.remote = "fallback", fb.Host
	r.head = http.Header{"X-Semcached-Source": {"fallback:" + fb.Host}, "X-Semcached-Remote": {fb.Host}, "X-Semcached-Fallback-Reason": {r.failed.kind}}
	if !r.req.Stream {
		return r.cloudObject(resp, t)
	}
	return r.cloudStream(resp, t)
}

func (r *filling) cloudObject(resp *http.Response, t *wire.Cloud) (bool, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return false, fmt.Errorf("%w: the answer broke off", upstream.ErrBroken)
	}
	native, err := t.Whole(nil, body)
	if err != nil {
		return false, err
	}
	if r.rw != nil {
		if native, err = r.rw.Object(native); err != nil {
			return false, err
		}
	}
	r.c.Add(native)
	r.head.Set("Content-Type", "application/json; charset=utf-8")
	r.keep()
	r.tellDurability()
	r.begin()
	r.s.Write(native)
	return true, nil
}

func (r *filling) cloudStream(resp *http.Response, t *wire.Cloud) (bool, error) {
	r.head.Set("Content-Type", streamType)
	events := wire.NewEventReader(resp.Body, maxLine)
	for !r.c.Done() {
		var native []byte
		ev, err := events.Next()
		switch {
		case err == io.EOF:
			native, err = t.Close(nil)
		case err == nil:
			native, err = t.Event(nil, ev.Data)
		}
		if err == nil {
			err = r.cloudLines(native)
		}
		if err != nil {
			return r.cloudBroke(err)
		}
	}
	return true, nil
}

// cloudLines hands on native lines; the last one once the answer is kept.
func (r *filling) cloudLines(native []byte) error {
	for line := range bytes.Lines(native) {
		out, err := r.lines(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return err
		}
		for _, l := range out {
			r.c.Add(l)
			if r.c.Done() {
				r.keep()
				r.end(l)
				continue
			}
			r.begin()
			r.s.Write(l)
		}
	}
	return nil
}

// cloudBroke ends a fallback's stream that failed: in the stream if it had begun.
func (r *filling) cloudBroke(err error) (bool, error) {
	if r.head != nil {
		return false, err
	}
	r.out.err = err.Error()
	r.cut("the fallback's answer broke off: " + err.Error())
	return true, nil
}
