package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/api"
	"github.com/semcached/semcached/api/admin"
	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/index/hnsw"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/internal/alert"
	"github.com/semcached/semcached/internal/calllog"
	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/embedder"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/span"
	"github.com/semcached/semcached/internal/telemetry"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
	"github.com/semcached/semcached/store/mem"
)

const (
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
	level := new(slog.LevelVar)
	level.Set(levels[c.LogLevel])
	s, err := newServer(c, logger(c, level, env.stderr))
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitFailed
	}
	s.env, s.level = env, level
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
	alerts   *alert.Notifier
	calls    *calllog.Log // nil: none
	tracer   span.Tracer  // nil: none
	stopper  func(context.Context) error
	draining atomic.Bool
	services sync.WaitGroup

	// The rest changes when the configuration is read again.
	env    environment
	level  *slog.LevelVar // nil: fixed
	policy atomic.Pointer[policy]
	via    string // our name in Via headers
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
	s := &server{c: c, log: log, via: proxy.NewPseudonym()}
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
	path := filepath.Join(c.Data, dataFile)
	s, err := bolt.Open(bolt.Options{Path: path, MaxSize: c.MaxFile, Log: log})
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
	if s.c.Fallback != nil {
		hosts = append(hosts, s.c.Fallback.URL.Host)
	}
	s.metrics = telemetry.New(telemetry.Options{
		Version: version, Revision: revision(), Backends: hosts,
		Cache: func() cache.Stats { return s.engine.Stats() }, Store: s.storeStats,
	})
	s.alerts = alert.New(alert.Options{Instance: instance(), Sent: s.metrics.Alerted, Log: s.log})
	s.pool, err = upstream.New(upstream.Options{
		URLs: s.c.Upstreams, HeaderTimeout: s.c.FirstByteTimeout, BreakerFailures: s.c.BreakerFailures,
		BreakerDelay: s.c.BreakerDelay, ProbeEvery: s.c.ProbeInterval, Hooks: s.upstreamHooks(), Log: s.log,
	})
	if err != nil {
		return err
	}
	if s.c.Tracing {
		if s.tracer, s.stopper, err = telemetry.NewTracer(context.Background(), version, s.log); err != nil {
			return err
		}
	}
	if s.c.TraceFile != "" {
		if s.calls, err = calllog.New(calllog.Options{Path: s.c.TraceFile, Dropped: s.metrics.Dropped, Log: s.log}); err != nil {
			return err
		}
	}
	if s.embed, err = newEmbedder(s.c); err != nil {
		return err
	}
	answers := s.c.AnswerMemory
	if s.c.Data == inMemory {
		answers = s.c.MaxBytes // the store holds them in memory anyway
	}
	fresh, load := indexes(s.c.Index)
	s.engine, err = cache.New(cache.Options{
		Store: s.store, NewIndex: fresh, LoadIndex: load, Embedder: s.traced(embedder.NewMemo(s.embed, memoBytes)), Threshold: s.c.Threshold,
		TTL: s.c.TTL, KeepStale: s.c.StaleIfError, MaxBytes: s.c.MaxBytes, AnswerMemory: answers, EmbedTimeout: s.c.EmbedTimeout, Hooks: s.metrics.CacheHooks(), Log: s.log,
	})
	if err != nil {
		return err
	}
	return s.apply(s.c)
}

func instance() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func (s *server) storeStats() telemetry.StoreStats {
	st := s.store.Stats()
	return telemetry.StoreStats{
		Bytes: st.Bytes, Free: st.Free, Pending: int64(st.Pending), Corrupt: st.Corrupt, Failed: st.Failed, Busy: st.Busy, Full: st.Full,
		Compactions: st.Compactions, Uncovered: st.Seq - min(st.SnapshotSeq, st.Seq), SnapshotSince: st.SnapshotAt,
	}
}

// indexes returns the constructor of --index and what reads its snapshots. auto is the
// sketch, which is a flat scan while there are few vectors.
func indexes(kind string) (fresh func(dims int) index.Index, load func(io.Reader) (index.Index, error)) {
	switch kind {
	case "coder":
		return func(dims int) index.Index { return coder.New(dims) }, func(r io.Reader) (index.Index, error) { return coder.Load(r) }
	case "hnsw":
		return func(dims int) index.Index { return hnsw.New(dims) }, func(r io.Reader) (index.Index, error) { return hnsw.Load(r) }
	case "flat":
		return func(dims int) index.Index { return index.NewFlat(dims) }, func(r io.Reader) (index.Index, error) { return index.LoadFlat(r) }
	}
	return func(dims int) index.Index { return sketch.New(dims) }, func(r io.Reader) (index.Index, error) { return sketch.Load(r) }
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
	base, cutOff := context.WithCancelCause(context.Background())
	defer cutOff(nil)
	front, back := s.servers(base)
	// The store outlives the requests, whose answers it still has to write.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	storeDone := make(chan error, 1)
	go func() { storeDone <- s.store.Run(storeCtx) }()
	defer func() { stopStore(); <-storeDone }()

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stopWork()
		s.services.Wait()
		if ctx.Err() != nil {
			s.snapshot()
		}
	}()
	s.background(work, s.engine.Run, s.pool.Run, s.embed.run, s.alerts.Run, s.watch)
	if s.calls != nil {
		s.background(work, s.calls.Run)
	}

	failed := make(chan error, 2)
	go func() {
		if front.TLSConfig != nil {
			failed <- front.ServeTLS(s.front, "", "")
			return
		}
		failed <- front.Serve(s.front)
	}()
	go func() { failed <- back.Serve(s.back) }()
	s.services.Go(func() { s.start(work, banner) })
	select {
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	s.drain(front, back, cutOff)
	return nil
}

