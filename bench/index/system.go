package main

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/index/hnsw"
	"github.com/semcached/semcached/index/sketch"
)

// system is an index under measurement: ours, in this process, or a rival in its own.
type system interface {
	// name is what the table calls it.
	name() string
	// fill stores the vectors of a set, the row being the ID.
	fill(s *vectors.Set) (filled, error)
	// ask asks one question after the other on one thread.
	ask(q query, questions [][]float32, a *answers) error
	// close gives back what fill took.
	close()
}

// filled is what filling showed.
type filled struct {
	rate  float64 // inserts a second of one thread, the last tenth of the vectors
	whole float64 // the same of all vectors; 0 if more threads filled
	bytes float64 // memory per vector
	hot   float64 // of it, without the exact vectors; 0: not known
}

// query says how to ask.
type query struct {
	k         int
	width     int  // of a graph's search (ef); 0: there is none
	threshold bool // only what reaches vectors.Threshold; rivals that cannot are asked for the nearest
}

// answers are those to some questions, in order.
type answers struct {
	times  []time.Duration
	rows   [][]int
	allocs uint64 // memory allocations while they were asked
}

// reset makes room for n answers.
func (a *answers) reset(n int) {
	for len(a.rows) < n {
		a.rows = append(a.rows, nil)
	}
	a.times, a.rows = a.times[:0], a.rows[:n]
	for i := range a.rows {
		a.rows[i] = a.rows[i][:0]
	}
}

// local is an index of this process.
type local struct {
	kind    string // as in -systems
	label   string
	make    func(dims int) index.Index
	load    func(r io.Reader) (index.Index, error) // nil: loading is not measured
	writers int                                    // threads that fill the first nine tenths
	graph   bool                                   // its searches have a width
	ix      index.Index
	hits    []index.Hit
}

func newLocal(name string) *local {
	switch name {
	case "sketch":
		return &local{kind: name, label: "**sketch**", make: func(dims int) index.Index { return sketch.New(dims) }, load: loader(sketch.Load), writers: 1}
	case "hnsw":
		return &local{kind: name, label: "**hnsw**", make: func(dims int) index.Index { return hnsw.New(dims) }, load: loader(hnsw.Load), writers: 2, graph: true}
	case "flat":
		return &local{kind: name, label: "flat float32", make: func(dims int) index.Index { return index.NewFlat(dims) }, writers: 1}
	case "coder":
		return &local{kind: name, label: "coder/hnsw 0.6.1", make: func(dims int) index.Index { return coder.New(dims) }, writers: 1}
	}
	return nil
}

func loader[T index.Index](load func(io.Reader) (T, error)) func(io.Reader) (index.Index, error) {
	return func(r io.Reader) (index.Index, error) { return load(r) }
}

func (l *local) name() string { return l.label }

func (l *local) close() { l.ix = nil }

func (l *local) fill(s *vectors.Set) (f filled, err error) {
	before, idle := heap(), runtime.NumGoroutine()
	l.ix = l.make(s.Dims)
	start := time.Now()
	most := s.N - s.N/10
	if err := l.add(s, 0, most, l.writers); err != nil {
		return f, err
	}
	middle := time.Now()
	if err := l.add(s, most, s.N, 1); err != nil {
		return f, err
	}
	f.rate = float64(s.N-most) / time.Since(middle).Seconds()
	if l.writers == 1 {
		f.whole = float64(s.N) / time.Since(start).Seconds()
	}
	settle(idle)
	f.bytes = float64(heap()-before) / float64(s.N)
	f.hot = float64(l.ix.Stats().Hot) / float64(s.N)
	return f, nil
}

func (l *local) add(s *vectors.Set, from, to, threads int) error {
	var next atomic.Int64
	next.Store(int64(from))
	fault := make(chan error, threads) // one each, so that none waits
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < to; i = int(next.Add(1)) - 1 {
				if err := l.ix.Add(uint64(i), s.Row(i)); err != nil {
					fault <- fmt.Errorf("add vector %d to %s: %w", i, l.label, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(fault)
	return <-fault
}

// settle waits until the work that an index does in the background is done: until there
// are no more goroutines than before.
func settle(idle int) {
	for end := time.Now().Add(2 * time.Minute); runtime.NumGoroutine() > idle && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

// heap is the memory in use by Go values.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (l *local) ask(q query, questions [][]float32, a *answers) (err error) {
	if g, ok := l.ix.(interface{ SetSearch(int) }); ok && q.width > 0 {
		g.SetSearch(q.width)
	}
	a.reset(len(questions))
	least := float32(-1)
	if q.threshold {
		least = vectors.Threshold
	}
	if cap(l.hits) < q.k {
		l.hits = make([]index.Hit, 0, q.k)
	}
	for i := range a.rows {
		if cap(a.rows[i]) < q.k {
			a.rows[i] = make([]int, 0, q.k)
		}
	}
	if cap(a.times) < len(questions) {
		a.times = make([]time.Duration, 0, len(questions))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	hits := l.hits
	for i, v := range questions {
		start := time.Now()
		hits, err = l.ix.Search(hits[:0], v, least, q.k)
		a.times = append(a.times, time.Since(start))
		if err != nil {
			return fmt.Errorf("ask %s: %w", l.label, err)
		}
		for _, h := range hits {
			a.rows[i] = append(a.rows[i], int(h.ID))
		}
	}
	runtime.ReadMemStats(&after)
	a.allocs = after.Mallocs - before.Mallocs
	return nil
}
