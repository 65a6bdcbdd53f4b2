// Package bolt keeps records in one bbolt file, laid out as format.go says, with a
// snapshot of the index beside it (snapshot.go).
//
// One goroutine (Run) writes. Queued writes are committed together: at once when
// somebody waits for one of them, else when enough have come or 20 ms have
// passed. A commit that fails is reported to all who waited for it, and the file
// is closed and opened again before the next one: after a failed fsync the page
// cache cannot be trusted. Readers are not held up meanwhile.
//
// A file with damaged pages is replaced by what can be read of it, and kept under
// another name, whoever meets the damage: opening, loading, reading or writing.
//
// DESIGN.md in store/ tells the whole story.
package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

const (
	defaultLockTimeout = time.Second
	defaultQueueBytes  = 64 << 20
)

// Options configure a Store.
type Options struct {
	Path string // of the file; its folder is made if need be
	// LockTimeout is how long to wait for another process. Default: 1 s.
	LockTimeout time.Duration
	// QueueBytes bounds the writes that wait for a commit; beyond it Put
	// returns store.ErrBusy. Default: 64 MiB.
	QueueBytes int64
	// MaxSize is how large the file may grow, in bytes: puts that do not fit
	// fail with store.ErrFull. Deletes may still exceed it by a few pages.
	// Default: no limit.
	MaxSize int64
	// CompactAbove is the size of the file, in bytes, from which on it is compacted
	// when more than half of it is free. Default: 64 MiB; negative: never.
	CompactAbove int64
	Log          *slog.Logger // default: discards

	openFile openFunc // for tests
}

// Store is a store.Store on a bbolt file.
type Store struct {
	o Options

	// writing is held by whoever changes the file or puts another in its place.
	// It guards the fields below it, and is taken before mu and dbMu.
	writing     sync.Mutex
	life        uint64                 // name of this opening of the file
	generations map[store.Space]uint32 // those known to be in the file
	broken      bool                   // the handle is for reading only: open the file again first
	reserved    bool                   // the reserve is there (reserve.go)
	salvageNext time.Time              // when to try again after a salvage that failed

	compacting  sync.Mutex // held by Compact; taken before writing
	compactNext time.Time  // Run's own

	dbMu sync.Mutex // guards db and its users; a leaf
	db   *handle    // nil after Close

	saving sync.Mutex // held by SaveSnapshot

	mu    sync.Mutex // guards the fields below; never held during a transaction
	state state      // as last committed
	// leaving: a commit under way may remove changes up to this one from the log.
	leaving uint64
	// holds are the changes behind which the log must stay, of those who read it.
	holds  map[*uint64]struct{}
	queue  []op
	bytes  int64 // of queue
	urgent bool  // somebody waits for a queued write
	closed bool
	stats  store.Stats
	// salvaging is the handle whose damage is known and queued to be mended.
	salvaging *handle

	failures int   // commits that failed
	failure  error // of the last of them

	wake chan struct{} // capacity 1: there is something in the queue
}

// Answer implements store.Store.
func (s *Store) Answer(id uint64) (answer []byte, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketAnswer).Get(idKey(id))
		if v == nil {
			return store.ErrNotFound
		}
		answer, err = store.DecodeAnswer(id, v)
		return err
	})
	if errors.Is(err, store.ErrCorrupt) && !pagesDamaged(err) {
		s.corrupt(id, err)
	}
	return answer, err
}

// Expired implements store.Store.
func (s *Store) Expired(now time.Time, limit int) ([]uint64, error) {
	var ids []uint64
	var stray [][]byte
	err := s.view(func(tx *bbolt.Tx) error {
		entries := tx.Bucket(bucketEntry)
		end := uint64(max(now.UnixMilli(), 0))
		c := tx.Bucket(bucketExpiry).Cursor()
		for k, _ := c.First(); k != nil && len(ids)+len(stray) < limit; k, _ = c.Next() {
			if len(k) == 16 && binary.BigEndian.Uint64(k) > end {
				break
			}
			if len(k) != 16 || entries.Get(k[8:]) == nil {
				stray = append(stray, append([]byte(nil), k...))
				continue
			}
			ids = append(ids, binary.BigEndian.Uint64(k[8:]))
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		for _, k := range stray { // left behind by a record that was put aside
			s.enqueueLocked(op{kind: opStray, key: k})
		}
	}
	return ids, err
}

// corrupt counts a damaged record and, unless a newer semcached wrote it, has it
// put aside.
func (s *Store) corrupt(id uint64, err error) {
	s.o.Log.Warn("skipping a damaged record", "id", id, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Corrupt++
	if errors.Is(err, store.ErrCorrupt) && !s.closed {
		s.enqueueLocked(op{kind: opQuarantine, ids: []uint64{id}})
	}
}

// damage has a file with damaged pages replaced by what can be read of it.
func (s *Store) damage(h *handle, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.salvaging == h {
		return
	}
	s.salvaging = h
	s.o.Log.Error("the data file has damaged pages", "path", s.o.Path, "error", cause)
	s.enqueueLocked(op{kind: opSalvage, damaged: h, cause: cause})
}

// Stats implements store.Store.
func (s *Store) Stats() store.Stats {
	var size, free int64
	if h := s.acquire(); h != nil {
		size, free = h.size()
		s.release(h)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Records, st.Bytes, st.Free, st.Pending = int64(s.state.records), size, free, len(s.queue)
	st.Seq, st.LogSince = s.state.seq, s.sinceLocked()
	return st
}

// size returns the bytes of the file, and how many of them are free for new records.
func (h *handle) size() (size, free int64) {
	protect(func() error {
		return h.db.View(func(tx *bbolt.Tx) error {
			size = tx.Size()
			return nil
		})
	})
	used := size - h.freePages()
	if info, err := h.file.Stat(); err == nil {
		size = info.Size()
	}
	return size, size - used
}

// freePages returns the bytes of pages below the file's high water mark that are free.
func (h *handle) freePages() int64 {
	st := h.db.Stats()
	return int64(st.FreePageN+st.PendingPageN) * int64(os.Getpagesize())
}

// Backup writes a consistent copy of the file to w while the store goes on.
func (s *Store) Backup(w io.Writer) error {
	return s.view(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

// Close implements store.Store. It waits for readers.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	left := s.queue
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	finish(left, store.ErrClosed)
	s.writing.Lock()
	h := s.swap(nil)
	s.writing.Unlock() // readers may wait for it before they give the file up
	if h == nil {
		return nil
	}
	<-h.closed
	return h.err
}

var _ interface {
	store.Store
	Backup(io.Writer) error
} = (*Store)(nil)

// alive returns ctx's error, or store.ErrClosed after Close.
func (s *Store) alive(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}
