// Package upstream talks to the Ollama servers behind semcached: it picks the
// first that answers, passes requests on without what concerns only one hop, and
// knows which models there are.
package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/semcached/semcached/internal/wire"
)

// Errors of Do, besides ctx's.
var (
	// ErrUnreachable: no upstream could be connected to.
	ErrUnreachable = errors.New("upstream: cannot be reached")
	// ErrTimeout: the upstream took the request but sent no answer in time.
	ErrTimeout = errors.New("upstream: no answer in time")
	// ErrBroken: the connection was lost before the answer began.
	ErrBroken = errors.New("upstream: connection lost")
	// ErrOpen: the server has failed again and again and is left alone for a
	// while.
	ErrOpen = errors.New("upstream: left alone after failures")
)

// Options configure a Pool.
type Options struct {
	// URLs of the servers, in order of preference; at least one.
	URLs []*url.URL
	// DialTimeout bounds connecting. Default: 5 s.
	DialTimeout time.Duration
	// HeaderTimeout bounds the wait for the answer's head. Ollama sends it
	// with the first token, so loading the model counts. Default: 10 min.
	HeaderTimeout time.Duration
	// BreakerFailures of the last ten calls open a server's circuit breaker
	// for BreakerDelay; then one call tries it again. Defaults: 5, 10 s.
	BreakerFailures int
	BreakerDelay    time.Duration
	// ProbeEvery is how often Run asks every server for its models.
	// Default: 10 s.
	ProbeEvery time.Duration
	// Proxy chooses a forward proxy, as in http.Transport. Default: none.
	Proxy func(*http.Request) (*url.URL, error)
	Hooks Hooks
	Log   *slog.Logger // default: discards
}

// Hooks observe the calls; nil funcs are skipped.
type Hooks struct {
	// Attempt reports one call: the server's host, the status (0 if there
	// was no answer), the time to the answer's head, and whether the caller
	// gave up.
	Attempt func(backend string, status int, d time.Duration, canceled bool)
	// Answered reports the time from a call to the end of its answer.
	Answered func(backend string, d time.Duration)
	// State reports that a server's breaker is now "closed" (the server is
	// used), "half-open" (it is tried) or "open" (it is left alone). It must
	// not call the pool.
	State func(backend, state string)
}

// Pool is a list of servers. It is safe for concurrent use.
type Pool struct {
	o         Options
	transport *http.Transport
	servers   []*server
	retries   retrypolicy.RetryPolicy[*http.Response]

	mu     sync.RWMutex      // guards models
	models map[string]string // folded name -> digest, of the first server that answered
}

// New returns a pool; it connects to nobody.
func New(o Options) (*Pool, error) {
	if len(o.URLs) == 0 {
		return nil, errors.New("upstream: no server")
	}
	for _, u := range o.URLs {
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("upstream: %q is not an http URL", u.Redacted())
		}
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.HeaderTimeout == 0 {
		o.HeaderTimeout = 10 * time.Minute
	}
	if o.BreakerFailures == 0 {
		o.BreakerFailures = 5
	}
	if o.BreakerDelay == 0 {
		o.BreakerDelay = 10 * time.Second
	}
	if o.ProbeEvery == 0 {
		o.ProbeEvery = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	p := &Pool{o: o, retries: newRetries(len(o.URLs)), transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   o.DialTimeout,
		ResponseHeaderTimeout: o.HeaderTimeout,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   256, // the default of 2 doubles the cost of a call under load
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // bytes pass as they are
		Proxy:                 o.Proxy,
	}}
	for _, u := range o.URLs {
		p.servers = append(p.servers, newServer(u, o))
	}
	return p, nil
}

