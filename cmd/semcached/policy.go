package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/semcached/semcached/api"
	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/alert"
	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/tenant"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/internal/wire"
)

// policy is the part of a server that a new configuration replaces as a whole.
type policy struct {
	c        *config.Config
	handler  http.Handler
	tenants  *tenant.Set
	fallback *proxy.Fallback
	cert     *tls.Certificate
}

// apply builds the policy of c and puts it in force. Requests under way end under
// the old one. On an error the old one stays.
func (s *server) apply(c *config.Config) error {
	old := s.policy.Load()
	p, err := s.build(c, old)
	if err != nil {
		return err
	}
	s.policy.Store(p)
	s.engine.Configure(c.Threshold, c.TTL)
	s.engine.SetQuotas(quotas(c))
	s.alerts.Configure(c.Alerts.HoldDown, sinks(c.Alerts))
	if s.level != nil {
		s.level.Set(levels[c.LogLevel])
	}
	s.metrics.Reloaded(true, time.Now())
	return nil
}

func quotas(c *config.Config) map[string]cache.Quota {
	all := make(map[string]cache.Quota)
	for name, q := range c.Quotas {
		all[name] = cache.Quota{Bytes: q.MaxBytes, Entries: q.MaxEntries}
	}
	return all
}

// build makes a policy and changes nothing.
func (s *server) build(c *config.Config, old *policy) (_ *policy, err error) {
	p := &policy{c: c}
	var was *tenant.Set
	if old != nil {
		was = old.tenants
	}
	if p.tenants, err = tenant.New(c.Tenants, was); err != nil {
		return nil, err
	}
	f, err := s.filter(c)
	if err != nil {
		return nil, err
	}
	if p.fallback, err = s.fallback(c, old); err != nil {
		return nil, err
	}
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("tls-cert: %w", err)
		}
		p.cert = &cert
	}
	proxied, err := proxy.New(proxy.Options{
		Engine: s.engine, Upstream: s.pool, MaxBody: c.MaxBody, Sync: c.Durability == "sync", Fallback: p.fallback, Filter: f,
		Pseudonym: s.via, Tracer: s.tracer, Hooks: s.proxyHooks(c), Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	p.handler, err = api.New(api.Options{
		Proxy: proxied, Engine: s.engine, MaxBody: c.MaxBody, Loopback: config.Loopback(s.front.Addr().String()), Origins: c.Origins,
		Tenants: p.tenants, Routes: c.Routes, TLS: c.TLSCert != "", Refused: s.metrics.Refused, Log: s.log,
	})
	return p, err
}

// filter returns the output filter, nil if there are no rules.
func (s *server) filter(c *config.Config) (*filter.Filter, error) {
	if len(c.Rules) == 0 {
		return nil, nil
	}
	f, err := filter.New(c.Rules)
	if err != nil {
		return nil, err
	}
	names, actions := f.Rules()
	words := make([]string, len(actions))
	for i, a := range actions {
		words[i] = a.String()
	}
	s.metrics.Rules(names, words)
	return f, nil
}

// fallback returns who steps in. As long as its URL stays, so does what is known of
// its health.
func (s *server) fallback(c *config.Config, old *policy) (*proxy.Fallback, error) {
	in := c.Fallback
	if in == nil {
		return nil, nil
	}
	f := &proxy.Fallback{Host: in.URL.Host, Key: string(in.Key), MaxTokens: in.MaxTokens, Models: make(map[string]string)}
	for name, to := range in.Models {
		if name != "*" {
			name = wire.FoldModel(name)
		}
		f.Models[name] = to
	}
	if old != nil && old.fallback != nil && old.c.Fallback.URL.String() == in.URL.String() {
		f.Pool = old.fallback.Pool
		return f, nil
	}
	var err error
	f.Pool, err = upstream.New(upstream.Options{
		URLs: []*url.URL{in.URL}, HeaderTimeout: min(c.FirstByteTimeout, fallbackTimeout), BreakerFailures: c.BreakerFailures, BreakerDelay: c.BreakerDelay,
		Proxy: http.ProxyFromEnvironment, Hooks: s.fallbackHooks(), Log: s.log,
	})
	return f, err
}

// fallbackTimeout bounds the wait for the first byte of a fallback, which has its
// models loaded.
const fallbackTimeout = 2 * time.Minute

// sinks returns who is told of alerts.
func sinks(a config.Alerts) (all []alert.Sink) {
	if w := a.Webhook; w != nil {
		all = append(all, alert.NewWebhook(string(w.URL), w.Format == "slack"))
	}
	if m := a.SMTP; m != nil {
		all = append(all, alert.NewMail(alert.Mail{Addr: m.Addr, From: m.From, To: m.To, Username: m.Username, Password: string(m.Password)}))
	}
	return all
}

// watchEvery is how often the files of the configuration are looked at. Their
// contents are compared: that works with editors that rename, with the symbolic
// links of Kubernetes, and with network file systems.
const watchEvery = 2 * time.Second

// watch reads the configuration again when asked to and when one of its files has
// changed, until ctx ends.
func (s *server) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	files := looks{seen: s.fingerprint()}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.env.reload:
			files.seen = s.fingerprint() // before: what changes during the reading is seen later
			s.reload("signal")
		case <-tick.C:
			if files.changed(s.fingerprint()) {
				s.reload("file")
			}
		}
	}
}

