package proxy

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/wire"
)

// calls notes the calls made for one answer and traces each as a client span, with
// the names of OpenTelemetry's conventions for generative AI (v1.41).
type calls struct {
	p        *Proxy
	req      *wire.Request // nil: a request that passes through
	provider string
	model    string // the provider's name of the model; "": the request's own
	foreign  bool   // the provider is not ours
	list     []Attempt
	open     span.Span // of the call that is answering
}

// operation is the name of a request in traces.
func operation(op wire.Op) string {
	if op == wire.OpGenerate {
		return "text_completion"
	}
	return "chat"
}

// attempt is an upstream.Request.Attempt.
func (c *calls) attempt(ctx context.Context, u *url.URL, h http.Header) (context.Context, func(int, error)) {
	start := time.Now()
	if c.open != nil { // what it said was no answer
		c.open.Fail("garbage")
		c.open.End()
		c.open = nil
	}
	s := span.None
	if t := c.p.o.Tracer; t != nil {
		ctx, s = t.Start(ctx, c.name(), span.Client, c.attributes(u)...)
		t.Inject(ctx, h, c.foreign)
	}
	return ctx, func(status int, err error) {
		a := Attempt{Backend: u.Host, Status: status, Duration: time.Since(start)}
		switch {
		case err != nil:
			a.Err = err.Error()
			s.Fail(kindOf(err))
			s.End()
		case status >= 400:
			s.Fail(strconv.Itoa(status))
			s.End()
		default:
			c.open = s
		}
		c.list = append(c.list, a)
	}
}

func (c *calls) name() string {
	if c.req == nil {
		return "passthrough"
	}
	return operation(c.req.Op) + " " + c.modelName()
}

func (c *calls) modelName() string {
	if c.model != "" {
		return c.model
	}
	return c.req.Folded
}

func (c *calls) attributes(u *url.URL) []span.Attr {
	attrs := []span.Attr{{Key: "server.address", Value: u.Hostname()}}
	if port, err := strconv.Atoi(u.Port()); err == nil {
		attrs = append(attrs, span.Attr{Key: "server.port", Value: port})
	}
	if n := len(c.list); n > 0 {
		attrs = append(attrs, span.Attr{Key: "http.request.resend_count", Value: n})
	}
	if c.req == nil {
		return attrs
	}
	attrs = append(attrs, span.Attr{Key: "gen_ai.operation.name", Value: operation(c.req.Op)},
		span.Attr{Key: "gen_ai.provider.name", Value: c.provider}, span.Attr{Key: "gen_ai.request.model", Value: c.modelName()})
	if c.req.Stream {
		attrs = append(attrs, span.Attr{Key: "gen_ai.request.stream", Value: true})
	}
	return attrs
}

// end closes the span of the call that answered.
func (c *calls) end(answer *wire.Collector) {
	if c.open == nil {
		return
	}
	a := answer.Joined()
	if answer.Done() {
		c.open.Set(span.Attr{Key: "gen_ai.usage.input_tokens", Value: a.InputTokens}, span.Attr{Key: "gen_ai.usage.output_tokens", Value: a.OutputTokens},
			span.Attr{Key: "gen_ai.response.model", Value: a.Model}, span.Attr{Key: "gen_ai.response.finish_reasons", Value: []string{a.DoneReason}})
	} else {
		c.open.Fail("incomplete")
	}
	c.open.End()
	c.open = nil
}
