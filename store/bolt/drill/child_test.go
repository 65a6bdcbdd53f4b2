package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
//	A id op      it is durable; so is a snapshot, which counts as record 0, its change as op
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
	Chores  int           // snapshots and compactions meanwhile, so many of each; negative: without end
	Readers bool          // look up meanwhile, and note how long that took
	Pause   time.Duration // of each worker after a batch that failed
	Probe   bool          // look at damaged data instead
	Cut     int64         // cut the file to so many bytes while it is open, if not 0
}

const (
	ackFD    = 3
	dataFile = "semcached.db"
	maxBatch = 8 // changes that a worker queues before it waits
)

// keeper reports whether a record is never replaced and never deleted.
func keeper(id uint64) bool { return id%8 == 0 }

// worker writes records of its own. It keeps a model of them, as the parent does, and looks them up
// when it has nothing under way.
type worker struct {
	*childState
	rng    *rand.Rand
	live   []uint64
	next   func() uint64
	m      model
	failed bool // something of this batch
}

type childState struct {
	c    childConfig
	s    *bolt.Store
	say  sync.Mutex // guards the socket, so that lines stay whole
	mu   sync.Mutex // guards keep, and the workers' models while writes are under way
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
	if st.c.Probe {
		return st.probe()
	}
	s, err := bolt.Open(bolt.Options{Path: filepath.Join(st.c.Dir, dataFile), CompactAbove: -1, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
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
	if st.c.Chores != 0 {
		working.Go(st.chores)
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
		ws[i] = &worker{childState: c, m: make(model), rng: rand.New(rand.NewPCG(c.c.Seed, uint64(i))), next: func() uint64 {
			id += uint64(len(ws))
			return id
		}}
	}
	_, err := c.s.Load(context.Background(), epoch, func(r *store.Record) error {
		if len(ws) == 0 {
			return nil
		}
		w := ws[r.ID%uint64(len(ws))]
		w.m[r.ID] = []state{{op: version(r)}}
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
		var touched []uint64
		w.failed = false
		for range 1 + w.rng.IntN(maxBatch) {
			op := w.next()
			switch k := w.rng.IntN(4); {
			case k == 0 && len(w.live) > 0:
				touched = append(touched, w.put(w.live[w.rng.IntN(len(w.live))], op, &pending))
			case len(w.live) > w.c.Live || k == 1 && len(w.live) > 0:
				touched = append(touched, w.delete(op, &pending)...)
			default:
				touched = append(touched, w.put(op, op, &pending))
				if !keeper(op) {
					w.live = append(w.live, op)
				}
			}
		}
		pending.Wait()
		for _, id := range touched {
			w.lookup(id)
		}
		for range min(2, len(w.live)) { // whom something may have befallen since
			w.lookup(w.live[w.rng.IntN(len(w.live))])
		}
		if w.failed && w.c.Pause > 0 {
			time.Sleep(w.c.Pause)
		}
	}
}

func (w *worker) put(id, op uint64, pending *sync.WaitGroup) uint64 {
	r := record(id, op)
	w.submit("P", id, state{op: op})
	pending.Add(1)
	done := func(err error) {
		w.done(id, op, err)
		pending.Done()
	}
	if err := w.s.Put(r, true, done); err != nil {
		done(err)
	}
	return id
}

// delete removes up to three records at once.
func (w *worker) delete(op uint64, pending *sync.WaitGroup) (ids []uint64) {
	for range min(len(w.live), 1+w.rng.IntN(3)) {
		i := w.rng.IntN(len(w.live))
		ids = append(ids, w.live[i])
		w.live[i] = w.live[len(w.live)-1]
		w.live = w.live[:len(w.live)-1]
		w.submit("D", ids[len(ids)-1], state{op: op, gone: true})
	}
	pending.Add(1)
	done := func(err error) {
		for _, id := range ids {
			w.done(id, op, err)
		}
		pending.Done()
	}
	if err := w.s.Delete(slices.Clone(ids), true, done); err != nil {
		done(err)
	}
	return ids
}

func (w *worker) submit(kind string, id uint64, s state) {
	w.tell("%s %d %d", kind, id, s.op)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.submit(id, s)
}

func (w *worker) done(id, op uint64, err error) {
	w.mu.Lock()
	if err != nil {
		w.failed = true
	} else {
		w.m.ack(id, op)
		if keeper(id) {
			w.keep = append(w.keep, record(id, op))
		}
	}
	w.mu.Unlock()
	if err != nil {
		w.tell("E %d %d %v", id, op, err)
		return
	}
	w.tell("A %d %d", id, op)
}

// lookup compares a record that nobody changes now with the model.
func (w *worker) lookup(id uint64) {
	got, err := w.s.Answer(id)
	for _, s := range w.m[id] {
		if s.gone && errors.Is(err, store.ErrNotFound) || !s.gone && err == nil && string(got) == string(answer(id, s.op)) {
			return
		}
	}
	w.tell("B lookup of %d: %.20q %v, may be %v", id, got, err, w.m[id])
}

// chores saves snapshots and compacts, again and again.
func (c *childState) chores() {
	runtime.LockOSThread()
	for n := 0; n != c.c.Chores; n++ {
		if seq := c.s.Seq(); seq > 0 {
			c.tell("P 0 %d", seq)
			err := c.s.SaveSnapshot(seq, func(w io.Writer) error {
				_, err := w.Write(snapshotOf(seq))
				return err
			})
			if err != nil {
				c.tell("E 0 %d %v", seq, err)
			} else {
				c.tell("A 0 %d", seq)
			}
		}
		if err := c.s.Compact(context.Background()); err != nil {
			c.tell("E 0 0 compact: %v", err)
		}
	}
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
