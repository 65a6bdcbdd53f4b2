package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// states records breaker changes.
type states struct {
	mu  sync.Mutex // guards all
	all []string
}

func (s *states) add(_, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, state)
}

func (s *states) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, " ")
}

// faulty is a server whose inference route answers with status; 0 cuts the
// connection, -1 cuts it in mid-answer.
type faulty struct {
	status atomic.Int32
	calls  atomic.Int32
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/tags" {
		io.WriteString(w, `{"models":[{"name":"reef","digest":"abc"}]}`)
		return
	}
	f.calls.Add(1)
	switch s := f.status.Load(); s {
	case 0:
		panic(http.ErrAbortHandler)
	case -1:
		io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(int(s))
		io.WriteString(w, "whole")
	}
}

func newFaulty(t *testing.T, status int) (*faulty, string) {
	f := new(faulty)
	f.status.Store(int32(status))
	return f, serve(t, f.ServeHTTP)
}

func infer() *Request {
	return &Request{Method: "POST", URL: &url.URL{Path: "/api/chat"}, Header: http.Header{}, Body: []byte("{}"), Retry: true, FailFast: true}
}

// ask makes a call and returns its status, 0 on an error.
func ask(t *testing.T, p *Pool, r *Request) (int, error) {
	t.Helper()
	resp, err := p.Do(t.Context(), r)
	if err != nil {
		return 0, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode, nil
}

// failures are ways to fail that open a breaker.
var failures = map[string]int{"503": 503, "reset": 0, "mid-answer": -1}

func TestOpenBreakerLeavesTheServerAlone(t *testing.T) {
	for name, status := range failures {
		t.Run(name, func(t *testing.T) {
			f, u := newFaulty(t, status)
			p := pool(t, Options{BreakerFailures: 3, BreakerDelay: time.Hour}, u)
			for range 12 {
				ask(t, p, infer())
				if p.Open() {
					break
				}
			}
			calls := f.calls.Load()
			if _, err := ask(t, p, infer()); !errors.Is(err, ErrOpen) || f.calls.Load() != calls {
				t.Fatalf("%v after %d calls", err, calls)
			}
			patient := infer()
			patient.FailFast = false
			ask(t, p, patient)
			if f.calls.Load() != calls+1 {
				t.Error("a request that nobody else can answer is not even tried")
			}
		})
	}
}

func TestBreakerClosesAgain(t *testing.T) {
	for name, status := range failures {
		t.Run(name, func(t *testing.T) {
			f, u := newFaulty(t, status)
			var seen states
			p := pool(t, Options{BreakerFailures: 3, BreakerDelay: time.Millisecond, Hooks: Hooks{State: seen.add}}, u)
			for range 12 {
				ask(t, p, infer())
				if seen.get() != "" {
					break
				}
			}
			f.status.Store(200)
			eventually(t, "used again", func() bool {
				s, _ := ask(t, p, infer())
				return s == 200
			})
			if got := seen.get(); got != "open half-open closed" {
				t.Errorf("states: %s", got)
			}
		})
	}
}

// eventually waits for what happens on real connections and announces itself to nobody.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestWrongRequestsDoNotOpenTheBreaker(t *testing.T) {
	for _, status := range []int{400, 404, 500} {
		_, u := newFaulty(t, status)
		p := pool(t, Options{BreakerFailures: 2}, u)
		for range 20 {
			ask(t, p, infer())
		}
		if p.Open() {
			t.Errorf("%d opened it", status)
		}
	}
}

func TestClientsWhoLeaveSayNothingAboutTheServer(t *testing.T) {
	hang := make(chan struct{})
	u := serve(t, func(w http.ResponseWriter, r *http.Request) { <-hang })
	defer close(hang)
	p := pool(t, Options{BreakerFailures: 2}, u)
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		p.Do(ctx, infer())
		cancel()
	}
	if p.Open() {
		t.Error("open")
	}
}

