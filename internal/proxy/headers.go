package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
)

// FormatID writes an entry's ID as it stands in headers and URLs.
func FormatID(id uint64) string { return fmt.Sprintf("%016x", id) }

// ParseID reads what FormatID wrote.
func ParseID(s string) (uint64, bool) {
	id, err := strconv.ParseUint(s, 16, 64)
	return id, err == nil && len(s) == 16 && id != 0
}

func shortKey(key cache.Key) string { return fmt.Sprintf("%x", key[:8]) }

// hitHeaders tells what was served (RFC 9211 for Cache-Status).
func hitHeaders(h http.Header, res *cache.Result, key cache.Key, now time.Time) {
	ttl, age := int(res.Entry.Expires.Sub(now)/time.Second), int(now.Sub(res.Entry.Created)/time.Second)
	detail, source, short := "exact", "cache-exact", "HIT"
	switch res.Kind {
	case cache.Semantic:
		sim := strconv.FormatFloat(float64(res.Similarity), 'f', 4, 32)
		detail, source = `"semantic;sim=`+sim+`"`, "cache-semantic"
		h.Set("X-Semcached-Similarity", sim)
	case cache.Stale:
		detail, source, short = "stale-if-error", "cache-stale", "STALE"
	}
	h.Set("Cache-Status", fmt.Sprintf(`semcached; hit; ttl=%d; key="%x"; detail=%s`, ttl, key[:8], detail))
	h.Set("Age", strconv.Itoa(max(age, 0)))
	h.Set("X-Cache", short)
	h.Set("X-Semcached-Source", source)
	h.Set("X-Semcached-Id", FormatID(res.Entry.ID))
}

// missHeaders tells why the upstream was asked.
func missHeaders(h http.Header, reason string, key cache.Key, collapsed bool) {
	fwd := "uri-miss"
	switch reason {
	case cache.ReasonExpired:
		fwd = "stale"
	case cache.ReasonRefresh, cache.ReasonMaxAge:
		fwd = "request"
	}
	status := fmt.Sprintf(`semcached; fwd=%s; key="%x"`, fwd, key[:8])
	if collapsed {
		status += "; collapsed"
	}
	h.Set("Cache-Status", status+"; detail="+reason)
	h.Set("X-Cache", "MISS")
	h.Set("X-Semcached-Source", "ollama")
	h.Set("X-Semcached-Reason", reason)
}

func bypassHeaders(h http.Header, reason string) {
	status := "semcached; fwd=bypass"
	if reason != "" {
		status += "; detail=" + reason
		h.Set("X-Semcached-Reason", reason)
	}
	h.Set("Cache-Status", status)
	h.Set("X-Cache", "BYPASS")
	h.Set("X-Semcached-Source", "ollama")
}

// outbound returns the header to send upstream: the client's, without what
// concerns only this hop or only us.
func (p *Proxy) outbound(r *http.Request) http.Header {
	h := r.Header.Clone()
	upstream.DropHopByHop(h)
	for name := range h {
		if strings.HasPrefix(name, "X-Semcached-") {
			delete(h, name)
		}
	}
	for _, name := range [...]string{"Cache-Control", "Pragma", "Content-Length", "Accept-Encoding"} {
		h.Del(name)
	}
	if tenant.From(r.Context()) != tenant.Local { // the key was for us
		h.Del("Authorization")
		h.Del("X-Api-Key")
	}
	h.Add("Via", "1.1 "+p.pseudo)
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h.Add("X-Forwarded-For", host)
	}
	if _, ok := h["User-Agent"]; !ok {
		h.Set("User-Agent", "") // keep net/http from adding its own
	}
	return h
}

// looped reports whether the request has been here before.
func (p *Proxy) looped(r *http.Request) bool {
	for _, via := range r.Header["Via"] {
		if strings.Contains(via, p.pseudo) {
			return true
		}
	}
	return false
}

// target is where a request goes upstream: its own path and query.
func target(u *url.URL) *url.URL {
	return &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
}
