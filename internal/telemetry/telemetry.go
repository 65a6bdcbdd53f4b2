// Package telemetry counts what happens, for Prometheus, and traces it, for
// OpenTelemetry.
//
// Names, labels and buckets are part of the product's interface. Every label has
// few values that are known beforehand, so that clients cannot make new series;
// all children are made at the start, so that rates begin at zero and a request
// looks nothing up by name.
package telemetry

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/upstream"
)

// Label values. Whatever else comes is counted as "other".
var (
	routes    = []string{"/api/chat", "/api/generate", "/v1/chat/completions", "other"}
	outcomes  = []string{"hit_exact", "hit_semantic", "stale", "miss", "bypass", "error", "other"}
	stages    = []string{"key", "exact", "embed", "ann", "fetch", "render", "other"}
	sources   = []string{"cache", "ollama", "fallback", "other"}
	bypasses  = []string{"load", "unload", "keep-alive-0", "debug", "context", "tool-result", "n", "logit-bias", "store", "web-search", "model", "malformed", "untranslatable", "content-encoding", "no-store", "mode-off", "loading", "other"}
	evictions = []string{"ttl", "size", "admission", "quota", "invalidate", "model_change", "corrupt", "other"}
	results   = []string{"stored", "rejected_partial", "rejected_size", "rejected_policy", "rejected_error", "other"}
	statuses  = []string{"2xx", "4xx", "5xx", "error", "canceled"}

	fallbackReasons = []string{"dial", "timeout", "broken", "5xx", "breaker", "garbage", "error", "other"}
	fallbackResults = []string{"served", "cached", "stale", "failed", "none", "other"}
	refusals        = []string{"unauthorized", "forbidden", "route", "other"}
	limits          = []string{"rate", "concurrency", "other"}
)

var (
	requestBuckets = []float64{1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	lookupBuckets  = []float64{2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, .025, .1}
	modelBuckets   = []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
	cosineBuckets  = []float64{.5, .6, .7, .8, .85, .88, .9, .91, .92, .93, .94, .95, .96, .97, .98, .99, 1}
)

// Options say where gauges are read from when they are scraped.
type Options struct {
	Version  string
	Revision string
	Backends []string // hosts of the upstreams, for labels
	Cache    func() cache.Stats
	Store    func() StoreStats
}

// Telemetry holds the collectors. It is safe for concurrent use.
type Telemetry struct {
	registry *prometheus.Registry

	requests   map[[3]string]prometheus.Counter // route, outcome, stream
	durations  map[[2]string]prometheus.Observer
	firstByte  map[string]prometheus.Observer
	lookups    map[string]prometheus.Observer
	cosine     map[bool]prometheus.Observer
	bypass     map[string]prometheus.Counter
	stores     map[string]prometheus.Counter
	evictions  map[string]prometheus.Counter
	upRequests map[[2]string]prometheus.Counter
	upTime     map[string]prometheus.Observer
	tokensIn   prometheus.Counter
	tokensOut  prometheus.Counter
	saved      prometheus.Counter
	upWhole    map[string]prometheus.Observer
	inflight   prometheus.Gauge
	collapsed  prometheus.Counter

	breakers    map[string]prometheus.Gauge
	fallbacks   map[[2]string]prometheus.Counter
	refused     map[string]prometheus.Counter
	limited     map[string]prometheus.Counter
	filtered    *prometheus.CounterVec // by the rules of the configuration
	alerts      *prometheus.CounterVec // by its sinks
	dropped     prometheus.Counter
	reloadOK    prometheus.Gauge
	reloadStamp prometheus.Gauge
}

// New returns the collectors in a registry of their own.
func New(o Options) *Telemetry {
	t := &Telemetry{registry: prometheus.NewRegistry()}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	t.registry.MustRegister(&gauges{o: o})
	t.makeRequests()
	t.makeLookups()
	t.makeUpstream(append(append([]string{}, o.Backends...), "other"))
	t.makeGateway()
	info := t.gauge("build_info", "Always 1; the labels tell the build.", prometheus.Labels{
		"version": o.Version, "revision": o.Revision, "goversion": runtime.Version()})
	info.Set(1)
	return t
}

func (t *Telemetry) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "semcached", Name: name, Help: help}, labels)
	t.registry.MustRegister(v)
	return v
}

func (t *Telemetry) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "semcached", Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
	t.registry.MustRegister(v)
	return v
}

func (t *Telemetry) gauge(name, help string, labels prometheus.Labels) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "semcached", Name: name, Help: help, ConstLabels: labels})
	t.registry.MustRegister(g)
	return g
}

