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
	Hooks         Hooks
	Log           *slog.Logger // default: discards
}

// Hooks observe the calls; nil funcs are skipped.
type Hooks struct {
	// Attempt reports one call: the server's host, the status (0 if there
	// was no answer), the time to the answer's head, and whether the caller
	// gave up.
	Attempt func(backend string, status int, d time.Duration, canceled bool)
}

// Pool is a list of servers. It is safe for concurrent use.
type Pool struct {
	o         Options
	transport *http.Transport

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
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Pool{o: o, transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   o.DialTimeout,
		ResponseHeaderTimeout: o.HeaderTimeout,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   256, // the default of 2 doubles the cost of a call under load
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // bytes pass as they are
		// No Proxy: the upstream is named, and usually on this machine.
	}}, nil
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

// Request is what is sent. With a nil Body, GetBody is not used.
type Request struct {
	Method string
	URL    *url.URL    // path and query
	Header http.Header // as for the upstream; Do does not change it
	Body   []byte      // replayed on the next server if the first is unreachable
	Stream io.Reader   // instead of Body: sent once, to the first server
	Length int64       // of Stream, -1 if unknown
}

// Do sends r to the first server that can be connected to. The caller closes the
// answer's body. Errors wrap ErrUnreachable, ErrTimeout or ErrBroken, or ctx's.
func (p *Pool) Do(ctx context.Context, r *Request) (*http.Response, error) {
	var causes []error
	for i, u := range p.o.URLs {
		resp, err := p.attempt(ctx, u, r)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		causes = append(causes, err)
		if !errors.Is(err, ErrUnreachable) || r.Stream != nil {
			break
		}
		if i+1 < len(p.o.URLs) {
			p.o.Log.Warn("upstream cannot be reached, trying the next", "upstream", u.Host, "error", err)
		}
	}
	return nil, errors.Join(causes...)
}

func (p *Pool) attempt(ctx context.Context, u *url.URL, r *Request) (*http.Response, error) {
	req := &http.Request{
		Method: r.Method, Header: r.Header, Host: u.Host,
		URL: &url.URL{Scheme: u.Scheme, Host: u.Host, User: u.User, Path: strings.TrimSuffix(u.Path, "/") + r.URL.Path,
			RawPath: rawPath(u, r.URL), RawQuery: r.URL.RawQuery},
	}
	switch {
	case r.Stream != nil:
		req.Body, req.ContentLength = io.NopCloser(r.Stream), r.Length
	case len(r.Body) > 0:
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(r.Body)), int64(len(r.Body))
	}
	start := time.Now()
	resp, err := p.transport.RoundTrip(req.WithContext(ctx))
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	if p.o.Hooks.Attempt != nil {
		p.o.Hooks.Attempt(u.Host, status, time.Since(start), ctx.Err() != nil)
	}
	if err != nil {
		return nil, classify(u, err)
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
	if err := p.get(ctx, "/api/tags", &t); err != nil {
		return err
	}
	models := make(map[string]string, len(t.Models))
	for _, m := range t.Models {
		models[wire.FoldModel(m.Name)] = m.Digest
	}
	p.mu.Lock()
	p.models = models
	p.mu.Unlock()
	return nil
}

func (p *Pool) get(ctx context.Context, path string, out any) error {
	resp, err := p.Do(ctx, &Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}})
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

// Run refreshes the models every 30 s until ctx ends.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			c, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := p.Refresh(c); err != nil {
				p.o.Log.Debug("cannot list the upstream's models", "error", err)
			}
			cancel()
		}
	}
}

// Status is what a server says of itself.
type Status struct {
	URL     string
	Version string // "" if it does not answer
	Err     error
}

// Probe asks every server for its version at the same time.
func (p *Pool) Probe(ctx context.Context) []Status {
	all := make([]Status, len(p.o.URLs))
	var wg sync.WaitGroup
	for i, u := range p.o.URLs {
		wg.Go(func() {
			one := Pool{o: p.o, transport: p.transport}
			one.o.URLs = []*url.URL{u}
			var v struct{ Version string }
			all[i] = Status{URL: u.Redacted()}
			if err := one.get(ctx, "/api/version", &v); err != nil {
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
