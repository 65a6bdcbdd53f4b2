package drill

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// TestChurn keeps a store at a full budget of bytes: every put pushes out a record of any age. The file must stop
// growing, and be hardly larger than what is in it once compacted, be that asked for or by itself.
func TestChurn(t *testing.T) {
	ops := scale(4000, 50_000, 1_000_000)
	dir := t.TempDir()
	s, err := openWith(bolt.Options{Path: filepath.Join(dir, dataFile), CompactAbove: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := &churn{t: t, s: s, y: new(tally), rng: rand.New(rand.NewPCG(7, 7)), bytes: make(map[uint64]int64), budget: int64(scale(2, 8, 32)) << 20}
	began := time.Now()
	var early, late int64
	for i := range 10 {
		for c.ops < ops*(i+1)/10 {
			c.step()
		}
		c.settle()
		n := size(filepath.Join(dir, dataFile))
		c.y.note("%7d operations: %5d records, %3.0f MB live, file %3.0f MB = %.2fx, heap and stacks %3.0f MB, %d compactions",
			c.ops, len(c.live), mega(c.sum), mega(n), float64(n)/float64(c.sum), mega(anonymous()), s.Stats().Compactions)
		if i < 5 {
			early = max(early, n)
		} else {
			late = max(late, n)
		}
	}
	c.y.note("%.0f operations/s", float64(c.ops)/time.Since(began).Seconds())
	if late > early*5/4 {
		t.Errorf("the file grew from at most %d bytes in the first half to %d in the second", early, late)
	}

	if err := s.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.judge("compacted")

	// Three quarters go at once, as when a tenant leaves. The store compacts by itself, but not twice in a minute.
	for c.sum > c.budget/4 {
		c.evict()
	}
	had := s.Stats().Compactions
	c.settle()
	if scale(0, 0, 1) == 1 {
		for deadline := time.Now().Add(2 * time.Minute); s.Stats().Compactions == had; {
			if time.Now().After(deadline) {
				t.Fatal("three quarters of the records went, and the store did not compact the file")
			}
			time.Sleep(10 * time.Millisecond) // it tells nobody
			c.settle()
		}
		c.judge("compacted by itself after three quarters went")
	}

	m := make(model)
	for _, id := range c.live {
		m[id] = []state{{op: id}}
	}
	m[0] = []state{{op: c.saved}}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	m.verify(c.y, dir, nil)
	c.y.acked = c.ops
	c.y.finish(t)
}

func mega(n int64) float64 { return float64(n) / (1 << 20) }

type churn struct {
	t      *testing.T
	s      *opened
	y      *tally
	rng    *rand.Rand
	live   []uint64
	bytes  map[uint64]int64 // of each live record
	sum    int64
	budget int64
	ops    int
	last   uint64 // ID
	saved  uint64 // change that the snapshot covers
}

// step puts a record and makes room for it.
func (c *churn) step() {
	c.last++
	r := record(c.last, c.last)
	n := int64(len(store.AppendMeta(nil, r, 1)) + len(store.AppendAnswer(nil, r.ID, r.Answer)) + 8 + 8 + 16)
	c.live = append(c.live, r.ID)
	c.bytes[r.ID] = n
	c.sum += n
	err := c.s.Put(r, false, c.done)
	if errors.Is(err, store.ErrBusy) {
		c.sync()
		err = c.s.Put(r, false, c.done)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.ops++
	for c.sum > c.budget {
		c.evict()
	}
}

func (c *churn) evict() {
	i := c.rng.IntN(len(c.live))
	id := c.live[i]
	c.live[i] = c.live[len(c.live)-1]
	c.live = c.live[:len(c.live)-1]
	c.sum -= c.bytes[id]
	delete(c.bytes, id)
	if err := c.s.Delete([]uint64{id}, false, c.done); err != nil {
		c.t.Fatal(err)
	}
	c.ops++
}

func (c *churn) done(err error) {
	if err != nil {
		c.t.Error(err)
	}
}

func (c *churn) sync() {
	if err := c.s.Sync(context.Background()); err != nil {
		c.t.Fatal(err)
	}
}

// settle commits everything and saves a snapshot, as the engine does from time to time; the log goes with
// the commits that follow.
func (c *churn) settle() {
	c.sync()
	c.saved = c.s.Seq()
	if err := c.s.SaveSnapshot(c.saved, func(w io.Writer) error {
		_, err := w.Write(snapshotOf(c.saved))
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	c.sync()
}

// judge compares the file after a compaction with what is in it.
func (c *churn) judge(how string) {
	n := size(filepath.Join(filepath.Dir(c.s.Stats().Path), dataFile))
	ratio := float64(n) / float64(c.sum)
	c.y.note("%s: %d records, %.1f MB live, file %.1f MB = %.2fx", how, len(c.live), mega(c.sum), mega(n), ratio)
	if ratio > 1.3 {
		c.t.Errorf("%s: the file has %d bytes for %d, %.2fx", how, n, c.sum, ratio)
	}
}

// anonymous returns the memory of this process that is not of files, after a collection.
func anonymous() int64 {
	runtime.GC()
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(f[1], 10, 64)
	shared, _ := strconv.ParseInt(f[2], 10, 64)
	return (resident - shared) * int64(os.Getpagesize())
}
