package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// breakerWindow is the number of recent calls that a breaker looks at.
const breakerWindow = 10

// server is one of a pool's servers.
type server struct {
	url     *url.URL
	breaker circuitbreaker.CircuitBreaker[any]
	misses  atomic.Int32 // probes in a row that failed
	dialed  atomic.Bool  // the last failure came after a connection was made
}

func newServer(u *url.URL, o Options) *server {
	b := circuitbreaker.NewBuilder[any]().
		WithFailureThresholdRatio(uint(o.BreakerFailures), breakerWindow).
		WithSuccessThreshold(1).
		WithDelay(o.BreakerDelay).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			o.Log.Warn("upstream changes state", "upstream", u.Host, "from", e.OldState.String(), "to", e.NewState.String())
			if o.Hooks.State != nil {
				o.Hooks.State(u.Host, e.NewState.String())
			}
		})
	return &server{url: u, breaker: b.Build()}
}

// newRetries returns the policy of calls that may be asked again: once for each
// server, and no more than a fifth of the calls under way (at least three), so that
// retries do not bury what is left of a failing fleet.
func newRetries(servers int) retrypolicy.RetryPolicy[*http.Response] {
	return retrypolicy.NewBuilder[*http.Response]().
		HandleIf(func(resp *http.Response, err error) bool {
			return errors.Is(err, ErrBroken) || errors.Is(err, ErrTimeout) || resp != nil && failed(resp.StatusCode)
		}).
		WithMaxAttempts(servers).
		WithBudget(budget.New()).
		ReturnLastFailure().
		Build()
}

// record tells the breaker how a call went. A caller who gave up says nothing about
// the server, but a trial call must end somehow: it counts as failed.
func (s *server) record(ctx context.Context, status int, err error) {
	switch {
	case ctx.Err() != nil:
		if s.breaker.IsHalfOpen() {
			s.breaker.RecordFailure()
		}
	case err != nil || failed(status):
		s.dialed.Store(!errors.Is(err, ErrUnreachable))
		s.breaker.RecordFailure()
	default:
		s.breaker.RecordSuccess()
	}
}

// watchedBody tells the breaker when a connection dies in the middle of an answer,
// and how long the answer took.
type watchedBody struct {
	io.ReadCloser
	ctx      context.Context
	s        *server
	start    time.Time
	answered func(backend string, d time.Duration)
}

func (b *watchedBody) Close() error {
	if b.answered != nil {
		b.answered(b.s.url.Host, time.Since(b.start))
		b.answered = nil
	}
	return b.ReadCloser.Close()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() == nil {
		b.s.dialed.Store(true)
		b.s.breaker.RecordFailure()
	}
	return n, err
}

// Run probes every server for its models until ctx ends: what they have is learnt
// from the first that answers, a server that misses two probes in a row is left
// alone before anybody's request has to find out, and one that is back is used
// again at once if it could not be reached before, else tried with one request.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(p.o.ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			p.probe(ctx)
		}
	}
}

// probeTimeout bounds one probe.
const probeTimeout = 5 * time.Second

func (p *Pool) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found := make([]*tags, len(p.servers))
	var wg sync.WaitGroup
	for i, s := range p.servers {
		wg.Go(func() {
			found[i] = p.probeOne(ctx, s)
		})
	}
	wg.Wait()
	for _, t := range found {
		if t != nil {
			p.learn(t)
			return
		}
	}
}

// probeOne returns what s has, nil if it does not answer.
func (p *Pool) probeOne(ctx context.Context, s *server) *tags {
	var t tags
	if err := p.get(ctx, s, "/api/tags", &t); err != nil {
		p.o.Log.Debug("cannot list the upstream's models", "upstream", s.url.Host, "error", err)
		if s.misses.Add(1) >= 2 && s.breaker.IsClosed() {
			s.dialed.Store(false)
			s.breaker.Open()
		}
		return nil
	}
	s.misses.Store(0)
	if s.breaker.IsOpen() {
		if s.dialed.Load() {
			s.breaker.HalfOpen()
		} else {
			s.breaker.Close()
		}
	}
	return &t
}

// Open reports whether every server is left alone for now.
func (p *Pool) Open() bool {
	for _, s := range p.servers {
		if !s.breaker.IsOpen() {
			return false
		}
	}
	return true
}
