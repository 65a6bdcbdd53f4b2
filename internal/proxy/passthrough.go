package proxy

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/semcached/semcached/internal/upstream"
)

// Passthrough returns the handler of everything that is not cached. Requests and
// answers are streamed; only bodies that are not uploads are read first, within
// the limit: net/http closes a body that an early answer has overtaken, and the
// answer would be cut short.
func (p *Proxy) Passthrough() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := p.exchange(w, r, "other")
		defer x.finish()
		x.event.Outcome = "bypass"
		if r.URL.Path == "/debug" || strings.HasPrefix(r.URL.Path, "/debug/") {
			x.fail(http.StatusNotFound, "not found") // Ollama's profiler is nobody's business
			return
		}
		if p.o.Filter.Changes() && speaks(r) {
			x.fail(http.StatusForbidden, "the output filter cannot read the answers of this route; ask /api/chat, /api/generate or /v1/chat/completions")
			return
		}
		req := &upstream.Request{Method: r.Method, URL: target(r.URL), Header: p.outbound(r)}
		if v, ok := r.Header["Accept-Encoding"]; ok {
			req.Header["Accept-Encoding"] = v
		}
		if isUpload(r) {
			if p.looped(r) {
				x.fail(http.StatusLoopDetected, "loop detected: the upstream leads back here")
				return
			}
			req.Stream, req.Length = r.Body, r.ContentLength
		} else {
			body, ok := x.readBody()
			if !ok {
				return
			}
			req.Body = body
		}
		bypassHeaders(w.Header(), "")
		x.forward(req, nil)
		if changesModels(r) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
			defer cancel()
			p.o.Upstream.Refresh(ctx) // the digests may be others now
		}
	})
}

// speaks reports whether a model's words come from a route that passes through.
func speaks(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	switch r.URL.Path {
	case "/v1/completions", "/v1/responses", "/v1/messages", "/v1/audio/transcriptions":
		return true
	}
	return strings.HasPrefix(r.URL.Path, "/v1/responses/") || strings.HasPrefix(r.URL.Path, "/api/experimental/")
}

// isUpload reports whether a request carries something too large to be held in
// memory: model files, and audio.
func isUpload(r *http.Request) bool {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		return false
	}
	path := r.URL.Path
	return strings.HasPrefix(path, "/api/blobs/") || strings.HasPrefix(path, "/v1/audio/") ||
		path == "/api/create" || path == "/api/push"
}

func changesModels(r *http.Request) bool {
	switch r.URL.Path {
	case "/api/pull", "/api/create", "/api/copy", "/api/delete":
		return true
	}
	return false
}