func (s *server) background(ctx context.Context, services ...func(context.Context) error) {
	for _, f := range services {
		if f != nil {
			s.services.Go(func() { f(ctx) })
		}
	}
}

// servers makes the two HTTP servers. Neither bounds how long an answer may take:
// streams last. Slow clients are bounded chunk by chunk in package proxy. The
// clients' requests end with base.
func (s *server) servers(base context.Context) (front, back *http.Server) {
	o := admin.Options{Ready: s.ready, Metrics: s.metrics.Handler(), Version: version}
	if b, ok := s.store.(interface{ Backup(w io.Writer) error }); ok {
		o.Backup, o.DataFile = b.Backup, s.store.Stats().Path
	}
	operators := admin.New(o)
	if config.Loopback(s.back.Addr().String()) {
		operators = api.GuardHost(operators)
	}
	front = httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.policy.Load().handler.ServeHTTP(w, r) }), s.log)
	front.BaseContext = func(net.Listener) context.Context { return base }
	if s.c.TLSCert != "" {
		front.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.policy.Load().cert, nil
		}}
	}
	return front, httpServer(operators, s.log)
}

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (s *server) ready() (bool, map[string]string) {
	detail := map[string]string{"cache": "ready", "server": "serving", "upstreams": "answering"}
	if s.pool.Open() {
		detail["upstreams"] = "down" // stored answers and the fallback still serve
	}
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
	address, value := "http://"+s.front.Addr().String(), s.front.Addr().String()
	if s.c.TLSCert != "" {
		address = "https://" + value
		value = address
	}
	fmt.Fprintf(w, "semcached %s\n  clients   %s   (OLLAMA_HOST=%s)\n  admin     http://%s\n", version, address, value, s.back.Addr())
	s.tell(w)
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
	if report.Snapshot {
		fmt.Fprintf(w, ", by a snapshot and %d changes", report.Replayed)
	}
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

// lastWords is the time beyond the drain time in which streams say that they end.
const lastWords = 3 * time.Second

// drain lets requests under way end within the drain time. What takes longer ends
// with an error that says why.
func (s *server) drain(front, back *http.Server, cutOff context.CancelCauseFunc) {
	s.draining.Store(true)
	s.log.Info("draining")
	done := make(chan struct{})
	go func() {
		front.Shutdown(context.Background())
		close(done)
	}()
	patience, cancel := s.patience(s.c.DrainTime)
	defer cancel()
	select {
	case <-done:
	case <-patience.Done():
		s.log.Warn("answers under way are cut off", "after at most", s.c.DrainTime)
		cutOff(proxy.ErrShutdown)
		select {
		case <-done:
		case <-time.After(lastWords):
			front.Close()
		}
	}
	back.Close()
	if s.stopper != nil {
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		if err := s.stopper(ctx); err != nil {
			s.log.Warn("traces were lost", "error", err)
		}
	}
	s.log.Info("stopped")
}

// patience ends after d, or as soon as there is a hurry.
func (s *server) patience(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	go func() {
		select {
		case <-s.env.hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// snapshotTime bounds the snapshot at the end: 2 GB, on a slow disk.
const snapshotTime = 30 * time.Second

// snapshot saves what makes the next start fast, unless there is a hurry.
func (s *server) snapshot() {
	if s.c.Data == inMemory {
		return
	}
	ctx, cancel := s.patience(snapshotTime)
	defer cancel()
	s.store.Sync(ctx) // a failure is told by the snapshot
	if ctx.Err() != nil || !s.engine.SnapshotWorthwhile() {
		return
	}
	began := time.Now()
	if err := s.engine.Snapshot(ctx); err != nil {
		s.log.Warn("no snapshot: the next start takes longer", "error", err)
		return
	}
	s.log.Info("snapshot saved", "took", time.Since(began).Round(time.Millisecond))
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
	if p := s.policy.Load(); p != nil && p.fallback != nil {
		p.fallback.Pool.Close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close the data file", "error", err)
		}
	}
}