// hopByHop are the headers that concern one connection (RFC 9110, section 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// DropHopByHop removes the headers that concern one connection only, and those
// that the Connection header names.
func DropHopByHop(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// Request is what is sent.
type Request struct {
	Method string
	URL    *url.URL    // path and query
	Header http.Header // as for the upstream; Do does not change it
	Body   []byte      // replayed on the next server if the first is unreachable
	Stream io.Reader   // instead of Body: sent once, to the first server
	Length int64       // of Stream, -1 if unknown

	// Retry lets another server try when one fails before its answer; the
	// request must be one that may be asked twice.
	Retry bool
	// FailFast returns ErrOpen when all breakers are open. Without, the
	// first server is asked nevertheless.
	FailFast bool
	// Attempt, if not nil, is told of every call before it is made. It may
	// add to the header and returns the context of the call; done is called
	// with the status of the answer's head, or the error.
	Attempt func(ctx context.Context, server *url.URL, h http.Header) (_ context.Context, done func(status int, err error))

	quiet bool // tells the breaker nothing: a probe is no trial call
}

// Do sends r to the first server that answers. A server that cannot be connected to
// gives way to the next; with r.Retry so does one that fails, within the retry
// budget. The caller closes the answer's body. Errors wrap ErrUnreachable,
// ErrTimeout, ErrBroken or ErrOpen, or are ctx's.
func (p *Pool) Do(ctx context.Context, r *Request) (*http.Response, error) {
	t := try{p: p, ctx: ctx, r: r}
	if !r.Retry || len(p.servers) == 1 {
		return t.result(t.next())
	}
	return t.result(failsafe.With[*http.Response](p.retries).WithContext(ctx).Get(t.next))
}

// try is one call of Do.
type try struct {
	p      *Pool
	ctx    context.Context
	r      *Request
	i      int            // next server
	held   *http.Response // answer of a server that failed, in case nobody does better
	causes []error
}

// next asks the next server that can be connected to.
func (t *try) next() (*http.Response, error) {
	for ; t.i < len(t.p.servers); t.i++ {
		s := t.p.servers[t.i]
		if !s.breaker.TryAcquirePermit() {
			t.causes = append(t.causes, fmt.Errorf("%w: %s", ErrOpen, s.url.Host))
			continue
		}
		resp, err := t.p.attempt(t.ctx, s, t.r)
		if err != nil && t.ctx.Err() != nil {
			t.i = len(t.p.servers)
			return nil, t.ctx.Err()
		}
		if err != nil {
			t.causes = append(t.causes, err)
			if errors.Is(err, ErrUnreachable) && t.r.Stream == nil {
				if t.i+1 < len(t.p.servers) {
					t.p.o.Log.Warn("upstream cannot be reached, trying the next", "upstream", s.url.Host, "error", err)
				}
				continue
			}
		}
		t.i++
		if resp != nil && failed(resp.StatusCode) {
			t.drop()
			t.held = resp
		}
		return resp, err
	}
	if len(t.causes) == len(t.p.servers) && !t.r.FailFast && errorsAll(t.causes, ErrOpen) {
		// Nobody else can help, so the first is asked although it has failed.
		return t.p.attempt(t.ctx, t.p.servers[0], t.r)
	}
	return nil, errors.Join(t.causes...)
}

// result turns the outcome of the last attempt into that of Do.
func (t *try) result(resp *http.Response, err error) (*http.Response, error) {
	if t.held != nil && t.held != resp {
		if resp == nil && t.ctx.Err() == nil {
			return t.held, nil
		}
		t.drop()
	}
	switch {
	case resp != nil:
		return resp, nil
	case t.ctx.Err() != nil:
		return nil, t.ctx.Err()
	case len(t.causes) > 0:
		return nil, errors.Join(t.causes...) // in place of the retry policy's own words
	}
	return nil, err
}

func (t *try) drop() {
	if t.held != nil {
		t.held.Body.Close()
		t.held = nil
	}
}

func errorsAll(errs []error, target error) bool {
	return !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, target) })
}

// failed reports whether a status says that the server, not the request, is at
// fault. 500 is left out: Ollama answers so to a wrong option as well.
func failed(status int) bool { return status == 502 || status == 503 || status == 504 }

