package sketch

import (
	"cmp"
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
	"github.com/semcached/semcached/index"
)

var slowestOf = flag.Int("vectors", 100_000, "how many vectors BenchmarkSlowest asks among")

// BenchmarkSlowest asks questions that nothing is near to, on clustered data, of three
// kinds: all, the median twentieth, and the slowest hundredth. A profile of one of them
// (-bench Slowest/slowest -cpuprofile) says where the time of the tail goes; lists/op,
// codes/op, whole/op and rows/op say what was looked at.
func BenchmarkSlowest(b *testing.B) {
	const dims, count = 384, 1000
	n := *slowestOf
	if testing.Short() {
		n = min(n, 10_000)
	}
	s := vectors.New(vectors.Clustered, n, dims, count, 1)
	ix := New(dims)
	for i := range n {
		ix.Add(uint64(i), s.Row(i))
	}
	settle(b, ix)
	questions := slices.Clone(s.Misses.Vectors)
	times := make(map[*float32]time.Duration, count)
	room := make([]index.Hit, 0, 1)
	for range 5 { // the least time of each: the question's own
		for _, q := range questions {
			start := time.Now()
			ix.Search(room, q, benchThreshold, 1)
			if d := time.Since(start); times[&q[0]] == 0 || d < times[&q[0]] {
				times[&q[0]] = d
			}
		}
	}
	slices.SortFunc(questions, func(p, q []float32) int { return cmp.Compare(times[&p[0]], times[&q[0]]) })
	for _, part := range []struct {
		name     string
		from, to int
	}{{"all", 0, count}, {"median", count * 475 / 1000, count * 525 / 1000}, {"slowest", count * 99 / 100, count}} {
		b.Run(part.name, func(b *testing.B) {
			some, i := questions[part.from:part.to], 0
			search := borrow()
			defer search.release()
			search.did = work{}
			for b.Loop() {
				search.run(ix, room, some[i%len(some)], benchThreshold, 1)
				i++
			}
			did := search.did
			for unit, n := range map[string]int{"lists/op": did.lists, "codes/op": did.codes, "whole/op": did.whole, "rows/op": did.rows} {
				b.ReportMetric(float64(n)/float64(i), unit)
			}
		})
	}
}
