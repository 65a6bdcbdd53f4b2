package bolt

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/semcached/semcached/store"
)

// handle is an open data file. Readers share it, and the file that takes its place
// does not wait for them: a retired handle is closed by the last of its readers.
type handle struct {
	db   *bbolt.DB
	file *os.File // db's, to give up its lock before db is closed

	// Guarded by Store.dbMu.
	users   int
	retired bool

	closed chan struct{} // closed once db is
	err    error         // of closing, set before closed is
}

// pageError says that pages of the file are damaged or cannot be read. It is also
// store.ErrCorrupt.
type pageError struct{ cause any }

func (e *pageError) Error() string        { return fmt.Sprintf("damaged page: %v", e.cause) }
func (e *pageError) Is(target error) bool { return target == store.ErrCorrupt }

// protect runs f, which touches the mapped file, and makes an error of a fault or
// of a panic over damaged pages.
func protect(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &pageError{p}
		}
	}()
	return f()
}

// damaged reports whether err says that the file itself is no good.
func damaged(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, bberrors.ErrInvalid) ||
		errors.Is(err, bberrors.ErrChecksum) || errors.Is(err, bberrors.ErrVersionMismatch)
}

// pagesDamaged reports whether err came from protect.
func pagesDamaged(err error) bool {
	var p *pageError
	return errors.As(err, &p)
}

// mapSize is mapped at open, mostly beyond the end of the file, which costs address
// space only. Growing the map later needs every read transaction to end, and stalls
// all new ones meanwhile.
const mapSize = 64 << 30

type openFunc func(name string, flag int, perm os.FileMode) (*os.File, error)

// openHandle opens a bbolt file for writing. Errors: store.ErrLocked, damage, those of
// the file system.
func openHandle(path string, wait time.Duration, open openFunc) (*handle, error) {
	if err := checkSize(path, wait); err != nil {
		return nil, err
	}
	if open == nil {
		open = os.OpenFile
	}
	h := &handle{closed: make(chan struct{})}
	opts := &bbolt.Options{
		Timeout: wait, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapSize,
		OpenFile: func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
			f, err = open(name, flag, perm)
			h.file = f
			return f, err
		},
	}
	err := protect(func() (err error) {
		h.db, err = bbolt.Open(path, 0o600, opts)
		return err
	})
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, store.ErrLocked
	}
	if err != nil && h.file != nil {
		giveUp(h.file)
	}
	return h, err
}

// giveUp closes a file over which bbolt may have panicked. Closing alone would leave it
// locked, because it is still mapped. If bbolt has closed it itself, this does nothing.
func giveUp(f *os.File) {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}

// grace is how long close waits for a transaction that a damaged page has left
// hanging; nothing else holds a handle by then.
const grace = 2 * time.Second

// close closes the file. One that hangs is abandoned without its lock.
func (h *handle) close() {
	h.unlock()
	done := make(chan error, 1)
	go func() { done <- protect(h.db.Close) }()
	select {
	case h.err = <-done:
	case <-time.After(grace):
	}
	close(h.closed)
}

// unlock gives up the lock on the file, so that it can be opened again while readers
// still use h.
func (h *handle) unlock() { syscall.Flock(int(h.file.Fd()), syscall.LOCK_UN) }

// relock takes it back and reports whether that worked.
func (h *handle) relock() bool {
	return syscall.Flock(int(h.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// acquire returns the current handle for a reader, nil after Close.
func (s *Store) acquire() *handle {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.db != nil {
		s.db.users++
	}
	return s.db
}

func (s *Store) release(h *handle) {
	s.dbMu.Lock()
	h.users--
	last := h.retired && h.users == 0
	s.dbMu.Unlock()
	if last {
		h.close()
	}
}

// swap puts next, which may be nil, in the place of the current handle, and returns
// that.
func (s *Store) swap(next *handle) *handle {
	s.dbMu.Lock()
	old := s.db
	s.db = next
	idle := false
	if old != nil {
		old.retired = true
		idle = old.users == 0
	}
	s.dbMu.Unlock()
	if idle {
		old.close()
	}
	return old
}

// view runs f in a short read transaction.
func (s *Store) view(f func(tx *bbolt.Tx) error) error {
	h := s.acquire()
	if h == nil {
		return store.ErrClosed
	}
	defer s.release(h)
	err := protect(func() error { return h.db.View(f) })
	if pagesDamaged(err) {
		s.damage(h, err)
	}
	return err
}