func (t *Telemetry) makeRequests() {
	requests := t.counters("requests_total", "Requests by route and outcome.", "route", "outcome", "stream")
	durations := t.histograms("request_duration_seconds", "Time from a request's first byte to its answer's last.", requestBuckets, "route", "outcome")
	t.requests, t.durations = make(map[[3]string]prometheus.Counter), make(map[[2]string]prometheus.Observer)
	for _, r := range routes {
		for _, o := range outcomes {
			t.durations[[2]string{r, o}] = durations.WithLabelValues(r, o)
			for _, s := range []string{"true", "false"} {
				t.requests[[3]string{r, o, s}] = requests.WithLabelValues(r, o, s)
			}
		}
	}
	t.firstByte = observers(t.histograms("time_to_first_byte_seconds", "Time to the answer's head.", requestBuckets, "source"), sources)
	t.bypass = children(t.counters("bypass_total", "Requests that the cache had nothing to do with.", "reason"), bypasses)
	tokens := t.counters("tokens_saved_total", "Tokens that hits did not cost.", "type")
	t.tokensIn, t.tokensOut = tokens.WithLabelValues("input"), tokens.WithLabelValues("output")
	t.saved = t.counters("model_seconds_saved_total", "Model time that hits did not cost.").WithLabelValues()
	t.collapsed = t.counters("collapsed_total", "Requests that joined another's upstream call.").WithLabelValues()
	t.inflight = t.gauge("inflight", "Inference requests under way.", nil)
}

func (t *Telemetry) makeLookups() {
	t.lookups = observers(t.histograms("lookup_duration_seconds", "Time of one step of a lookup.", lookupBuckets, "stage"), stages)
	cosine := t.histograms("similarity", "Cosine of the best candidate at or above the threshold.", cosineBuckets, "decision")
	t.cosine = map[bool]prometheus.Observer{true: cosine.WithLabelValues("hit"), false: cosine.WithLabelValues("reject")}
	t.stores = children(t.counters("store_total", "Answers offered to the cache.", "result"), results)
	t.evictions = children(t.counters("evictions_total", "Entries removed.", "reason"), evictions)
}

func (t *Telemetry) makeUpstream(backends []string) {
	requests := t.counters("upstream_requests_total", "Calls of upstreams.", "backend", "status_class")
	times := t.histograms("upstream_ttft_seconds", "Time to the head of an upstream's answer.", modelBuckets, "backend")
	t.upRequests, t.upTime = make(map[[2]string]prometheus.Counter), observers(times, backends)
	t.upWhole = observers(t.histograms("upstream_duration_seconds", "Time of an upstream's whole answer.", modelBuckets, "backend"), backends)
	states := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "semcached", Name: "breaker_state", Help: "0: used, 1: being tried, 2: left alone."}, []string{"backend"})
	t.registry.MustRegister(states)
	t.breakers = make(map[string]prometheus.Gauge)
	for _, b := range backends {
		t.breakers[b] = states.WithLabelValues(b)
		for _, s := range statuses {
			t.upRequests[[2]string{b, s}] = requests.WithLabelValues(b, s)
		}
	}
}

func (t *Telemetry) makeGateway() {
	fallbacks := t.counters("fallback_total", "Requests that no upstream answered, by why and by how they ended.", "reason", "result")
	t.fallbacks = make(map[[2]string]prometheus.Counter)
	for _, reason := range fallbackReasons {
		for _, result := range fallbackResults {
			t.fallbacks[[2]string{reason, result}] = fallbacks.WithLabelValues(reason, result)
		}
	}
	t.refused = children(t.counters("refused_total", "Requests turned away at the door.", "reason"), refusals)
	t.limited = children(t.counters("rate_limited_total", "Requests beyond a tenant's limits.", "limit"), limits)
	t.filtered = t.counters("filter_matches_total", "Matches of the output filter's rules.", "rule", "action")
	t.alerts = t.counters("alerts_total", "Alerts by sink and by how their delivery ended.", "sink", "result")
	t.dropped = t.counters("call_log_dropped_total", "Lines that the log of calls lost.").WithLabelValues()
	t.reloadOK = t.gauge("config_last_reload_successful", "1 if the last configuration that was read is in force.", nil)
	t.reloadStamp = t.gauge("config_last_reload_success_timestamp_seconds", "When the configuration in force was read.", nil)
}

func children(v *prometheus.CounterVec, values []string) map[string]prometheus.Counter {
	m := make(map[string]prometheus.Counter)
	for _, s := range values {
		m[s] = v.WithLabelValues(s)
	}
	return m
}

func observers(v *prometheus.HistogramVec, values []string) map[string]prometheus.Observer {
	m := make(map[string]prometheus.Observer)
	for _, s := range values {
		m[s] = v.WithLabelValues(s)
	}
	return m
}

// pick returns the child of a label value, or that of "other".
func pick[T any](m map[string]T, value string) T {
	if c, ok := m[value]; ok {
		return c
	}
	return m["other"]
}

