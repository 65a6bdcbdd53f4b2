package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/semcached/semcached/internal/span"
)

// schemaURL is the version of the semantic conventions that the attributes' names
// come from; later ones have moved those for generative AI elsewhere.
const schemaURL = "https://opentelemetry.io/schemas/1.41.0"

// tracer is a span.Tracer by OpenTelemetry.
type tracer struct {
	t trace.Tracer
	p propagation.TraceContext
}

// NewTracer returns a tracer that exports by OTLP over HTTP, as the standard OTEL_*
// variables say: endpoint, headers, sampler, service name. Traces that cannot be
// delivered are dropped, and the log told. stop sends what is left.
func NewTracer(ctx context.Context, version string, log *slog.Logger) (_ span.Tracer, stop func(context.Context) error, err error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w", err)
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "semcached"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	t := provider.Tracer("github.com/semcached/semcached", trace.WithInstrumentationVersion(version), trace.WithSchemaURL(schemaURL))
	return &tracer{t: t}, provider.Shutdown, nil
}

var kinds = map[span.Kind]trace.SpanKind{
	span.Internal: trace.SpanKindInternal, span.Server: trace.SpanKindServer, span.Client: trace.SpanKindClient,
}

func (t *tracer) Start(ctx context.Context, name string, kind span.Kind, attrs ...span.Attr) (context.Context, span.Span) {
	ctx, s := t.t.Start(ctx, name, trace.WithSpanKind(kinds[kind]), trace.WithAttributes(attributes(attrs)...))
	return ctx, otelSpan{s}
}

func (t *tracer) Extract(ctx context.Context, h http.Header) context.Context {
	return t.p.Extract(ctx, propagation.HeaderCarrier(h))
}

func (t *tracer) Inject(ctx context.Context, h http.Header, foreign bool) {
	t.p.Inject(ctx, propagation.HeaderCarrier(h))
	if foreign { // what others have put into the trace is not for strangers
		h.Del("Tracestate")
		h.Del("Baggage")
	}
}

// otelSpan is a span.Span.
type otelSpan struct{ s trace.Span }

func (s otelSpan) Set(attrs ...span.Attr) { s.s.SetAttributes(attributes(attrs)...) }

func (s otelSpan) Fail(kind string) {
	s.s.SetAttributes(attribute.String("error.type", kind))
	s.s.SetStatus(codes.Error, "")
}

func (s otelSpan) End() { s.s.End() }

func (s otelSpan) IDs() (string, string) {
	c := s.s.SpanContext()
	return c.TraceID().String(), c.SpanID().String()
}

func attributes(in []span.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(in))
	for _, a := range in {
		switch v := a.Value.(type) {
		case string:
			if v != "" {
				out = append(out, attribute.String(a.Key, v))
			}
		case bool:
			out = append(out, attribute.Bool(a.Key, v))
		case int:
			out = append(out, attribute.Int(a.Key, v))
		case int64:
			out = append(out, attribute.Int64(a.Key, v))
		case float64:
			out = append(out, attribute.Float64(a.Key, v))
		case []string:
			if len(v) > 0 {
				out = append(out, attribute.StringSlice(a.Key, v))
			}
		}
	}
	return out
}
