package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/semcached/semcached/cache"
)

// StoreStats is what is shown of the store.
type StoreStats struct {
	Bytes, Free   int64 // of the data file
	Pending       int64 // queued writes
	Corrupt       int64 // damaged records
	Failed, Busy  int64 // writes that failed, or found the queue full
	Full          bool  // there is no room
	Compactions   int64
	Uncovered     uint64    // changes since the last snapshot
	SnapshotSince time.Time // when it was made, zero if there is none
}

// gauges reads the sizes of things when it is scraped.
type gauges struct{ o Options }

// figure is one number to be read at a scrape.
type figure[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*T) float64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("semcached_"+name, help, labels, nil)
}

func gaugeOf[T any](name, help string, read func(*T) float64) figure[T] {
	return figure[T]{desc(name, help), prometheus.GaugeValue, read}
}

func counterOf[T any](name, help string, read func(*T) float64) figure[T] {
	return figure[T]{desc(name, help), prometheus.CounterValue, read}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

type cacheStats = cache.Stats

var cacheFigures = []figure[cacheStats]{
	gaugeOf("ready", "1 when the entries are loaded.", func(s *cacheStats) float64 { return truth(!s.Loading) }),
	gaugeOf("entries", "Entries of the cache.", func(s *cacheStats) float64 { return float64(s.Entries) }),
	gaugeOf("entry_bytes", "Bytes of all entries, in memory and on disk.", func(s *cacheStats) float64 { return float64(s.Bytes) }),
	gaugeOf("entry_bytes_max", "Bytes that all entries may take.", func(s *cacheStats) float64 { return float64(s.MaxBytes) }),
	gaugeOf("partitions", "Partitions with vectors.", func(s *cacheStats) float64 { return float64(s.Partitions) }),
	gaugeOf("answer_bytes", "Bytes of all answers, in memory or not.", func(s *cacheStats) float64 { return float64(s.AnswerBytes) }),
	gaugeOf("answers_held", "Answers in memory.", func(s *cacheStats) float64 { return float64(s.AnswersHeld) }),
	gaugeOf("answer_memory_bytes", "Bytes of the answers in memory.", func(s *cacheStats) float64 { return float64(s.AnswerMemory) }),
	gaugeOf("answer_memory_bytes_max", "Bytes that answers may take in memory.", func(s *cacheStats) float64 { return float64(s.AnswerMemoryMax) }),
	counterOf("answer_reads_total", "Answers that were read from the store.", func(s *cacheStats) float64 { return float64(s.AnswerReads) }),
	counterOf("unembedded_total", "Entries left exact-only because no vector could be had.", func(s *cacheStats) float64 { return float64(s.Unembedded) }),
	gaugeOf("unsaved_writes", "Writes that failed and will be tried again.", func(s *cacheStats) float64 { return float64(s.Unsaved) }),
}

var storeFigures = []figure[StoreStats]{
	gaugeOf("store_bytes", "Size of the data file.", func(s *StoreStats) float64 { return float64(s.Bytes) }),
	gaugeOf("store_free_bytes", "Bytes of the data file that are free for new records.", func(s *StoreStats) float64 { return float64(s.Free) }),
	gaugeOf("store_full", "1 while the last commit failed for want of room.", func(s *StoreStats) float64 { return truth(s.Full) }),
	gaugeOf("wal_pending", "Writes that wait for a commit.", func(s *StoreStats) float64 { return float64(s.Pending) }),
	counterOf("store_corrupt_records_total", "Damaged records met since the start.", func(s *StoreStats) float64 { return float64(s.Corrupt) }),
	counterOf("store_failed_writes_total", "Writes that did not reach the disk.", func(s *StoreStats) float64 { return float64(s.Failed) }),
	counterOf("store_busy_total", "Writes refused because the queue was full.", func(s *StoreStats) float64 { return float64(s.Busy) }),
	counterOf("store_compactions_total", "Compactions of the data file.", func(s *StoreStats) float64 { return float64(s.Compactions) }),
	gaugeOf("snapshot_uncovered_changes", "Changes that a start would have to replay.", func(s *StoreStats) float64 { return float64(s.Uncovered) }),
	gaugeOf("snapshot_timestamp_seconds", "When the last snapshot was made; 0 if there is none.", func(s *StoreStats) float64 {
		if s.SnapshotSince.IsZero() {
			return 0
		}
		return float64(s.SnapshotSince.Unix())
	}),
}

// tierFigures are by kind of index.
var tierFigures = []struct {
	desc *prometheus.Desc
	read func(cache.Tier) float64
}{
	{desc("index_vectors", "Vectors by kind of index.", "tier"), func(t cache.Tier) float64 { return float64(t.Vectors) }},
	{desc("index_tombstones", "Deleted vectors that still take room.", "tier"), func(t cache.Tier) float64 { return float64(t.Tombstones) }},
	{desc("index_bytes", "Memory of the indexes.", "tier"), func(t cache.Tier) float64 { return float64(t.Bytes) }},
	{desc("index_hot_bytes", "Memory of the indexes that every search reads.", "tier"), func(t cache.Tier) float64 { return float64(t.Hot) }},
	{desc("index_recall", "Lowest share of questions answered as an exact search answers them, in the last comparisons.", "tier"), func(t cache.Tier) float64 { return t.Recall }},
	{desc("index_probed", "Questions of those comparisons; 0 if there were none.", "tier"), func(t cache.Tier) float64 { return float64(t.Probed) }},
}

// Tenants are the largest ten only, so that there are few series at a time.
var (
	descTenantBytes   = desc("tenant_bytes", "Bytes of the entries of the tenants with the most of them.", "tenant")
	descTenantEntries = desc("tenant_entries", "Their entries.", "tenant")
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range cacheFigures {
		ch <- f.desc
	}
	for _, f := range storeFigures {
		ch <- f.desc
	}
	for _, f := range tierFigures {
		ch <- f.desc
	}
	ch <- descTenantBytes
	ch <- descTenantEntries
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if g.o.Cache != nil {
		s := g.o.Cache()
		for _, f := range cacheFigures {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&s))
		}
		for tier, t := range s.Tiers {
			for _, f := range tierFigures {
				gauge(f.desc, f.read(t), tier)
			}
		}
		for _, t := range s.Tenants {
			gauge(descTenantBytes, float64(t.Bytes), t.Name)
			gauge(descTenantEntries, float64(t.Entries), t.Name)
		}
	}
	if g.o.Store != nil {
		s := g.o.Store()
		for _, f := range storeFigures {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&s))
		}
	}
}
