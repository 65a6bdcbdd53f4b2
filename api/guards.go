package api

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// allowedHeaders are those that browsers may send: Ollama's list and ours.
const allowedHeaders = "Authorization, Content-Type, User-Agent, Accept, X-Requested-With, OpenAI-Beta, " +
	"x-stainless-arch, x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, x-stainless-lang, " +
	"x-stainless-os, x-stainless-package-version, x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime, " +
	"x-stainless-runtime-version, x-stainless-timeout, Cache-Control, Pragma, X-Request-Id, Traceparent, Tracestate, " +
	"X-Api-Key, X-Semcached-Fallback, X-Semcached-Mode, X-Semcached-Ttl, X-Semcached-Threshold, X-Semcached-Namespace, X-Semcached-Tags, X-Semcached-Durability"

const exposedHeaders = "Cache-Status, Age, X-Cache, X-Request-Id, X-Semcached-Source, X-Semcached-Similarity, X-Semcached-Id, X-Semcached-Reason, " +
	"X-Semcached-Remote, X-Semcached-Fallback-Reason, Retry-After"

// guards refuses requests that a web page makes without leave, as Ollama does: a
// Host that is not this machine's on a loopback listener, and an Origin that is
// not allowed, get 403 and nothing else.
func guards(o Options) gin.HandlerFunc {
	hostname, _ := os.Hostname()
	return func(g *gin.Context) {
		if o.Loopback && !AllowedHost(g.Request.Host, hostname) {
			g.AbortWithStatus(http.StatusForbidden)
			return
		}
		origin := g.GetHeader("Origin")
		if origin == "" || sameOrigin(origin, g.Request.Host) {
			return
		}
		if !allowedOrigin(origin, o.Origins) {
			g.AbortWithStatus(http.StatusForbidden)
			return
		}
		h := g.Writer.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
		h.Set("Access-Control-Expose-Headers", exposedHeaders)
		if g.Request.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Headers", allowedHeaders)
			h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS")
			h.Set("Access-Control-Max-Age", "43200")
			g.AbortWithStatus(http.StatusNoContent)
		}
	}
}

// GuardHost refuses requests to a loopback listener whose Host is not this
// machine's, for listeners that have no other guard.
func GuardHost(h http.Handler) http.Handler {
	hostname, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !AllowedHost(r.Host, hostname) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// AllowedHost reports whether a Host header may be used to reach a loopback
// listener of a machine called hostname.
func AllowedHost(hostport, hostname string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified() || ownAddress(ip)
	}
	if host == "" || host == "localhost" || hostname != "" && host == strings.ToLower(hostname) {
		return true
	}
	for _, end := range [...]string{".localhost", ".local", ".internal"} {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	return false
}

func ownAddress(ip net.IP) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// allowedOrigin knows Ollama's defaults: this machine on any port, and the schemes
// of desktop applications and browser extensions.
func allowedOrigin(origin string, more []string) bool {
	for _, pattern := range more {
		if pattern == "*" || pattern == origin {
			return true
		}
		if before, after, ok := strings.Cut(pattern, "*"); ok && len(origin) >= len(before)+len(after) &&
			strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after) {
			return true
		}
	}
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		switch u.Hostname() {
		case "localhost", "127.0.0.1", "0.0.0.0":
			return true
		}
	case "app", "file", "tauri", "vscode-webview", "vscode-file", "chrome-extension", "moz-extension", "safari-web-extension":
		return true
	}
	return false
}

// sameOrigin reports whether the page came from the very address it calls.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host == host
}
