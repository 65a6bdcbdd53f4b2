package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

const (
	defaultCompactAbove = 64 << 20

	// compactPause is how long a compaction that failed is not tried again.
	compactPause = time.Minute

	// lastChanges is how many changes may be left to copy while writers wait, if
	// rounds without them do not catch up: some tens of milliseconds.
	lastChanges = 2000
	maxRounds   = 20
)

// compactIfWorthIt begins a compaction in the background when more than half of a large
// file is free.
func (s *Store) compactIfWorthIt(ctx context.Context, wg *sync.WaitGroup) {
	if s.o.CompactAbove < 0 || ctx.Err() != nil || time.Now().Before(s.compactNext) || !s.compacting.TryLock() {
		return
	}
	s.compacting.Unlock()
	h := s.acquire()
	if h == nil {
		return
	}
	size, free := h.size()
	s.release(h)
	if size < s.o.CompactAbove || free <= size/2 {
		return
	}
	s.compactNext = time.Now().Add(compactPause)
	wg.Go(func() {
		start := time.Now()
		err := s.Compact(ctx)
		switch {
		case err == nil:
			after := s.Stats()
			s.o.Log.Info("the data file has been compacted", "bytes_before", size, "bytes", after.Bytes, "took", time.Since(start))
		case ctx.Err() == nil:
			s.o.Log.Warn("the data file could not be compacted", "bytes", size, "free", free, "error", err)
		}
	})
}