func (p *Pool) attempt(ctx context.Context, s *server, r *Request) (*http.Response, error) {
	u := s.url
	req := &http.Request{
		Method: r.Method, Header: r.Header, Host: u.Host,
		URL: &url.URL{Scheme: u.Scheme, Host: u.Host, User: u.User, Path: strings.TrimSuffix(u.Path, "/") + r.URL.Path,
			RawPath: rawPath(u, r.URL), RawQuery: r.URL.RawQuery},
	}
	switch {
	case r.Stream != nil:
		req.Body, req.ContentLength = io.NopCloser(r.Stream), r.Length
	case len(r.Body) > 0:
		// A kept connection may have been closed by the server just now. The transport
		// then sends the request over a new one, if it can have the body again.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(r.Body))
	}
	done := func(int, error) {}
	if r.Attempt != nil {
		req.Header = r.Header.Clone()
		ctx, done = r.Attempt(ctx, u, req.Header)
	}
	start := time.Now()
	resp, err := p.transport.RoundTrip(req.WithContext(ctx))
	status := 0
	if err == nil {
		status = resp.StatusCode
	} else {
		err = classify(u, err)
	}
	if !r.quiet {
		s.record(ctx, status, err)
	}
	done(status, err)
	if p.o.Hooks.Attempt != nil {
		p.o.Hooks.Attempt(u.Host, status, time.Since(start), ctx.Err() != nil)
	}
	if err != nil {
		return nil, err
	}
	if !r.quiet {
		resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: ctx, s: s, start: start, answered: p.o.Hooks.Answered}
	}
	return resp, nil
}

func rawPath(base, r *url.URL) string {
	if r.RawPath == "" {
		return ""
	}
	return strings.TrimSuffix(base.EscapedPath(), "/") + r.RawPath
}

// classify names the failure in words that a client may read.
func classify(u *url.URL, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &dns):
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, u.Host, rootOf(err))
	case errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "timeout awaiting response headers"):
		return fmt.Errorf("%w: %s", ErrTimeout, u.Host)
	}
	return fmt.Errorf("%w: %s: %w", ErrBroken, u.Host, rootOf(err))
}

func rootOf(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// tags is the answer of GET /api/tags.
type tags struct {
	Models []struct {
		Name   string `json:"name"`
		Digest string `json:"digest"`
	} `json:"models"`
}

// maxTags bounds the answer of GET /api/tags.
const maxTags = 16 << 20

// Refresh asks for the models and their digests. On an error what was known stays.
func (p *Pool) Refresh(ctx context.Context) error {
	var t tags
	if err := p.get(ctx, nil, "/api/tags", &t); err != nil {
		return err
	}
	p.learn(&t)
	return nil
}

func (p *Pool) learn(t *tags) {
	models := make(map[string]string, len(t.Models))
	for _, m := range t.Models {
		models[wire.FoldModel(m.Name)] = m.Digest
	}
	p.mu.Lock()
	p.models = models
	p.mu.Unlock()
}

// get asks one server, or with nil the first that answers, and decodes the answer.
func (p *Pool) get(ctx context.Context, s *server, path string, out any) (err error) {
	r := &Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}, quiet: s != nil}
	var resp *http.Response
	if s == nil {
		resp, err = p.Do(ctx, r)
	} else {
		resp, err = p.attempt(ctx, s, r)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("upstream: GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxTags)).Decode(out)
}

// Digest returns the digest of a model by its folded name, "" if it is unknown.
func (p *Pool) Digest(folded string) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.models[folded]
}

// Status is what a server says of itself.
type Status struct {
	URL     string
	Version string // "" if it does not answer
	Err     error
}

// Probe asks every server for its version at the same time.
func (p *Pool) Probe(ctx context.Context) []Status {
	all := make([]Status, len(p.servers))
	var wg sync.WaitGroup
	for i, server := range p.servers {
		wg.Go(func() {
			var v struct{ Version string }
			all[i] = Status{URL: server.url.Redacted()}
			if err := p.get(ctx, server, "/api/version", &v); err != nil {
				all[i].Err = err
				return
			}
			all[i].Version = v.Version
		})
	}
	wg.Wait()
	return all
}

// Hosts returns the servers' names, for metrics.
func (p *Pool) Hosts() []string {
	var hosts []string
	for _, u := range p.o.URLs {
		hosts = append(hosts, u.Host)
	}
	return slices.Compact(hosts)
}

// Close closes idle connections.
func (p *Pool) Close() { p.transport.CloseIdleConnections() }
