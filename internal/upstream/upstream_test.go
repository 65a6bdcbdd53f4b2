package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pool(t *testing.T, o Options, urls ...string) *Pool {
	t.Helper()
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		o.URLs = append(o.URLs, u)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func serve(t *testing.T, f http.HandlerFunc) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

// deadAddress is one that nobody listens on, and that no other listener is given.
const deadAddress = "http://127.0.0.1:1"

func post(path string) *Request {
	return &Request{Method: "POST", URL: &url.URL{Path: path, RawQuery: "a=1"}, Header: http.Header{"X-A": {"b"}}, Body: []byte("body")}
}

func TestNextServerIsTriedWhenTheFirstIsDown(t *testing.T) {
	live := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.Host+" "+r.URL.String()+" "+string(b)+" "+r.Header.Get("X-A"))
	})
	var attempts []string
	p := pool(t, Options{Hooks: Hooks{Attempt: func(backend string, status int, _ time.Duration, _ bool) {
		attempts = append(attempts, backend, http.StatusText(status))
	}}}, deadAddress, live+"/base/")
	resp, err := p.Do(t.Context(), post("/api/chat"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if want := strings.TrimPrefix(live, "http://") + " /base/api/chat?a=1 body b"; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	if len(attempts) != 4 || attempts[1] != "" || attempts[3] != "OK" {
		t.Errorf("attempts %q", attempts)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	hang := make(chan struct{})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-hang })
	defer close(hang)
	reset := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	const patient, hasty = time.Hour, 50 * time.Millisecond
	for name, c := range map[string]struct {
		url     string
		timeout time.Duration
		want    error
	}{
		"down": {deadAddress, patient, ErrUnreachable}, "no such host": {"http://host.invalid", patient, ErrUnreachable},
		"slow": {slow, hasty, ErrTimeout}, "reset": {reset, patient, ErrBroken},
	} {
		p := pool(t, Options{HeaderTimeout: c.timeout}, c.url)
		if _, err := p.Do(t.Context(), post("/")); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	p := pool(t, Options{}, slow)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Do(ctx, post("/")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the caller's own deadline", err)
	}
}

// closedConn is a connection whose other end closes it when armed, which the transport
// finds out when it writes.
type closedConn struct {
	net.Conn
	armed *atomic.Bool
}

func (c closedConn) Write(p []byte) (int, error) {
	if c.armed.CompareAndSwap(true, false) {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestKeptConnectionThatWasClosedIsReplaced(t *testing.T) {
	p := pool(t, Options{}, serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}))
	var armed atomic.Bool
	dial := p.transport.DialContext
	p.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		return closedConn{c, &armed}, err
	}
	for i := range 3 {
		armed.Store(i == 1)
		resp, err := p.Do(t.Context(), post("/api/chat"))
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "body" || err != nil {
			t.Errorf("call %d: %q %v", i, b, err)
		}
		resp.Body.Close()
	}
	if armed.Load() {
		t.Error("no connection was kept: the test looks at nothing")
	}
}

func TestModelsAreKnownByTheirFoldedNames(t *testing.T) {
	body := `{"models":[{"name":"Reef:latest","digest":"abc"}]}`
	p := pool(t, Options{}, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/version" {
			io.WriteString(w, `{"version":"1.2"}`)
			return
		}
		io.WriteString(w, body)
	}), deadAddress)
	if p.Digest("reef:latest") != "" {
		t.Error("known before anybody asked")
	}
	if err := p.Refresh(t.Context()); err != nil || p.Digest("reef:latest") != "abc" {
		t.Errorf("%q %v", p.Digest("reef:latest"), err)
	}
	body = "garbage"
	if err := p.Refresh(t.Context()); err == nil || p.Digest("reef:latest") != "abc" {
		t.Error("a failed refresh forgets what was known")
	}
	s := p.Probe(t.Context())
	if len(s) != 2 || s[0].Version != "1.2" || s[0].Err != nil || s[1].Err == nil {
		t.Errorf("%+v", s)
	}
}

func TestHopByHopHeadersAreDropped(t *testing.T) {
	h := http.Header{"Connection": {"X-Secret, close"}, "X-Secret": {"1"}, "Te": {"trailers"}, "Upgrade": {"h2c"}, "Accept": {"*/*"}}
	DropHopByHop(h)
	if len(h) != 1 || h.Get("Accept") == "" {
		t.Errorf("left %v", h)
	}
}

func TestBadURLsAreRefused(t *testing.T) {
	for _, s := range []string{"ftp://x", "nowhere", "http://"} {
		u, _ := url.Parse(s)
		if _, err := New(Options{URLs: []*url.URL{u}}); err == nil {
			t.Errorf("%s was accepted", s)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no server at all was accepted")
	}
}
