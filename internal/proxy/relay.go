package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/flight"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// ErrShutdown is the cause of a request's end when the server goes down.
var ErrShutdown = errors.New("semcached is shutting down")

// relayWhole passes on an answer that came in one piece, or an error.
func (x *exchange) relayWhole(reader *flight.Reader, d dialect, status int, kind string) {
	body, err := reader.Next(x.r.Context())
	if err != nil && err != io.EOF {
		x.failUpstream(err)
		return
	}
	if status != http.StatusOK {
		x.event.Outcome = "error"
	}
	status, kind, body = d.relay(status, kind, body)
	x.whole(status, kind, body)
	reader.Next(x.r.Context()) // the end: then the maker has left its result
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
		case err != nil && (x.r.Context().Err() == nil || x.shutdown()):
			if x.shutdown() {
				err = ErrShutdown
			}
			x.event.Outcome, x.event.Err = "error", err.Error()
			x.chunk(d.line(nil, wire.ErrorLine(wire.Native, "the answer broke off: "+err.Error())))
			return
		case err != nil:
			x.event.Outcome, x.event.Err = "error", "the client left"
			return
		}
		if buf = d.line(buf[:0], line); len(buf) == 0 {
			continue
		}
		if x.chunk(buf) != nil {
			x.event.Outcome, x.event.Err = "error", "the client left"
			return
		}
	}
}

// shutdown reports whether the request ends because the server does.
func (x *exchange) shutdown() bool {
	return errors.Is(context.Cause(x.r.Context()), ErrShutdown)
}

// failUpstream answers that there is no answer.
func (x *exchange) failUpstream(err error) {
	if x.shutdown() {
		x.w.Header().Set("Retry-After", "1")
		x.fail(http.StatusServiceUnavailable, ErrShutdown.Error())
		return
	}
	if x.r.Context().Err() != nil {
		x.event.Outcome, x.event.Status, x.event.Err = "error", 499, "the client left"
		return // nobody is there to be told
	}
	status := http.StatusBadGateway
	var both *exhausted
	var blocked *filter.BlockedError
	h := x.w.Header()
	h.Del("X-Semcached-Source") // nobody answered
	switch {
	case errors.As(err, &blocked):
		status = http.StatusForbidden
		h.Set("X-Semcached-Reason", "filter")
	case errors.As(err, &both):
		h.Set("X-Should-Retry", "false") // everybody has been asked
		if both.retryAfter != "" {
			h.Set("Retry-After", both.retryAfter)
		}
	case errors.Is(err, upstream.ErrOpen):
		status = http.StatusServiceUnavailable
		h.Set("Retry-After", "5")
	case errors.Is(err, upstream.ErrTimeout):
		status = http.StatusGatewayTimeout
	case errors.Is(err, flight.ErrPanic):
		status = http.StatusInternalServerError
	}
	x.p.o.Log.Warn("request failed", "route", x.event.Route, "status", status, "error", err)
	x.fail(status, err.Error())
}
