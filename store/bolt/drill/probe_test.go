package drill

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// probe is what a child does with a damaged file: checks it, opens it, looks at everything, writes, and does all
// of it again. It tells B lines of what is wrong, "T" with the nanoseconds until the store was there, and "K" with
// the records that were served. Reports nothing of the process if that does not survive.
func (c *childState) probe() int {
	path := filepath.Join(c.c.Dir, dataFile)
	if r, err := bolt.Check(context.Background(), path, epoch); err == nil && !r.Sound() || errors.Is(err, store.ErrCorrupt) {
		c.tell("N check saw it")
	}
	began := time.Now()
	s, err := open(c.c.Dir)
	if err != nil {
		c.tell("B open: %v", err)
		return 0
	}
	ids := c.served(s)
	c.tell("T %d", time.Since(began))
	if c.c.Cut > 0 {
		if err := os.Truncate(path, c.c.Cut); err != nil {
			c.tell("B %v", err)
		}
		ids = c.served(s)
	}
	c.tell("K %d", len(ids))
	c.changes(s)
	c.snapshot(s)

	f := &filler{s: s, m: make(model), y: new(tally), op: c.c.Base}
	for range 20 {
		if err = f.put(); err != nil { // once: the damage is met by a write
			err = f.put()
		}
		if err != nil {
			c.tell("B a put on damaged data: %v", err)
		}
	}
	gone := ids[:min(len(ids), 20)]
	if err := f.delete(gone); err != nil && f.delete(gone) != nil {
		c.tell("B a delete on damaged data: %v", err)
	}
	f.lookups()
	if f.y.corrupt > 0 {
		c.tell("B new records: %q", f.y.problems)
	}
	if err := s.close(); err != nil {
		c.tell("C %v", err)
	}

	if s, err = open(c.c.Dir); err != nil {
		c.tell("B open again: %v", err)
		return 0
	}
	there := make(map[uint64]bool)
	for _, id := range c.served(s) {
		there[id] = true
	}
	for _, id := range f.live {
		if !there[id] {
			c.tell("B record %d was acknowledged after the damage and is gone", id)
		}
	}
	for _, id := range gone {
		if there[id] {
			c.tell("B record %d was deleted after the damage and is back", id)
		}
	}
	if err := s.close(); err != nil {
		c.tell("B close: %v", err)
	}
	if r, err := bolt.Check(context.Background(), path, epoch); err != nil || !r.Sound() {
		c.tell("U %v", err)
		if r != nil {
			c.tell("U %q", r.Problems)
		}
	}
	c.tell("Z")
	return 0
}

// served loads everything and compares it with what was written. Records that cannot be read are no fault.
func (c *childState) served(s *opened) (ids []uint64) {
	all, err := s.all()
	if err != nil {
		c.tell("B load: %v", err)
	}
	for id, r := range all {
		got, err := s.Answer(id)
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNotFound) {
			continue
		}
		if _, ok := same(r, got); !ok || err != nil {
			c.tell("B record %d is not what was written (%v)", id, err)
		}
		ids = append(ids, id)
	}
	return ids
}

// changes reads the log, which is whole or gone.
func (c *childState) changes(s *opened) {
	err := s.Changes(context.Background(), s.Stats().LogSince, func(ch store.Change) error {
		if ch.Put != nil {
			ch.Put.Answer = nil
			if _, ok := same(ch.Put, answer(ch.Put.ID, version(ch.Put))); !ok {
				c.tell("B change %d: not what was written", ch.Seq)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrGone) {
		c.tell("B changes: %v", err)
	}
}

// snapshot reads the snapshot, which is right as far as it can be read.
func (c *childState) snapshot(s *opened) {
	seq, r, err := s.Snapshot()
	if err == nil {
		var b []byte
		b, err = io.ReadAll(r)
		r.Close()
		if want := snapshotOf(seq); string(b) != string(want[:min(len(b), len(want))]) || err == nil && len(b) != len(want) {
			c.tell("B the snapshot of %d is not what was written", seq)
		}
	}
	if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrVersion) {
		c.tell("B snapshot: %v", err)
	}
}