// known returns value if it is in list, else "other".
func known(list []string, value string) string {
	for _, v := range list {
		if v == value {
			return value
		}
	}
	return "other"
}

// Handler serves the metrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Request counts a request that has ended. firstByte is 0 if nothing was sent;
// reason is why the cache was bypassed, "" if it was not.
func (t *Telemetry) Request(route, outcome, source, reason string, stream bool, total, firstByte time.Duration) {
	route, outcome = known(routes, route), known(outcomes, outcome)
	t.requests[[3]string{route, outcome, strconv.FormatBool(stream)}].Inc()
	t.durations[[2]string{route, outcome}].Observe(total.Seconds())
	if firstByte > 0 && source != "" {
		pick(t.firstByte, source).Observe(firstByte.Seconds())
	}
	if reason != "" {
		pick(t.bypass, reason).Inc()
	}
}

// Saved counts what a hit did not cost.
func (t *Telemetry) Saved(inputTokens, outputTokens int, model time.Duration) {
	t.tokensIn.Add(float64(inputTokens))
	t.tokensOut.Add(float64(outputTokens))
	t.saved.Add(model.Seconds())
}

// Inflight changes the number of inference requests under way.
func (t *Telemetry) Inflight(delta int) { t.inflight.Add(float64(delta)) }

// Collapsed counts a request that joined another's upstream call.
func (t *Telemetry) Collapsed() { t.collapsed.Inc() }

// Fallback counts a request that no upstream answered.
func (t *Telemetry) Fallback(reason, result string) {
	t.fallbacks[[2]string{known(fallbackReasons, reason), known(fallbackResults, result)}].Inc()
}

// Rendered counts the time that a stored answer took to be written out.
func (t *Telemetry) Rendered(d time.Duration) { t.lookups["render"].Observe(d.Seconds()) }

// Incomplete counts an answer that was not kept because it was not complete.
func (t *Telemetry) Incomplete() { t.stores["rejected_partial"].Inc() }

// Refused counts a request that was turned away.
func (t *Telemetry) Refused(reason string) {
	if c, ok := t.limited[reason]; ok {
		c.Inc()
		return
	}
	pick(t.refused, reason).Inc()
}

// Filtered counts a match of a rule of the output filter.
func (t *Telemetry) Filtered(rule, action string) { t.filtered.WithLabelValues(rule, action).Inc() }

// Rules makes the series of rules before they match.
func (t *Telemetry) Rules(names, actions []string) {
	for i := range names {
		t.filtered.WithLabelValues(names[i], actions[i])
	}
}

// Alerted counts an alert that was sent, or not.
func (t *Telemetry) Alerted(sink, result string) { t.alerts.WithLabelValues(sink, result).Inc() }

// Dropped counts a line that the log of calls lost.
func (t *Telemetry) Dropped() { t.dropped.Inc() }

// Reloaded notes that a configuration was read and whether it is in force.
func (t *Telemetry) Reloaded(ok bool, now time.Time) {
	if !ok {
		t.reloadOK.Set(0)
		return
	}
	t.reloadOK.Set(1)
	t.reloadStamp.Set(float64(now.Unix()))
}

// State notes the state of an upstream's breaker.
func (t *Telemetry) State(backend, state string) {
	pick(t.breakers, backend).Set(map[string]float64{"half-open": 1, "open": 2}[state])
}

// CacheHooks observes the engine.
func (t *Telemetry) CacheHooks() cache.Hooks {
	return cache.Hooks{
		Stage:      func(stage string, d time.Duration) { pick(t.lookups, stage).Observe(d.Seconds()) },
		Similarity: func(cosine float32, served bool) { t.cosine[served].Observe(float64(cosine)) },
		Evicted:    func(reason string, n int) { pick(t.evictions, reason).Add(float64(n)) },
		Stored:     func(result string) { pick(t.stores, result).Inc() },
	}
}

// UpstreamHooks observes calls of upstreams.
func (t *Telemetry) UpstreamHooks() upstream.Hooks {
	return upstream.Hooks{State: t.State, Answered: func(backend string, d time.Duration) {
		pick(t.upWhole, backend).Observe(d.Seconds())
	}, Attempt: func(backend string, status int, d time.Duration, canceled bool) {
		if _, ok := t.upTime[backend]; !ok {
			backend = "other"
		}
		class := "error"
		switch {
		case canceled:
			class = "canceled"
		case status >= 500:
			class = "5xx"
		case status >= 400:
			class = "4xx"
		case status > 0:
			class = "2xx"
		}
		t.upRequests[[2]string{backend, class}].Inc()
		if status > 0 {
			t.upTime[backend].Observe(d.Seconds())
		}
	}}
}
