package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/api"
	"github.com/semcached/semcached/api/admin"
	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/embedder"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/telemetry"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
	"github.com/semcached/semcached/store/mem"
)

const (
	// drainTime bounds how long streams may go on after SIGTERM.
	drainTime = 30 * time.Second
	// probeTime bounds what the start waits for the upstream.
	probeTime = 2 * time.Second
	// memoBytes bounds the remembered embeddings.
	memoBytes = 32 << 20
)

// serve runs the server until ctx ends.
func serve(ctx context.Context, env environment) int {
	c, code, ok := load(env)
	if !ok {
		return code
	}
	s, err := newServer(c, logger(c, env.stderr))
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitFailed
	}
	if err := s.run(ctx, env.stdout); err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitFailed
	}
	return exitOK
}

// server is everything that serve wires together.
type server struct {
	c        *config.Config
	log      *slog.Logger
	front    net.Listener
	back     net.Listener
	store    store.Store
	pool     *upstream.Pool
	embed    namedEmbedder
	engine   *cache.Engine
	metrics  *telemetry.Telemetry
	draining atomic.Bool
	services sync.WaitGroup
}

// namedEmbedder is an embedder and what to tell people of it.
type namedEmbedder struct {
	embedder.Embedder
	describe func() string
	prepare  func(ctx context.Context) error // ask the upstream; may be nil
	run      func(ctx context.Context) error // background work; may be nil
}