// looks tells when files have changed.
type looks struct {
	seen fingerprint // when the files were read
	last fingerprint // at the last look
}

// changed reports whether the files are other ones than those that were read, and have
// been the same for two looks: an editor may have emptied one and be about to write it.
func (l *looks) changed(now fingerprint) bool {
	still := now == l.last
	l.last = now
	if now == l.seen || !still {
		return false
	}
	l.seen = now
	return true
}

type fingerprint [sha256.Size]byte

// fingerprint is a hash of the configuration's files.
func (s *server) fingerprint() (sum fingerprint) {
	h := sha256.New()
	c := s.policy.Load().c
	for _, name := range []string{c.File, c.TLSCert, c.TLSKey} {
		if name == "" || s.env.readFile == nil {
			continue
		}
		raw, err := s.env.readFile(name)
		fmt.Fprintf(h, "%s %d %v\n", name, len(raw), err == nil)
		h.Write(raw)
	}
	h.Sum(sum[:0])
	return sum
}

// reload reads the configuration again. With a mistake in it the old one stays.
func (s *server) reload(why string) {
	var told strings.Builder
	env := s.env
	env.stderr = &told
	c, _, ok := load(env)
	if !ok {
		s.metrics.Reloaded(false, time.Now())
		s.log.Error("the new configuration has mistakes; the old one stays in force", "because", why, "mistakes", strings.TrimSpace(told.String()))
		return
	}
	fixed := s.fixed(c)
	if err := s.apply(c); err != nil {
		s.metrics.Reloaded(false, time.Now())
		s.log.Error("the new configuration cannot be used; the old one stays in force", "because", why, "error", err)
		return
	}
	if len(fixed) > 0 {
		s.log.Warn("these settings take a restart", "settings", strings.Join(fixed, ", "))
	}
	s.log.Info("the configuration was read again", "because", why)
}

// fixed names the settings that differ and that only a restart changes.
func (s *server) fixed(c *config.Config) (names []string) {
	was := s.c
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"listen", was.Listen, c.Listen}, {"admin", was.Admin, c.Admin}, {"upstream", fmt.Sprint(was.Upstreams), fmt.Sprint(c.Upstreams)},
		{"data", was.Data, c.Data}, {"embedder", was.Embedder, c.Embedder}, {"embed-timeout", was.EmbedTimeout, c.EmbedTimeout}, {"index", was.Index, c.Index},
		{"max-bytes", was.MaxBytes, c.MaxBytes}, {"answer-memory", was.AnswerMemory, c.AnswerMemory}, {"max-file", was.MaxFile, c.MaxFile}, {"log-format", was.LogFormat, c.LogFormat}, {"openai", was.OpenAIURL + string(was.OpenAIKey), c.OpenAIURL + string(c.OpenAIKey)},
		{"tls", was.TLSCert == "", c.TLSCert == ""}, {"stale-if-error", was.StaleIfError, c.StaleIfError}, {"first-byte-timeout", was.FirstByteTimeout, c.FirstByteTimeout},
		{"probe-interval", was.ProbeInterval, c.ProbeInterval}, {"breaker", []any{was.BreakerFailures, was.BreakerDelay}, []any{c.BreakerFailures, c.BreakerDelay}},
		{"trace-file", was.TraceFile, c.TraceFile}, {"drain-time", was.DrainTime, c.DrainTime},
	} {
		if !reflect.DeepEqual(f.a, f.b) {
			names = append(names, f.name)
		}
	}
	return names
}

// tell prints what of the configuration people should see at the start.
func (s *server) tell(w io.Writer) {
	c := s.c
	if f := c.Fallback; f != nil {
		names := slices.Sorted(maps.Keys(f.Models))
		fmt.Fprintf(w, "  fallback  %s   for %s\n", f.URL.Redacted(), strings.Join(names, ", "))
	}
	if n := s.policy.Load().tenants.Len(); n > 0 {
		fmt.Fprintf(w, "  keys      %d; nobody is served without one\n", n)
	}
	if len(c.Rules) > 0 {
		fmt.Fprintf(w, "  filter    %d rules\n", len(c.Rules))
	}
	if c.TraceFile != "" {
		fmt.Fprintf(w, "  call log  %s\n", c.TraceFile)
	}
}
