// Package span is what the rest of the program knows of tracing: beginning and
// ending named stretches of time with attributes. internal/telemetry implements it;
// where a Tracer is nil, nothing is traced and nothing is allocated for it.
package span

import (
	"context"
	"net/http"
)

// Kind is the role of a span, as OpenTelemetry defines it.
type Kind int

// The kinds.
const (
	Internal Kind = iota
	Server
	Client
)

// Attr is an attribute. Value is a string, bool, int, int64, float64 or []string;
// an empty string or list is left out.
type Attr struct {
	Key   string
	Value any
}

// Tracer begins spans. It is safe for concurrent use.
type Tracer interface {
	// Start begins a span below the one in ctx.
	Start(ctx context.Context, name string, kind Kind, attrs ...Attr) (context.Context, Span)
	// Extract returns ctx with the span that the headers name as parent (W3C
	// Trace Context).
	Extract(ctx context.Context, h http.Header) context.Context
	// Inject names the span in ctx in the headers. For another's server
	// (foreign) only the parent is named, nothing else of the trace.
	Inject(ctx context.Context, h http.Header, foreign bool)
}

// Span is a stretch of time. It is used by one goroutine at a time.
type Span interface {
	Set(attrs ...Attr)
	// Fail marks the span as failed; kind is a word of few values.
	Fail(kind string)
	End()
	// IDs returns the trace's and the span's IDs in hex.
	IDs() (trace, span string)
}

// None is a span that is not there.
var None Span = none{}

type none struct{}

func (none) Set(...Attr)           {}
func (none) Fail(string)           {}
func (none) End()                  {}
func (none) IDs() (string, string) { return "", "" }