// newServer opens the listeners first, so that a port in use is told at once, and
// then the data file.
func newServer(c *config.Config, log *slog.Logger) (_ *server, err error) {
	s := &server{c: c, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.front, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if s.back, err = net.Listen("tcp", c.Admin); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if s.store, err = openStore(c, log); err != nil {
		return nil, err
	}
	return s, s.wire()
}

// inMemory is the data folder's name for keeping nothing.
const inMemory = ":memory:"

func openStore(c *config.Config, log *slog.Logger) (store.Store, error) {
	if c.Data == inMemory {
		return mem.New(nil), nil
	}
	path := filepath.Join(c.Data, "semcached.db")
	s, err := bolt.Open(bolt.Options{Path: path, Log: log})
	switch {
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("data: %s is in use by another semcached; stop it, or give this one another --data", path)
	case errors.Is(err, store.ErrVersion):
		return nil, fmt.Errorf("data: %w; run that semcached, or give this one another --data", err)
	case err != nil:
		return nil, fmt.Errorf("data: %w", err)
	}
	return s, nil
}

// wire makes the parts and connects them.
func (s *server) wire() (err error) {
	// The collectors read the engine, and the engine reports to the collectors.
	var hosts []string
	for _, u := range s.c.Upstreams {
		hosts = append(hosts, u.Host)
	}
	s.metrics = telemetry.New(telemetry.Options{
		Version: version, Revision: revision(), Backends: hosts,
		Cache: func() cache.Stats { return s.engine.Stats() }, Store: s.storeStats,
	})
	s.pool, err = upstream.New(upstream.Options{URLs: s.c.Upstreams, Hooks: s.metrics.UpstreamHooks(), Log: s.log})
	if err != nil {
		return err
	}
	if s.embed, err = newEmbedder(s.c); err != nil {
		return err
	}
	s.engine, err = cache.New(cache.Options{
		Store: s.store, NewIndex: newIndex(s.c.Index), Embedder: embedder.NewMemo(s.embed, memoBytes), Threshold: s.c.Threshold,
		TTL: s.c.TTL, MaxBytes: s.c.MaxBytes, EmbedTimeout: s.c.EmbedTimeout, Hooks: s.metrics.CacheHooks(), Log: s.log,
	})
	return err
}

func (s *server) storeStats() telemetry.StoreStats {
	st := s.store.Stats()
	return telemetry.StoreStats{Bytes: st.Bytes, Pending: int64(st.Pending), Corrupt: st.Corrupt, Failed: st.Failed}
}

// newIndex returns the constructor of --index. auto is the flat scan: nothing here
// is faster for what one partition holds.
func newIndex(kind string) func(dims int) index.Index {
	if kind == "coder" {
		return func(dims int) index.Index { return coder.New(dims) }
	}
	return func(dims int) index.Index { return index.NewFlat(dims) }
}

func newEmbedder(c *config.Config) (namedEmbedder, error) {
	spec, err := embedder.Parse(c.Embedder)
	if err != nil {
		return namedEmbedder{}, err
	}
	named := func() string { return c.Embedder }
	// Of several upstreams the first one embeds: another server may have another
	// version of the model, and their vectors must not mix.
	o := embedder.Options{BaseURL: c.Upstreams[0].String(), Model: spec.Model}
	switch spec.Kind {
	case embedder.KindLexical:
		return namedEmbedder{Embedder: embedder.NewLexical(), describe: named}, nil
	case embedder.KindOllama:
		e := embedder.NewOllama(o)
		return namedEmbedder{e, named, e.Refresh, e.Run}, nil
	case embedder.KindOpenAI:
		o.BaseURL, o.APIKey = c.OpenAIURL, string(c.OpenAIKey)
		e, err := embedder.NewOpenAI(o)
		return namedEmbedder{Embedder: e, describe: named}, err
	}
	a := embedder.NewAuto(o)
	return namedEmbedder{a, a.Describe, a.Resolve, a.Run}, nil
}

// run serves until ctx ends, then drains.
func (s *server) run(ctx context.Context, banner io.Writer) error {
	defer s.close()
	front, back, err := s.handlers()
	if err != nil {
		return err
	}
	// The store outlives the requests, whose answers it still has to write.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	storeDone := make(chan error, 1)
	go func() { storeDone <- s.store.Run(storeCtx) }()
	defer func() { stopStore(); <-storeDone }()

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer func() { stopWork(); s.services.Wait() }()
	s.background(work, s.engine.Run, s.pool.Run, s.embed.run)

	failed := make(chan error, 2)
	go func() { failed <- front.Serve(s.front) }()
	go func() { failed <- back.Serve(s.back) }()
	s.services.Go(func() { s.start(work, banner) })
	select {
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	return s.drain(front, back)
}

func (s *server) background(ctx context.Context, services ...func(context.Context) error) {
	for _, f := range services {
		if f != nil {
			s.services.Go(func() { f(ctx) })
		}
	}
}

// handlers makes the two HTTP servers. Neither bounds how long an answer may take:
// streams last. Slow clients are bounded chunk by chunk in package proxy.
func (s *server) handlers() (front, back *http.Server, err error) {
	p, err := proxy.New(proxy.Options{
		Engine: s.engine, Upstream: s.pool, MaxBody: s.c.MaxBody, Sync: s.c.Durability == "sync", Log: s.log,
		Hooks: proxy.Hooks{Done: s.done, Inflight: s.metrics.Inflight, Collapsed: s.metrics.Collapsed},
	})
	if err != nil {
		return nil, nil, err
	}
	h, err := api.New(api.Options{
		Proxy: p, Engine: s.engine, MaxBody: s.c.MaxBody, Loopback: config.Loopback(s.front.Addr().String()), Origins: s.c.Origins, Log: s.log,
	})
	if err != nil {
		return nil, nil, err
	}
	operators := admin.New(admin.Options{Ready: s.ready, Metrics: s.metrics.Handler(), Version: version})
	if config.Loopback(s.back.Addr().String()) {
		operators = api.GuardHost(operators)
	}
	return httpServer(h, s.log), httpServer(operators, s.log), nil
}

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// done counts and logs a request.
func (s *server) done(e proxy.Event) {
	reason := ""
	if e.Outcome == "bypass" {
		reason = e.Reason
	}
	s.metrics.Request(e.Route, e.Outcome, e.Source, reason, e.Stream, e.Duration, e.FirstByte)
	if e.Source == "cache" {
		s.metrics.Saved(e.InputTokens, e.OutputTokens, e.ModelTime)
	}
	s.log.Debug("request", "route", e.Route, "outcome", e.Outcome, "reason", e.Reason, "status", e.Status, "ms", float64(e.Duration.Microseconds())/1000)
}

func (s *server) ready() (bool, map[string]string) {
	detail := map[string]string{"cache": "ready", "server": "serving"}
	if !s.engine.Ready() {
		detail["cache"] = "loading"
	}
	if s.draining.Load() {
		detail["server"] = "draining"
	}
	return s.engine.Ready() && !s.draining.Load(), detail
}

// start asks the upstream who it is, loads the entries, and tells about it.
// Requests pass through meanwhile.
func (s *server) start(ctx context.Context, w io.Writer) {
	probe, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	fmt.Fprintf(w, "semcached %s\n  clients   http://%s   (OLLAMA_HOST=%s)\n  admin     http://%s\n",
		version, s.front.Addr(), s.front.Addr(), s.back.Addr())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.pool.Refresh(probe); err != nil {
			s.log.Debug("cannot list the upstream's models", "error", err)
		}
	})
	if s.embed.prepare != nil {
		wg.Go(func() {
			if err := s.embed.prepare(probe); err != nil {
				s.log.Warn("the embedder is not ready", "error", err)
			}
		})
	}
	for _, u := range s.pool.Probe(probe) {
		state := "answers, version " + u.Version
		if u.Err != nil {
			state = "does not answer: " + u.Err.Error()
		}
		fmt.Fprintf(w, "  upstream  %s   %s\n", u.URL, state)
	}
	wg.Wait()
	began := time.Now()
	report, err := s.engine.Load(ctx)
	if err != nil {
		// The disk is gone, not the upstream: requests go on passing through.
		fmt.Fprintf(w, "  WARNING   the cache stays off: %v\n", err)
		s.log.Error("entries cannot be loaded: the cache stays off", "error", err)
		return
	}
	fmt.Fprintf(w, "  embedder  %s\n  entries   %d loaded in %v from %s", s.embed.describe(), report.Records, time.Since(began).Round(time.Millisecond/10), s.c.Data)
	if n := report.Expired; n > 0 {
		fmt.Fprintf(w, ", %d expired", n)
	}
	if n := report.Corrupt; n > 0 {
		fmt.Fprintf(w, ", %d damaged and put aside", n)
	}
	fmt.Fprintln(w)
	if aside := s.store.Stats().Quarantined; aside != "" {
		fmt.Fprintf(w, "  WARNING   the data file was damaged; it is now %s\n", aside)
	}
}

// drain lets requests under way end, within drainTime.
func (s *server) drain(front, back *http.Server) error {
	s.draining.Store(true)
	s.log.Info("draining")
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := front.Shutdown(ctx); err != nil {
		s.log.Warn("streams were cut off", "after", drainTime)
		front.Close()
	}
	back.Close()
	s.log.Info("stopped")
	return nil
}

// close releases what newServer has opened.
func (s *server) close() {
	for _, l := range []net.Listener{s.front, s.back} {
		if l != nil {
			l.Close()
		}
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close the data file", "error", err)
		}
	}
}
