package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/calllog"
	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// upstreamHooks counts calls of upstreams and raises the alarm when one goes down.
func (s *server) upstreamHooks() upstream.Hooks {
	h := s.metrics.UpstreamHooks()
	count := h.State
	h.State = func(backend, state string) {
		count(backend, state)
		switch state {
		case "open":
			s.alerts.Set("upstream", backend, true, "Ollama at "+backend+" does not answer as it should")
		case "closed":
			s.alerts.Set("upstream", backend, false, "Ollama at "+backend+" answers again")
		}
	}
	return h
}

func (s *server) fallbackHooks() upstream.Hooks {
	h := s.metrics.UpstreamHooks()
	count := h.State
	h.State = func(backend, state string) {
		count(backend, state)
		if state != "half-open" {
			s.alerts.Set("fallback-down", backend, state == "open", "the fallback "+backend+" is "+map[bool]string{true: "failing", false: "answering again"}[state == "open"])
		}
	}
	return h
}

func (s *server) proxyHooks(c *config.Config) proxy.Hooks {
	return proxy.Hooks{
		Done: func(e proxy.Event) { s.done(c, &e) }, Inflight: s.metrics.Inflight, Collapsed: s.metrics.Collapsed,
		Incomplete: s.metrics.Incomplete, Rendered: s.metrics.Rendered, Filtered: s.metrics.Filtered,
		Fallback: func(reason, result string) {
			s.metrics.Fallback(reason, result)
			if result == "served" || result == "cached" {
				s.alerts.Set("fallback", "", true, "answers come from the fallback: the upstreams fail ("+reason+")")
			}
		},
		Recovered: func() { s.alerts.Set("fallback", "", false, "answers come from Ollama again") },
	}
}

// done counts a request and writes it down.
func (s *server) done(c *config.Config, e *proxy.Event) {
	reason := ""
	if e.Outcome == "bypass" {
		reason = e.Reason
	}
	s.metrics.Request(e.Route, e.Outcome, e.Source, reason, e.Stream, e.Duration, e.FirstByte)
	if e.Source == "cache" {
		s.metrics.Saved(e.InputTokens, e.OutputTokens, e.ModelTime)
	}
	if s.calls != nil {
		r := record(e, c.TracePrompts, time.Now())
		if c.TraceAnswers {
			logAnswer(r, e)
		}
		s.calls.Write(r)
	}
	s.log.Debug("request", "route", e.Route, "outcome", e.Outcome, "reason", e.Reason, "status", e.Status, "ms", ms(e.Duration), "trace_id", e.TraceID)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sourceOf returns an answer's source as the log of calls names it.
func sourceOf(e *proxy.Event) string {
	switch {
	case e.Source == "fallback":
		return calllog.SourceFallback
	case e.Source == "ollama":
		return calllog.SourceOllama
	case e.Source == "cache" && e.Outcome == "hit_semantic":
		return calllog.SourceSemantic
	case e.Source == "cache" && e.Outcome == "stale":
		return calllog.SourceStale
	case e.Source == "cache":
		return calllog.SourceExact
	}
	return ""
}

// record is a request's line in the log of calls.
func record(e *proxy.Event, prompts bool, now time.Time) *calllog.Record {
	r := &calllog.Record{
		TraceID: e.TraceID, SpanID: e.SpanID, RequestID: e.RequestID, Timestamp: now.Add(-e.Duration).UTC(), Tenant: e.Tenant,
		Route: e.Route, Status: e.Status, Stream: e.Stream, Filtered: e.Filtered, Client: calllog.Client{UserAgent: e.UserAgent},
		Request:     calllog.Request{Model: e.Model, MessagesCount: e.Turns, PromptTokensEstimate: len(e.Prompt) / 4, Bytes: e.In},
		Response:    calllog.Response{Source: sourceOf(e), RemoteHost: e.Remote, PromptTokens: e.InputTokens, OutputTokens: e.OutputTokens, DoneReason: e.DoneReason, Bytes: e.Out},
		Performance: calllog.Performance{LatencyMS: ms(e.Duration), TTFTMS: ms(e.FirstByte)},
		Cache:       calllog.Cache{Result: e.Outcome},
	}
	if prompts {
		r.Request.Prompt = e.Prompt
	}
	if e.Key != (cache.Key{}) {
		r.Cache.Key = fmt.Sprintf("%x", e.Key[:8])
	}
	if e.Outcome == "bypass" {
		r.Cache.BypassReason = e.Reason
	} else {
		r.Cache.Reason = e.Reason
	}
	if e.Source == "cache" {
		similarity, age := float64(e.Similarity), e.Age.Seconds()
		r.Cache.Similarity, r.Cache.AgeSeconds = &similarity, &age
		r.Saved = &calllog.Saved{Tokens: e.InputTokens + e.OutputTokens, MS: ms(e.ModelTime)}
	} else if e.Eval > 0 && e.OutputTokens > 0 {
		speed := float64(e.OutputTokens) / e.Eval.Seconds()
		r.Performance.TokensPerSecond = &speed
	}
	if e.Err != "" {
		r.Error, r.ErrorType = &e.Err, fmt.Sprint(e.Status)
	}
	for _, a := range e.Attempts {
		r.Attempts = append(r.Attempts, calllog.Attempt{Backend: a.Backend, Status: a.Status, MS: ms(a.Duration)})
	}
	return r
}

// logAnswer adds what import needs to store the answer again.
func logAnswer(r *calllog.Record, e *proxy.Event) {
	k := e.Kept
	if k == nil {
		return
	}
	replay := wire.Replay{Op: k.Op, Model: cmp.Or(k.Answer.Model, e.Model), Now: k.Answer.Created, Elapsed: k.Answer.Total}
	r.Request.Canonical, r.Request.Namespace, r.Request.Tags = k.Canonical, k.Namespace, k.Tags
	r.Response.Answer = replay.AppendObject(nil, k.Answer)
}

// tracedEmbedder makes a span of every embedding.
type tracedEmbedder struct {
	cache.Embedder
	t span.Tracer
}

func (s *server) traced(e cache.Embedder) cache.Embedder {
	if s.tracer == nil {
		return e
	}
	return tracedEmbedder{e, s.tracer}
}

func (e tracedEmbedder) Embed(ctx context.Context, text string) ([]float32, string, error) {
	ctx, s := e.t.Start(ctx, "embeddings", span.Internal, span.Attr{Key: "gen_ai.operation.name", Value: "embeddings"})
	defer s.End()
	v, space, err := e.Embedder.Embed(ctx, text)
	if err != nil {
		s.Fail("embed")
	}
	s.Set(span.Attr{Key: "gen_ai.embeddings.dimension.count", Value: len(v)}, span.Attr{Key: "semcached.space", Value: space})
	return v, space, err
}
