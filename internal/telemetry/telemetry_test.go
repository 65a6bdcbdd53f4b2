package telemetry

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/cache"
)

func scrape(t *Telemetry) string {
	w := httptest.NewRecorder()
	t.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func newTelemetry() *Telemetry {
	return New(Options{
		Version: "v1", Backends: []string{"a:1"},
		Cache: func() cache.Stats {
			return cache.Stats{
				Entries: 5, AnswerMemory: 6, AnswerReads: 8, Unsaved: 9, Tenants: []cache.Tenant{{Name: "a", Entries: 3, Bytes: 4}},
				Tiers: map[string]cache.Tier{"flat": {Vectors: 4, Recall: 0.5, Probed: 11, Hot: 12}},
			}
		},
		Store: func() StoreStats {
			return StoreStats{Bytes: 7, Pending: 2, Free: 3, Full: true, Busy: 4, Compactions: 5, Uncovered: 6, SnapshotSince: time.Unix(1000, 0)}
		},
	})
}

func TestEverySeriesIsThereBeforeAnythingHappens(t *testing.T) {
	text := scrape(newTelemetry())
	for _, want := range []string{
		`semcached_requests_total{outcome="hit_exact",route="/api/chat",stream="true"} 0`,
		`semcached_request_duration_seconds_bucket{outcome="miss",route="other",le="1e-05"} 0`,
		`semcached_lookup_duration_seconds_bucket{stage="ann",le="2.5e-07"} 0`,
		`semcached_time_to_first_byte_seconds_count{source="cache"} 0`,
		`semcached_similarity_bucket{decision="reject",le="0.99"} 0`,
		`semcached_bypass_total{reason="load"} 0`, `semcached_store_total{result="stored"} 0`, `semcached_evictions_total{reason="ttl"} 0`,
		`semcached_tokens_saved_total{type="output"} 0`, `semcached_model_seconds_saved_total 0`, `semcached_collapsed_total 0`, `semcached_inflight 0`,
		`semcached_upstream_requests_total{backend="a:1",status_class="5xx"} 0`, `semcached_upstream_ttft_seconds_count{backend="a:1"} 0`,
		`semcached_entries 5`, `semcached_index_vectors{tier="flat"} 4`, `semcached_store_bytes 7`, `semcached_wal_pending 2`, `semcached_ready 1`,
		`semcached_answer_memory_bytes 6`, `semcached_answer_reads_total 8`, `semcached_unsaved_writes 9`, `semcached_tenant_bytes{tenant="a"} 4`, `semcached_tenant_entries{tenant="a"} 3`,
		`semcached_index_recall{tier="flat"} 0.5`, `semcached_index_probed{tier="flat"} 11`, `semcached_index_hot_bytes{tier="flat"} 12`,
		`semcached_store_free_bytes 3`, `semcached_store_full 1`, `semcached_store_busy_total 4`, `semcached_store_compactions_total 5`,
		`semcached_snapshot_uncovered_changes 6`, `semcached_snapshot_timestamp_seconds 1000`, `semcached_evictions_total{reason="admission"} 0`, `semcached_evictions_total{reason="quota"} 0`,
		`semcached_build_info{goversion="go`, `go_goroutines `, `process_start_time_seconds `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestEventsAreCounted(t *testing.T) {
	m := newTelemetry()
	m.Request("/api/chat", "hit_exact", "cache", "", true, time.Millisecond, time.Microsecond)
	m.Request("/evil/"+strings.Repeat("x", 50), "weird", "weird", "weird", false, 1, 1)
	m.Saved(3, 4, 2*time.Second)
	m.Inflight(1)
	m.Collapsed()
	h := m.CacheHooks()
	h.Stage("ann", time.Microsecond)
	h.Similarity(0.95, true)
	h.Evicted("size", 3)
	h.Stored("rejected_size")
	u := m.UpstreamHooks()
	u.Attempt("a:1", 200, time.Second, false)
	u.Attempt("b:2", 0, time.Second, true)
	text := scrape(m)
	for _, want := range []string{
		`semcached_requests_total{outcome="hit_exact",route="/api/chat",stream="true"} 1`,
		`semcached_requests_total{outcome="other",route="other",stream="false"} 1`, `semcached_bypass_total{reason="other"} 1`,
		`semcached_tokens_saved_total{type="input"} 3`, `semcached_model_seconds_saved_total 2`, `semcached_inflight 1`, `semcached_collapsed_total 1`,
		`semcached_lookup_duration_seconds_count{stage="ann"} 1`, `semcached_similarity_count{decision="hit"} 1`,
		`semcached_evictions_total{reason="size"} 3`, `semcached_store_total{result="rejected_size"} 1`,
		`semcached_upstream_requests_total{backend="a:1",status_class="2xx"} 1`, `semcached_upstream_requests_total{backend="other",status_class="canceled"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(text, "evil") || strings.Contains(text, "weird") {
		t.Error("a client made a series of its own")
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := newTelemetry()
	h := m.CacheHooks()
	if n := testing.AllocsPerRun(100, func() {
		m.Request("/api/chat", "hit_exact", "cache", "", true, time.Millisecond, time.Microsecond)
		m.Saved(1, 2, time.Second)
		m.Inflight(1)
		h.Stage("key", time.Microsecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
