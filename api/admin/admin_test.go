package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAdminRoutes(t *testing.T) {
	ok := false
	s := httptest.NewServer(New(Options{
		Ready:   func() (bool, map[string]string) { return ok, map[string]string{"cache": "loading"} },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics here") }),
		Version: "v9",
	}))
	defer s.Close()
	for _, c := range []struct {
		path   string
		ready  bool
		status int
		want   string
	}{
		{"/healthz", false, 200, "ok"}, {"/livez", false, 200, "ok"}, {"/readyz", false, 503, "not ready"}, {"/readyz", true, 200, "ready"},
		{"/readyz?verbose", false, 503, `{"parts":{"cache":"loading"},"ready":false}`}, {"/metrics", true, 200, "metrics here"},
		{"/debug/pprof/goroutine?debug=1", true, 200, "goroutine profile"}, {"/", true, 200, "semcached v9"}, {"/nope", true, 404, ""},
	} {
		ok = c.ready
		resp, err := http.Get(s.URL + c.path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s: %d %s", c.path, resp.StatusCode, b)
		}
	}
}
