package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// What the child tells the parent, a line each:
//
//	P id op      a put of record id in version op is about to be queued
//	D id op      a delete of record id is
//	A id op      it is durable
//	E id op why  it has failed
//	B what       a lookup went wrong
//	N text       a note
//	Z            the work is done and the store is closed
//
// It does so by sendto, so that faults injected into write do not meet it.

// childConfig says what a child does.
type childConfig struct {
	Dir     string
	Seed    uint64
	Base    uint64 // IDs and numbers of operations begin behind it
	Workers int
	Batches int           // each worker ends after so many; 0: never
	Live    int           // records that each worker aims to have
	Readers bool          // look up meanwhile, and note how long that took
	Pause   time.Duration // of each worker after a batch that failed
}

const (
	ackFD    = 3
	dataFile = "semcached.db"
	maxBatch = 8 // changes that a worker queues before it waits
)

// keeper reports whether a record is never replaced and never deleted.
func keeper(id uint64) bool { return id%8 == 0 }

type worker struct {
	*childState
	rng  *rand.Rand
	live []uint64
	next func() uint64
}

type childState struct {
	c    childConfig
	s    *bolt.Store
	say  sync.Mutex // guards the socket, so that lines stay whole
	mu   sync.Mutex // guards keep
	keep []*store.Record
}

func (c *childState) tell(format string, args ...any) {
	c.say.Lock()
	defer c.say.Unlock()
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ") + "\n"
	if err := syscall.Sendto(ackFD, []byte(line), 0, nil); err != nil {
		os.Exit(4) // the parent has gone
	}
}

// child runs in a process of its own until its work is done or it is killed.
func child(config string) int {
	// strace counts the calls of each thread apart: all commits happen on one.
	runtime.LockOSThread()
	var st childState
	if err := json.Unmarshal([]byte(config), &st.c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	s, err := bolt.Open(bolt.Options{Path: filepath.Join(st.c.Dir, dataFile), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	st.s = s
	workers, err := st.workers()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan struct{})
	var working, reading sync.WaitGroup
	for _, w := range workers {
		working.Go(w.work)
	}
	if st.c.Readers {
		reading.Go(func() { st.read(stop) })
	}
	go func() {
		working.Wait()
		close(stop)
		reading.Wait()
		cancel()
	}()
	s.Run(ctx)
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	st.tell("Z")
	return 0
}

// workers shares the records that are there among the workers.
func (c *childState) workers() ([]*worker, error) {
	ws := make([]*worker, c.c.Workers)
	for i := range ws {
		id := c.c.Base + uint64(i)
		ws[i] = &worker{childState: c, rng: rand.New(rand.NewPCG(c.c.Seed, uint64(i))), next: func() uint64 {
			id += uint64(len(ws))
			return id
		}}
	}
	_, err := c.s.Load(context.Background(), epoch, func(r *store.Record) error {
		w := ws[r.ID%uint64(len(ws))]
		if keeper(r.ID) {
			r.Answer = answer(r.ID, version(r))
			c.keep = append(c.keep, r)
		} else {
			w.live = append(w.live, r.ID)
		}
		return nil
	})
	return ws, err
}

// work writes batches of puts, replacements and deletes, and waits for each.
func (w *worker) work() {
	for n := 0; w.c.Batches == 0 || n < w.c.Batches; n++ {
		var pending sync.WaitGroup
		failed := false
		for range 1 + w.rng.IntN(maxBatch) {
			op := w.next()
			switch k := w.rng.IntN(4); {
			case k == 0 && len(w.live) > 0:
				w.put(w.live[w.rng.IntN(len(w.live))], op, &pending, &failed)
			case len(w.live) > w.c.Live || k == 1 && len(w.live) > 0:
				w.delete(op, &pending, &failed)
			default:
				if !keeper(op) {
					w.live = append(w.live, op)
				}
				w.put(op, op, &pending, &failed)
			}
		}
		pending.Wait()
		if failed && w.c.Pause > 0 {
			time.Sleep(w.c.Pause)
		}
	}
}

func (w *worker) put(id, op uint64, pending *sync.WaitGroup, failed *bool) {
	r := record(id, op)
	w.tell("P %d %d", id, op)
	pending.Add(1)
	err := w.s.Put(r, true, func(err error) {
		if err == nil && keeper(id) {
			w.mu.Lock()
			w.keep = append(w.keep, r)
			w.mu.Unlock()
		}
		w.done(id, op, err, failed)
		pending.Done()
	})
	if err != nil {
		w.done(id, op, err, failed)
		pending.Done()
	}
}

// delete removes up to three records at once.
func (w *worker) delete(op uint64, pending *sync.WaitGroup, failed *bool) {
	n := min(len(w.live), 1+w.rng.IntN(3))
	var ids []uint64
	for range n {
		i := w.rng.IntN(len(w.live))
		ids = append(ids, w.live[i])
		w.live[i] = w.live[len(w.live)-1]
		w.live = w.live[:len(w.live)-1]
		w.tell("D %d %d", ids[len(ids)-1], op)
	}
	pending.Add(1)
	err := w.s.Delete(append([]uint64(nil), ids...), true, func(err error) {
		for _, id := range ids {
			w.done(id, op, err, failed)
		}
		pending.Done()
	})
	if err != nil {
		for _, id := range ids {
			w.done(id, op, err, failed)
		}
		pending.Done()
	}
}

// done tells the outcome. Outcomes come from one goroutine, the store's, or before it has the write;
// failed is read once all are in.
func (w *worker) done(id, op uint64, err error, failed *bool) {
	if err != nil {
		w.mu.Lock()
		*failed = true
		w.mu.Unlock()
		w.tell("E %d %d %v", id, op, err)
		return
	}
	w.tell("A %d %d", id, op)
}

// read looks up records that are durable and never change, until stop.
func (c *childState) read(stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(c.c.Seed, 1<<40))
	var took []time.Duration
	for n := 0; ; n++ {
		select {
		case <-stop:
			slices.Sort(took)
			if n := len(took); n > 0 {
				c.tell("N %d lookups: p50 %v, p99 %v, slowest %v", n, took[n/2], took[n*99/100], took[n-1])
			}
			return
		default:
		}
		c.mu.Lock()
		var r *store.Record
		if len(c.keep) > 0 {
			r = c.keep[rng.IntN(len(c.keep))]
		}
		c.mu.Unlock()
		if r == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		began := time.Now()
		got, err := c.s.Answer(r.ID)
		took = append(took, time.Since(began))
		switch {
		case err != nil:
			c.tell("B lookup of %d: %v", r.ID, err)
		case string(got) != string(r.Answer):
			c.tell("B lookup of %d: another answer", r.ID)
		}
		if n%16 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}
