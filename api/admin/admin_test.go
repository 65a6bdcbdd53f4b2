package admin

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
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

func TestBackup(t *testing.T) {
	var broken atomic.Bool
	h := New(Options{
		Ready: func() (bool, map[string]string) { return true, nil }, Metrics: http.NotFoundHandler(), DataFile: "data/x.db",
		Backup: func(w io.Writer) error {
			io.WriteString(w, "all of it")
			if broken.Load() {
				return errors.New("the disk is gone")
			}
			return nil
		},
	})
	s := httptest.NewServer(h)
	defer s.Close()
	get := func(url string) (*http.Response, string, error) {
		resp, err := http.Get(url + "/backup")
		if err != nil {
			return new(http.Response), "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, string(b), err
	}
	resp, body, err := get(s.URL)
	if of := resp.Header.Get("X-Semcached-Data"); err != nil || body != "all of it" || !filepath.IsAbs(of) || !strings.HasSuffix(of, "/data/x.db") {
		t.Errorf("%q of %q, %v", body, of, err)
	}
	broken.Store(true)
	if _, body, err := get(s.URL); err == nil {
		t.Errorf("a copy that broke off ends well: %q", body)
	}
	broken.Store(false)
	r := httptest.NewRequest("GET", "/backup", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "all of it") {
		t.Errorf("another machine: %d %s", w.Code, w.Body)
	}
	none := httptest.NewServer(New(Options{Ready: func() (bool, map[string]string) { return true, nil }, Metrics: http.NotFoundHandler()}))
	defer none.Close()
	if resp, _, _ := get(none.URL); resp.StatusCode != http.StatusNotFound {
		t.Errorf("nothing on disk: %s", resp.Status)
	}
}