// Compact copies what is live into a new file and puts that in the place of the old one,
// while reads and writes go on. Writers wait for the last few changes only. A crash at
// any moment leaves the old file or the new one. Calls wait for each other. Errors:
// store.ErrClosed, store.ErrCorrupt (damaged pages, which are then mended), ctx's, those
// of the file system; the old file stays in use.
//
// Records are copied in short transactions, each as it is when it is its turn. The
// changes since the beginning, which the log has, then bring the copy up to date: a
// change that is applied twice does no harm.
func (s *Store) Compact(ctx context.Context) (err error) {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	h := s.acquire()
	if h == nil {
		return store.ErrClosed
	}
	defer s.release(h)
	start, since, release := s.hold(0)
	defer release()
	b, err := newBuilder(s.o.Path + ".compact")
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	c := copier{s: s, view: viewOf(h.db), b: b}
	if err = c.run(ctx, since, start); err == nil {
		err = s.replace(ctx, h, &c)
	}
	if err != nil {
		b.abandon()
		switch {
		case pagesDamaged(err):
			s.damage(h, err)
		case errors.Is(err, errLog):
			s.forgetLog(err)
		}
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// errLog: the log of changes is damaged.
var errLog = fmt.Errorf("%w: log of changes", store.ErrCorrupt)

// copier copies a file into a builder.
type copier struct {
	s    *Store
	view viewer
	b    *builder
	done uint64 // last change in the copy
	from uint64 // records are copied as they were after this change, or later
}

// run copies everything that is there, and changes until few are left.
func (c *copier) run(ctx context.Context, since, start uint64) error {
	if err := c.dictionary(); err != nil {
		return err
	}
	var lost error
	err := scan(ctx, c.view, 0, func(batch []raw) error {
		for _, r := range batch {
			if err := c.put(r); err != nil {
				return err
			}
		}
		return nil
	}, func(_ uint64, err error) { lost = err })
	if err = errors.Join(err, lost); err != nil {
		return err
	}
	c.done, c.from = since, start // the log itself is copied as well
	for range maxRounds {
		last := c.s.Seq()
		if err := c.changes(ctx, last); err != nil {
			return err
		}
		if err := errors.Join(c.b.flush(), c.b.h.db.Sync()); err != nil {
			return err
		}
		if c.s.Seq()-last <= lastChanges {
			return nil
		}
	}
	return errors.New("writers are faster than the copy")
}

// put copies a record, unless it is damaged: that has it removed, which is a change that
// will be copied.
func (c *copier) put(r raw) error {
	expires, err := store.MetaExpires(r.id, r.meta)
	if err == nil {
		err = store.CheckAnswer(r.id, r.answer)
	}
	if err != nil {
		c.s.corrupt(r.id, err)
		return nil
	}
	return c.b.change(len(r.meta)+len(r.answer), func(w *writer) error {
		return w.putRaw(r.id, r.meta, r.answer, expiryKey(expires, r.id))
	})
}

// dictionary copies the vector spaces, and the damaged metadata that was kept.
func (c *copier) dictionary() error {
	for _, name := range [][]byte{bucketSpace, bucketQuarantine} {
		err := c.view(func(tx *bbolt.Tx) error {
			return tx.Bucket(name).ForEach(func(k, v []byte) error {
				k, v = append([]byte{}, k...), append([]byte{}, v...)
				return c.b.change(len(v), func(w *writer) error { return w.bucket(name).Put(k, v) })
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changes brings the copy from change c.done to change last.
func (c *copier) changes(ctx context.Context, last uint64) error {
	if c.done < last {
		if err := c.dictionary(); err != nil {
			return err
		}
	}
	for c.done < last {
		if err := ctx.Err(); err != nil {
			return err
		}
		var log [][2][]byte
		var records []raw // without metadata: gone
		err := c.view(func(tx *bbolt.Tx) error {
			entries, answers := tx.Bucket(bucketEntry), tx.Bucket(bucketAnswer)
			cursor, size := tx.Bucket(bucketLog).Cursor(), 0
			for k, v := cursor.Seek(idKey(c.done + 1)); k != nil && size < scanBytes; k, v = cursor.Next() {
				seq := binary.BigEndian.Uint64(k)
				if seq > last {
					break
				}
				ch, ok := decodeChange(k, v)
				if !ok || seq != c.done+uint64(len(log))+1 {
					return fmt.Errorf("%w: change %d", errLog, c.done+1)
				}
				log = append(log, [2][]byte{append([]byte{}, k...), append([]byte{}, v...)})
				if seq <= c.from {
					size += len(k) + len(v)
					continue
				}
				for _, id := range ch.ids {
					key := idKey(id)
					r := raw{id: id}
					if meta := entries.Get(key); meta != nil && ch.kind == logPut {
						r.meta, r.answer = append([]byte{}, meta...), append([]byte{}, answers.Get(key)...)
					}
					size += len(r.meta) + len(r.answer) + 100
					records = append(records, r)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(log) == 0 {
			return fmt.Errorf("%w: change %d is missing", errLog, c.done+1)
		}
		if err := c.apply(log, records); err != nil {
			return err
		}
		c.done += uint64(len(log))
	}
	return nil
}

func (c *copier) apply(log [][2][]byte, records []raw) error {
	for _, r := range records {
		var err error
		if r.meta != nil {
			err = c.put(r)
		} else {
			err = c.b.change(100, func(w *writer) error { return w.delete(r.id) })
		}
		if err != nil {
			return err
		}
	}
	return c.b.change(100*len(log), func(w *writer) error {
		for _, e := range log {
			if err := w.log.Put(e[0], e[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// replace copies the last changes while writers wait, and puts the copy in the place of
// h's file.
func (s *Store) replace(ctx context.Context, h *handle, c *copier) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.current() != h || s.broken {
		return errors.New("the data file has been replaced meanwhile")
	}
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	err := c.changes(ctx, st.seq)
	if err == nil {
		err = c.b.flush()
	}
	if err != nil {
		return err
	}
	st.records = c.b.st.records
	c.b.st = st
	if err := c.b.finish(); err != nil {
		return err
	}
	if err := os.Rename(c.b.path, s.o.Path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.o.Path)); err != nil {
		// The new file is in place, though perhaps not for good: going on with either
		// is right, for they hold the same.
		s.o.Log.Warn("sync the data folder", "error", err)
	}
	s.swap(c.b.h)
	s.generations = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = st
	s.stats.Compactions++
	return nil
}
