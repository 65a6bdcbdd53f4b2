package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
	"github.com/semcached/semcached/index"
)

// beyond is what else is measured of our indexes: deletes, lookups beside inserts and on
// two threads, and loading. What was not measured is zero.
type beyond struct {
	shape     vectors.Shape
	n, dims   int
	system    string
	remove    time.Duration // median
	inserts   float64       // a second, reached while lookups were timed:
	hit, miss [2]time.Duration
	one, two  float64 // lookups a second, of one and of two threads
	snapshot  time.Duration
	rows      time.Duration // filling an empty index instead
}

const (
	// insertsBeside is how many vectors are added in a second beside lookups.
	insertsBeside = 1000
	// rounds is how often lookups are counted and loading is timed.
	rounds = 3
	// removals is how many vectors are removed, one timed after the other.
	removals = 1000
)

// pace is for how long something is measured that has no end.
type pace struct {
	lookups time.Duration // each round of lookups on some threads
	inserts time.Duration // lookups beside inserts
}

// measureBeyond leaves the index with fewer vectors.
func measureBeyond(l *local, s *vectors.Set, width int, p pace) (beyond, error) {
	b := beyond{shape: s.Shape, n: s.N, dims: s.Dims, system: l.label}
	if g, ok := l.ix.(interface{ SetSearch(int) }); ok {
		g.SetSearch(width)
	}
	for range rounds {
		b.one = max(b.one, lookupRate(l.ix, s, 1, p.lookups))
		b.two = max(b.two, lookupRate(l.ix, s, 2, p.lookups))
	}
	if err := b.load(l, s); err != nil {
		return b, err
	}
	if err := b.besideInserts(l.ix, s, p.inserts); err != nil {
		return b, err
	}
	times := make([]time.Duration, 0, removals)
	for i := range min(removals, s.N) {
		start := time.Now()
		l.ix.Remove(uint64(i * (s.N / min(removals, s.N))))
		times = append(times, time.Since(start))
	}
	b.remove = quantile(times, 0.5)
	return b, nil
}

// question returns the i-th of hits and misses in turn.
func question(s *vectors.Set, i int) []float32 {
	if i%2 == 0 {
		return s.Hits.Vectors[i/2%len(s.Hits.Vectors)]
	}
	return s.Misses.Vectors[i/2%len(s.Misses.Vectors)]
}

// lookupRate counts lookups a second.
func lookupRate(ix index.Index, s *vectors.Set, threads int, round time.Duration) float64 {
	var total atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for t := range threads {
		wg.Go(func() {
			hits := make([]index.Hit, 0, 1)
			i := t * len(s.Hits.Vectors) // each thread begins elsewhere
			for time.Since(start) < round {
				for range 16 {
					hits, _ = ix.Search(hits[:0], question(s, i), vectors.Threshold, 1)
					i++
				}
				total.Add(16)
			}
		})
	}
	wg.Wait()
	return float64(total.Load()) / time.Since(start).Seconds()
}

// besideInserts times lookups while vectors are added, and removes these again.
func (b *beyond) besideInserts(ix index.Index, s *vectors.Set, beside time.Duration) error {
	count := int(beside.Seconds() * insertsBeside)
	fresh := make([][]float32, count)
	for i := range fresh {
		fresh[i] = s.Fresh(i)
	}
	start := time.Now()
	added := make(chan error, 1)
	go func() {
		defer close(added)
		for i, v := range fresh {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / insertsBeside)))
			if err := ix.Add(uint64(s.N+i), v); err != nil {
				added <- fmt.Errorf("add beside lookups: %w", err)
				return
			}
		}
	}()
	times := [2][]time.Duration{}
	hits := make([]index.Hit, 0, 1)
	var err error
	for i, adding := 0, true; adding; i++ {
		q := question(s, i)
		begin := time.Now()
		hits, _ = ix.Search(hits[:0], q, vectors.Threshold, 1)
		times[i%2] = append(times[i%2], time.Since(begin))
		select {
		case err = <-added:
			adding = false
		default:
		}
	}
	b.inserts = float64(count) / time.Since(start).Seconds()
	b.hit = [2]time.Duration{quantile(times[0], 0.5), quantile(times[0], 0.99)}
	b.miss = [2]time.Duration{quantile(times[1], 0.5), quantile(times[1], 0.99)}
	for i := range fresh {
		ix.Remove(uint64(s.N + i))
	}
	return err
}

// load times reading a snapshot from the page cache, and filling an index from vectors in
// memory where that is a matter of seconds: both until questions are answered.
func (b *beyond) load(l *local, s *vectors.Set) error {
	f, err := os.CreateTemp("", "semcached-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := l.ix.Snapshot(f); err != nil {
		return err
	}
	ready := func(ix index.Index) error {
		hits, err := ix.Search(nil, s.Hits.Vectors[0], vectors.Threshold, 1)
		if err == nil && (ix.Len() != s.N || len(hits) != 1) {
			err = fmt.Errorf("%s has %d vectors after loading, want %d", l.label, ix.Len(), s.N)
		}
		return err
	}
	var snapshot, rows []time.Duration
	for range rounds {
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
		start := time.Now()
		ix, err := l.load(f)
		if err == nil {
			err = ready(ix)
		}
		if err != nil {
			return err
		}
		snapshot = append(snapshot, time.Since(start))
		if l.graph {
			continue
		}
		other := *l
		other.ix = l.make(s.Dims)
		start = time.Now()
		if err := other.add(s, 0, s.N, 1); err != nil {
			return err
		}
		if err := ready(other.ix); err != nil {
			return err
		}
		rows = append(rows, time.Since(start))
	}
	b.snapshot, b.rows = quantile(snapshot, 0.5), quantile(rows, 0.5)
	return nil
}

// beyondHead is the beginning of the second table.
func beyondHead() string {
	cells := []string{"data", "n×dims", "index", "delete µs", "inserts/s beside", "hits p50, p99 µs", "misses p50, p99 µs", "lookups/s", "two threads", "load snapshot s", "load rows s"}
	return "\n| " + strings.Join(cells, " | ") + " |\n|" + strings.Repeat("---|", len(cells)) + "\n"
}

func (b beyond) String() string {
	rows := "–"
	if b.rows > 0 {
		rows = fmt.Sprintf("%.2f", b.rows.Seconds())
	}
	return fmt.Sprintf("| %s | %d×%d | %s | %.2f | %.0f | %.1f, %.1f | %.1f, %.1f | %.0f | ×%.2f | %.2f | %s |\n",
		b.shape, b.n, b.dims, b.system, us(b.remove), b.inserts, us(b.hit[0]), us(b.hit[1]), us(b.miss[0]), us(b.miss[1]),
		b.one, b.two/b.one, b.snapshot.Seconds(), rows)
}
