package eviction

import "testing"

// TestScansCostOursLess plays a short stream with scans; the policies are seeded, so
// that it comes out the same each time. The long run beside otter's policy is the
// command in bench/eviction/otter.
func TestScansCostOursLess(t *testing.T) {
	s := Shape{Seed: 3, Requests: 150_000, Distinct: 30_000, Skew: 0.9, ScanShare: 0.5, ScanRun: 4000}
	const budget = 12 << 20
	lru, ours := Run(s, NewLRU(budget)), Run(s, NewOurs(budget, 3))
	t.Logf("hit rate: LRU %.4f, ours %.4f; model time saved: LRU %.4f, ours %.4f", lru.HitRate(), ours.HitRate(), lru.TimeSaved(), ours.TimeSaved())
	if ours.HitRate() < 1.2*lru.HitRate() {
		t.Errorf("hit rate %.4f, LRU's %.4f", ours.HitRate(), lru.HitRate())
	}
	if ours.TimeSaved() < 1.2*lru.TimeSaved() {
		t.Errorf("model time saved %.4f, LRU's %.4f", ours.TimeSaved(), lru.TimeSaved())
	}
	for name, r := range map[string]Result{"LRU": lru, "ours": ours} {
		if r.MostBytes > budget {
			t.Errorf("%s kept %d bytes of %d", name, r.MostBytes, budget)
		}
	}
	if again := Run(s, NewOurs(budget, 3)); again != ours {
		t.Errorf("the second run differs: %+v, %+v", ours, again)
	}
}

// TestStreamHasItsShape checks the input: as many one-off questions as asked for, and
// the same stream each time.
func TestStreamHasItsShape(t *testing.T) {
	s := Shape{Seed: 1, Requests: 100_000, Distinct: 1000, Skew: 1, ScanShare: 0.3, ScanRun: 500}
	first := make(map[uint64]int)
	var order []uint64
	s.Stream(func(q Question) {
		first[q.Key]++
		order = append(order, q.Key)
		if q != question(q.Key) || q.Bytes < 2500 || q.Cost <= 0 {
			t.Fatalf("%+v", q)
		}
	})
	once := 0
	for key, n := range first {
		if key > 1000 {
			if once++; n != 1 {
				t.Fatalf("a one-off question came %d times", n)
			}
		}
	}
	if share := float64(once) / float64(s.Requests); share < 0.25 || share > 0.35 {
		t.Errorf("%.2f of the requests are one-off", share)
	}
	if ratio := float64(first[1]) / float64(first[10]); ratio < 7 || ratio > 14 {
		t.Errorf("the first is asked %.1f times as often as the tenth, want 10", ratio)
	}
	i := 0
	s.Stream(func(q Question) {
		if q.Key != order[i] {
			t.Fatal("the second stream differs")
		}
		i++
	})
}
