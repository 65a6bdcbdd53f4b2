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
	inserts   float64       // a second, reached while lookups were timed
	beside    tails         // of lookups meanwhile
	alone     tails         // of lookups in between
	one, two  float64       // lookups a second, of one and of two threads
	processor float64       // work that two threads do which share nothing, times that of one
	snapshot  time.Duration
	rows      time.Duration // filling an empty index instead
}

// tails are p50 and p99 of hits, of misses, and of work that is always the same and touches
// no memory: what the machine and the scheduler add to anything that takes as long.
type tails struct{ hit, miss, spin [2]time.Duration }

// worst is the larger p99 in multiples of its p50.
func (t tails) worst() float64 {
	return max(us(t.hit[1])/us(t.hit[0]), us(t.miss[1])/us(t.miss[0]))
}

func (t tails) String() string {
	return fmt.Sprintf("%.1f, %.1f; %.1f, %.1f; %.1f, %.1f", us(t.hit[0]), us(t.hit[1]), us(t.miss[0]), us(t.miss[1]), us(t.spin[0]), us(t.spin[1]))
}

const (
	// insertsBeside is how many vectors are added in a second beside lookups.
	insertsBeside = 1000
	// rounds is how often lookups are counted and loading is timed, windows how often
	// lookups beside inserts and without them take turns.
	rounds, windows = 3, 8
	// removals is how many vectors are removed, one timed after the other.
	removals = 1000
)

// pace is for how long something is measured that has no end.
type pace struct {
	lookups time.Duration // each round of lookups on some threads
	inserts time.Duration // lookups beside inserts, and as long without
}

// measureBeyond leaves the index with fewer vectors.
func measureBeyond(l *local, s *vectors.Set, width int, p pace) (beyond, error) {
	b := beyond{shape: s.Shape, n: s.N, dims: s.Dims, system: l.label}
	if g, ok := l.ix.(interface{ SetSearch(int) }); ok {
		g.SetSearch(width)
	}
	var work [2]float64
	for range rounds {
		work[0], work[1] = max(work[0], workRate(1, p.lookups/4)), max(work[1], workRate(2, p.lookups/4))
		b.one = max(b.one, lookupRate(l.ix, s, 1, p.lookups))
		b.two = max(b.two, lookupRate(l.ix, s, 2, p.lookups))
	}
	b.processor = work[1] / work[0]
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
	return rate(threads, round, func(thread int) func() {
		hits := make([]index.Hit, 0, 1)
		i := thread * len(s.Hits.Vectors) // each thread begins elsewhere
		return func() {
			hits, _ = ix.Search(hits[:0], question(s, i), vectors.Threshold, 1)
			i++
		}
	})
}

// workRate counts work that needs nothing but a processor: what two threads can give here
// and now, beside whatever else the machine does.
func workRate(threads int, round time.Duration) float64 {
	return rate(threads, round, func(thread int) func() {
		x := uint64(thread + 1)
		return func() {
			x = spin(x)
		}
	})
}

// spin is work that needs nothing but a processor, some microseconds of it.
func spin(x uint64) uint64 {
	for range 2000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	if x == 0 { // never: but the work must not be optimised away
		panic("xorshift has become zero")
	}
	return x
}

// rate counts how often a second threads can call what each gets from work.
func rate(threads int, round time.Duration, work func(thread int) func()) float64 {
	var total atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for t := range threads {
		wg.Go(func() {
			once := work(t)
			for time.Since(start) < round {
				for range 16 {
					once()
				}
				total.Add(16)
			}
		})
	}
	wg.Wait()
	return float64(total.Load()) / time.Since(start).Seconds()
}

// besideInserts times lookups while vectors are added, and between such times, and removes
// the vectors again.
func (b *beyond) besideInserts(ix index.Index, s *vectors.Set, beside time.Duration) error {
	count := int(beside.Seconds() * insertsBeside / windows)
	fresh := make([][]float32, windows*count)
	for i := range fresh {
		fresh[i] = s.Fresh(i)
	}
	var with, without [3][]time.Duration
	adding, asked, room := time.Duration(0), 0, make([]index.Hit, 0, 1)
	for w := range windows {
		start, added := time.Now(), make(chan error, 1)
		go func() { added <- insert(ix, s.N+w*count, fresh[w*count:(w+1)*count]) }()
		for done := false; !done; asked++ {
			with[asked%3] = append(with[asked%3], lookup(ix, s, asked, room))
			select {
			case err := <-added:
				if err != nil {
					return err
				}
				done = true
			default:
			}
		}
		adding += time.Since(start)
		for end := time.Now().Add(beside / windows); time.Now().Before(end); asked++ {
			without[asked%3] = append(without[asked%3], lookup(ix, s, asked, room))
		}
	}
	b.inserts = float64(len(fresh)) / adding.Seconds()
	b.beside, b.alone = tailsOf(with), tailsOf(without)
	for i := range fresh {
		ix.Remove(uint64(s.N + i))
	}
	return nil
}

// insert adds vectors at the pace of insertsBeside.
func insert(ix index.Index, id int, fresh [][]float32) error {
	start := time.Now()
	for i, v := range fresh {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / insertsBeside)))
		if err := ix.Add(uint64(id+i), v); err != nil {
			return fmt.Errorf("add beside lookups: %w", err)
		}
	}
	return nil
}

// lookup times the i-th of hits, misses and spins in turn; room has space for a hit.
func lookup(ix index.Index, s *vectors.Set, i int, room []index.Hit) time.Duration {
	if i%3 == 2 {
		start := time.Now()
		spin(uint64(i))
		return time.Since(start)
	}
	q := question(s, i/3*2+i%3)
	start := time.Now()
	ix.Search(room, q, vectors.Threshold, 1)
	return time.Since(start)
}

func tailsOf(times [3][]time.Duration) tails {
	of := func(t []time.Duration) [2]time.Duration { return [2]time.Duration{quantile(t, 0.5), quantile(t, 0.99)} }
	return tails{of(times[0]), of(times[1]), of(times[2])}
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
	cells := []string{"data", "n×dims", "index", "delete µs", "inserts/s", "p50, p99 µs of hits; misses; spin beside them", "the same without", "lookups/s", "two threads", "processor", "load snapshot s", "load rows s"}
	return "\nTwo threads are beside what the processor gives to two threads that share nothing, lookups beside\n" +
		"inserts beside a loop that touches no memory (spin): what the machine adds to anything.\n\n" +
		"| " + strings.Join(cells, " | ") + " |\n|" + strings.Repeat("---|", len(cells)) + "\n"
}

func (b beyond) String() string {
	rows := "–"
	if b.rows > 0 {
		rows = fmt.Sprintf("%.2f", b.rows.Seconds())
	}
	return fmt.Sprintf("| %s | %d×%d | %s | %.2f | %.0f | %s | %s | %.0f | ×%.2f | ×%.2f | %.2f | %s |\n",
		b.shape, b.n, b.dims, b.system, us(b.remove), b.inserts, b.beside, b.alone,
		b.one, b.two/b.one, b.processor, b.snapshot.Seconds(), rows)
}
