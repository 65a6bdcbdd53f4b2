package api

import (
	"math"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/wire"
)

// access lets a request in if its route is open, its key is known, its owner may do
// this, and the owner's limits leave room. "/" tells that a server is here and is
// open to all, for health checks.
func access(o Options) gin.HandlerFunc {
	allowed := routeList(o.Routes)
	refuse := func(g *gin.Context, reason string, status int, detail string) {
		o.Refused(reason)
		fail(g, status, detail)
	}
	return func(g *gin.Context) {
		r := g.Request
		clean := path.Clean(r.URL.Path)
		if !allowed.has(r.Method, r.URL.Path, clean) {
			refuse(g, "route", http.StatusForbidden, "this route is not open here")
			return
		}
		if o.Tenants.Len() == 0 || clean == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			return
		}
		t := o.Tenants.Find(r)
		switch {
		case t == nil:
			g.Header("Www-Authenticate", `Bearer realm="semcached"`)
			refuse(g, "unauthorized", http.StatusUnauthorized, "this needs a valid API key, as Authorization: Bearer KEY")
			return
		case !t.May(roleFor(r.Method, clean)):
			refuse(g, "forbidden", http.StatusForbidden, "this API key may not do this")
			return
		}
		release, retry, limit := t.Admit(o.Now())
		if release == nil {
			tooMany(g, retry)
			refuse(g, limit, http.StatusTooManyRequests, "the "+limit+" limit of this API key is reached")
			return
		}
		defer release()
		g.Request = r.WithContext(tenant.Context(r.Context(), t))
		g.Next()
	}
}

// tooMany says when to come back, in whole seconds (RFC 9110, section 10.2.3) and,
// for OpenAI's SDKs, in milliseconds.
func tooMany(g *gin.Context, retry time.Duration) {
	g.Header("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	g.Header("Retry-After-Ms", strconv.Itoa(int(retry.Milliseconds())+1))
}

// roleFor returns the right that a route takes.
func roleFor(method, path string) tenant.Role {
	switch {
	case strings.HasPrefix(path, "/cache/"):
		return cacheRole(method, path)
	case strings.HasPrefix(path, "/api/blobs/"):
		return tenant.Admin
	}
	switch path {
	case "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/signout", "/api/me":
		return tenant.Admin
	}
	if method == http.MethodDelete || method == http.MethodPut || method == http.MethodPatch {
		return tenant.Admin // whatever it is, it changes something
	}
	return tenant.Read
}

func cacheRole(method, path string) tenant.Role {
	switch {
	case path == "/cache/store":
		return tenant.Write
	case path == "/cache/invalidate", method == http.MethodDelete:
		return tenant.Admin
	}
	return tenant.Read
}

// routes are the ones that are open; none means all.
type routes []struct {
	method string // "": any
	path   string
	prefix bool
}

func routeList(list []string) (out routes) {
	for _, s := range list {
		method, path, ok := strings.Cut(s, " ")
		if !ok {
			method, path = "", s
		}
		path, prefix := strings.CutSuffix(path, "*")
		out = append(out, struct {
			method string
			path   string
			prefix bool
		}{method, path, prefix})
	}
	return out
}

// has reports whether a route is open. A path that is not in its plain form could
// mean another route to the upstream than to us.
func (l routes) has(method, raw, clean string) bool {
	if len(l) == 0 {
		return true
	}
	if raw != clean {
		return false
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, r := range l {
		if (r.method == "" || r.method == method) && (r.path == clean || r.prefix && strings.HasPrefix(clean, r.path)) {
			return true
		}
	}
	return false
}

// screened filters an answer that the cache API shows; on false it has answered.
func (c cacheAPI) screened(g *gin.Context, op wire.Op, a *wire.Answer) bool {
	if err := c.o.Proxy.Screen(op, a); err != nil {
		fail(g, http.StatusForbidden, err.Error())
		return false
	}
	return true
}
