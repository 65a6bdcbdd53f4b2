// Command otter prints how the engine's eviction policy does beside LRU and the
// policy of otter v2 (adaptive W-TinyLFU) at the same bytes, on seeded streams.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/semcached/semcached/bench/eviction"
)

// rival is otter's policy.
type rival struct {
	c *otter.Cache[uint64, eviction.Question]
}

func newRival(maxBytes int64) rival {
	return rival{otter.Must(&otter.Options[uint64, eviction.Question]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(_ uint64, q eviction.Question) uint32 { return uint32(q.Bytes) },
		Executor:      func(fn func()) { fn() }, // at once, so that a run can be repeated
	})}
}

// Hit implements eviction.Cache.
func (r rival) Hit(q eviction.Question) bool {
	_, ok := r.c.GetIfPresent(q.Key)
	return ok
}

// Store implements eviction.Cache.
func (r rival) Store(q eviction.Question) {
	r.c.Set(q.Key, q)
	r.c.CleanUp()
}

// Bytes implements eviction.Cache.
func (r rival) Bytes() int64 { return int64(r.c.WeightedSize()) }

func main() {
	requests := flag.Int("requests", 1_000_000, "requests of each stream")
	seed := flag.Uint64("seed", 1, "of streams and policies")
	flag.Parse()
	fmt.Printf("go run . -requests %d -seed %d\n\n", *requests, *seed)
	fmt.Println("| stream | cache | policy | hit rate | of LRU's | model time saved | of LRU's | most bytes | µs/request |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	zipf := eviction.Shape{Seed: *seed, Requests: *requests, Distinct: 100_000, Skew: 0.9}
	scans, shift := zipf, zipf
	scans.ScanShare, scans.ScanRun = 0.5, 10_000
	shift.ScanShare, shift.ScanRun, shift.Shift = 0.3, 5_000, 5_000
	for _, s := range []struct {
		name  string
		shape eviction.Shape
	}{{"zipf", zipf}, {"zipf with scans", scans}, {"zipf with scans, shifting", shift}} {
		for _, mib := range []int64{8, 32, 96} {
			compare(s.name, s.shape, mib<<20)
		}
	}
}

func compare(name string, s eviction.Shape, maxBytes int64) {
	var lru eviction.Result
	for _, p := range []struct {
		name  string
		cache eviction.Cache
	}{{"LRU", eviction.NewLRU(maxBytes)}, {"otter", newRival(maxBytes)}, {"ours", eviction.NewOurs(maxBytes, s.Seed)}} {
		began := time.Now()
		r := eviction.Run(s, p.cache)
		each := time.Since(began).Seconds() * 1e6 / float64(s.Requests)
		if p.name == "LRU" {
			lru = r
		}
		if r.MostBytes > maxBytes+maxBytes/100 {
			fmt.Fprintf(os.Stderr, "%s kept %d bytes of %d\n", p.name, r.MostBytes, maxBytes)
		}
		fmt.Printf("| %s | %d MiB | %s | %.4f | %.2f | %.4f | %.2f | %.1f MiB | %.2f |\n", name, maxBytes>>20, p.name,
			r.HitRate(), r.HitRate()/lru.HitRate(), r.TimeSaved(), r.TimeSaved()/lru.TimeSaved(), float64(r.MostBytes)/(1<<20), each)
	}
}