func TestFailingServerGivesWayToTheNext(t *testing.T) {
	for _, status := range []int{503, 0} {
		bad, first := newFaulty(t, status)
		good, second := newFaulty(t, 200)
		p := pool(t, Options{BreakerFailures: 3}, first, second)
		for range 8 {
			if s, err := ask(t, p, infer()); s != 200 {
				t.Fatalf("%d %v", s, err)
			}
		}
		if bad.calls.Load() > 4 || good.calls.Load() != 8 {
			t.Errorf("%d: %d and %d calls: the first is still asked", status, bad.calls.Load(), good.calls.Load())
		}
		once := infer()
		once.Retry = false
		bad2, first := newFaulty(t, 503)
		p = pool(t, Options{}, first, second)
		if s, _ := ask(t, p, once); s != 503 || bad2.calls.Load() != 1 {
			t.Errorf("a request that may not be asked twice was: %d", s)
		}
	}
}

func TestFirstAnswerIsShownWhenNobodyDoesBetter(t *testing.T) {
	_, first := newFaulty(t, 503)
	p := pool(t, Options{}, first, deadAddress)
	if s, err := ask(t, p, infer()); s != 503 || err != nil {
		t.Errorf("%d %v", s, err)
	}
	_, reset := newFaulty(t, 0)
	p = pool(t, Options{}, deadAddress, reset)
	if _, err := ask(t, p, infer()); !errors.Is(err, ErrBroken) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v does not name both causes", err)
	}
}

// Ten calls at once may not become twenty.
func TestRetriesKeepToTheirBudget(t *testing.T) {
	var second atomic.Int32
	arrived := make(chan struct{}, 100)
	release := make(chan struct{})
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		w.WriteHeader(503)
	})
	hold := make(chan struct{})
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		second.Add(1)
		<-hold
	})
	p := pool(t, Options{BreakerFailures: 10}, a, b)
	var wg sync.WaitGroup
	var busy atomic.Int32
	for range 10 {
		wg.Go(func() {
			if s, _ := ask(t, p, infer()); s == 503 {
				busy.Add(1)
			}
		})
	}
	for range 10 {
		<-arrived
	}
	close(release)
	eventually(t, "all are retried or answered with the failure", func() bool { return busy.Load()+second.Load() == 10 })
	close(hold)
	wg.Wait()
	if busy.Load() != 7 || second.Load() != 3 {
		t.Errorf("%d retries, %d answered with the failure", second.Load(), busy.Load())
	}
}

func TestProbesFindOutBeforeRequestsDo(t *testing.T) {
	back, u := newFaulty(t, 503)
	var seen states
	var up atomic.Bool
	p := pool(t, Options{ProbeEvery: 5 * time.Millisecond, BreakerDelay: time.Hour, Hooks: Hooks{State: seen.add}}, u)
	dial := p.transport.DialContext
	p.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !up.Load() {
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		return dial(ctx, network, addr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	eventually(t, "open", p.Open)
	up.Store(true)
	eventually(t, "used again", func() bool { return !p.Open() })
	eventually(t, "the models are learnt", func() bool { return p.Digest("reef:latest") == "abc" })
	// One that answers probes but fails requests is only tried.
	for range 10 {
		ask(t, p, infer())
	}
	eventually(t, "half-open", func() bool { return slices.Contains(strings.Fields(seen.get()), "half-open") })
	back.status.Store(200)
	eventually(t, "closed", func() bool {
		ask(t, p, infer())
		return strings.HasSuffix(seen.get(), "closed")
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestEveryAttemptIsTold(t *testing.T) {
	_, bad := newFaulty(t, 503)
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Trace")) })
	p := pool(t, Options{}, deadAddress, bad, good)
	r := infer()
	var told []int
	r.Attempt = func(ctx context.Context, u *url.URL, h http.Header) (context.Context, func(int, error)) {
		h.Set("X-Trace", u.Host)
		return ctx, func(status int, err error) { told = append(told, status) }
	}
	resp, err := p.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); "http://"+string(b) != good || !slices.Equal(told, []int{0, 503, 200}) || len(r.Header) != 0 {
		t.Errorf("%s %v %v", b, told, r.Header)
	}
}
