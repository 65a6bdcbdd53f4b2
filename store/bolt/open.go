package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// errOldFormat: the file must be rebuilt.
var errOldFormat = errors.New("store: data file has an old format")

// rescueTime bounds how long Open reads a damaged file, for the service waits. What
// has not been copied by then stays in the file that is kept.
const rescueTime = 3 * time.Second

// salvagePause is how long a salvage that failed, as it does on a full disk, is not tried
// again: each reads the whole file.
const salvagePause = 30 * time.Second

// keptDamaged is how many damaged files are kept: a dying disk must not fill itself up.
const keptDamaged = 3

// Open opens or creates the file. A file of an older format is rebuilt, and kept under
// a name that ends in ".format1-" and the time. A damaged file is replaced by what can
// be read of it within three seconds, and kept under a name that ends in ".corrupt-"
// and the time; Stats.Quarantined tells it.
// Errors: store.ErrLocked, store.ErrVersion, those of the file system.
func Open(o Options) (*Store, error) {
	if o.LockTimeout == 0 {
		o.LockTimeout = defaultLockTimeout
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = defaultQueueBytes
	}
	if o.CompactAbove == 0 {
		o.CompactAbove = defaultCompactAbove
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s := &Store{o: o, wake: make(chan struct{}, 1), life: newLife(), holds: make(map[*uint64]struct{})}
	s.stats.Kind, s.stats.Path = "bolt", o.Path
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	h, st, err := s.open()
	if errors.Is(err, errOldFormat) {
		if err = s.upgrade(); err == nil {
			h, st, err = s.open()
		}
	}
	if damaged(err) {
		if err = s.rescue(err); err == nil {
			h, st, err = s.open()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Path, err)
	}
	for _, left := range []string{".upgrade", ".salvage", ".compact"} {
		os.Remove(o.Path + left) // of a crash
	}
	if err := syncDir(filepath.Dir(o.Path)); err != nil { // a new file's name must be safe too
		s.o.Log.Warn("sync the data folder", "error", err)
	}
	s.db, s.state, s.reserved = h, st, s.hasReserve()
	s.findSnapshot()
	return s, nil
}

// open opens the file and makes what is missing in a new one.
func (s *Store) open() (*handle, state, error) {
	h, err := openHandle(s.o.Path, s.o.LockTimeout, s.o.openFile)
	if err != nil {
		return nil, state{}, err
	}
	var st state
	err = protect(func() (err error) {
		st, err = prepare(h.db)
		return err
	})
	if err != nil {
		h.close()
		return nil, state{}, err
	}
	return h, st, nil
}

// prepare checks the format, makes the buckets of a new file, and reads its state.
func prepare(db *bbolt.DB) (st state, err error) {
	db.AllocSize = minAlloc
	fresh := false
	err = db.View(func(tx *bbolt.Tx) error {
		k, _ := tx.Cursor().First()
		fresh = k == nil
		return nil
	})
	if err == nil && fresh {
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, name := range buckets(format) {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			meta := tx.Bucket(bucketMeta)
			if err := meta.Put(keyState, new(state).append(nil)); err != nil {
				return err
			}
			return meta.Put(keyFormat, binary.LittleEndian.AppendUint32(nil, format))
		})
	}
	if err != nil {
		return st, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if err := checkFormat(tx); err != nil {
			return err
		}
		if formatOf(tx) < format {
			return errOldFormat
		}
		st, err = readState(tx)
		return err
	})
	return st, err
}

// checkFormat refuses files that are not ours or newer than we are.
func checkFormat(tx *bbolt.Tx) error {
	n := formatOf(tx)
	if n == 0 {
		return fmt.Errorf("%w: not a data file of semcached", store.ErrCorrupt)
	}
	if n > format {
		return fmt.Errorf("%w: %d, this semcached knows %d", store.ErrVersion, n, format)
	}
	for _, name := range buckets(n) {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: no bucket %s", store.ErrCorrupt, name)
		}
	}
	return nil
}

// upgrade rebuilds a file of an older format.
func (s *Store) upgrade() error {
	s.o.Log.Info("the data file has an older format and is being rebuilt", "path", s.o.Path)
	db, err := openReadOnly(s.o.Path, false)
	if err != nil {
		return err
	}
	defer protect(db.Close)
	b, lost, err := rebuild(context.Background(), viewOf(db), s.o.Path+".upgrade", nil)
	if err != nil {
		return err
	}
	b.st.lives = []life{{name: s.life}}
	if err := b.finish(); err != nil {
		return err
	}
	b.h.close()
	old, err := supplant(b.path, s.o.Path, "format1")
	if err != nil {
		return err
	}
	s.o.Log.Info("the data file has been rebuilt", "records", b.st.records, "damaged", lost, "old_file", old)
	return nil
}

// rescue replaces a file that cannot be opened by what can be read of it in
// rescueTime. Nobody has it open.
func (s *Store) rescue(cause error) error {
	s.o.Log.Error("the data file is damaged", "path", s.o.Path, "cause", cause)
	ctx, cancel := context.WithTimeout(context.Background(), rescueTime)
	defer cancel()
	var b *builder
	if db, err := openDamaged(s.o.Path); err == nil {
		defer protect(db.Close)
		if b, _, err = rebuild(ctx, viewOf(db), s.o.Path+".salvage", nil); err != nil {
			return err
		}
	} else { // not even a start: begin empty
		if b, err = newBuilder(s.o.Path + ".salvage"); err != nil {
			return err
		}
	}
	if err := s.adopt(b); err != nil {
		return err
	}
	b.h.close()
	return nil
}

// openDamaged opens a file for reading without looking at its free pages.
func openDamaged(path string) (db *bbolt.DB, err error) {
	err = protect(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, InitialMmapSize: mapSize, Timeout: defaultLockTimeout})
		return err
	})
	return db, err
}

// adopt puts a salvaged file in the place of the damaged one. It begins a life of its
// own: no snapshot fits it. Change numbers and IDs go on behind all that were known.
func (s *Store) adopt(b *builder) error {
	s.life = newLife()
	s.mu.Lock()
	old := s.state
	s.mu.Unlock()
	b.st.seq, b.st.lastID = max(old.seq, b.st.seq), max(old.lastID, b.st.lastID)
	b.st.since, b.st.lives = b.st.seq, []life{{s.life, b.st.seq}}
	if err := b.finish(); err != nil {
		return err
	}
	s.dropSnapshot()
	aside, err := supplant(b.path, s.o.Path, "corrupt")
	if err != nil {
		b.abandon()
		return err
	}
	s.o.Log.Error("what could be read of the damaged data file has taken its place", "records", b.st.records, "damaged_file", aside)
	s.forgetDamaged()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = b.st
	s.stats.Quarantined = aside
	s.stats.Corrupt++
	return nil
}

// forgetDamaged removes the oldest of the damaged files.
func (s *Store) forgetDamaged() {
	kept, _ := filepath.Glob(s.o.Path + ".corrupt-*") // in order of time, as their names are
	for _, old := range kept[:max(0, len(kept)-keptDamaged)] {
		s.o.Log.Warn("removing an old damaged data file", "path", old)
		os.Remove(old)
	}
}

// supplant puts the file from in the place of the file path, which keeps its contents
// under the name that is returned. A crash leaves one or the other at path.
func supplant(from, path, why string) (aside string, err error) {
	for now := time.Now().UTC(); ; now = now.Add(time.Millisecond) {
		aside = path + "." + why + "-" + now.Format("20060102T150405.000")
		if err = os.Link(path, aside); !errors.Is(err, os.ErrExist) {
			break // else another of this millisecond is kept there
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// A file system without links.
		if err := os.Rename(path, aside); err != nil {
			return "", err
		}
	}
	if err := os.Rename(from, path); err != nil {
		return aside, err
	}
	return aside, syncDir(filepath.Dir(path))
}

// reopen opens the file again after a failed commit, and reports whether the commit
// has reached it after all. If it cannot be opened, readers go on with what they have,
// and the next commit tries again. The caller holds writing.
func (s *Store) reopen() (landed bool) {
	s.mu.Lock()
	closed, seq := s.closed, s.state.seq
	s.mu.Unlock()
	old := s.current()
	if closed || old == nil {
		return false
	}
	s.broken = true
	if err := s.settle(); err != nil {
		s.o.Log.Error("the data file cannot be written", "path", s.o.Path, "error", err)
		return false
	}
	old.unlock()
	next, st, err := s.open()
	if damaged(err) {
		old.relock()
		if s.salvage(old, err) != nil {
			s.o.Log.Error("the data file cannot be opened again", "path", s.o.Path, "error", err)
		}
		return false
	}
	if err != nil {
		old.relock()
		s.o.Log.Error("the data file cannot be opened again", "path", s.o.Path, "error", err)
		return false
	}
	s.swap(next)
	s.renew(st)
	return st.seq > seq
}

// settle writes the meta pages as they are and syncs them. After a failed sync the page
// cache may hold a meta page that the disk has not got; the next commit would then write
// over pages that the meta page on the disk still needs.
func (s *Store) settle() error {
	f, err := os.OpenFile(s.o.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	meta := make([]byte, 2*os.Getpagesize())
	if _, err := f.ReadAt(meta, 0); err == io.EOF {
		return nil // it has no meta pages any more, as opening it will find out
	} else if err != nil {
		return err
	}
	if _, err := f.WriteAt(meta, 0); err != nil {
		return err
	}
	return f.Sync()
}

// renew forgets what was known about the last handle.
func (s *Store) renew(st state) {
	s.broken, s.generations, s.life = false, nil, newLife()
	s.mu.Lock()
	s.state = st
	s.mu.Unlock()
}

// current returns the handle for those who hold writing.
func (s *Store) current() *handle {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	return s.db
}

// salvage replaces the file of h, if that is still current, by what can be read of
// it. Readers go on with h meanwhile. The caller holds writing.
func (s *Store) salvage(h *handle, cause error) error {
	if h == nil || s.current() != h {
		return nil
	}
	if time.Now().Before(s.salvageNext) {
		return errors.New("salvage: it has failed a moment ago")
	}
	s.o.Log.Error("salvaging a damaged data file", "path", s.o.Path, "cause", cause)
	s.broken = true
	b, _, err := rebuild(context.Background(), viewOf(h.db), s.o.Path+".salvage", nil)
	if err == nil {
		err = s.adopt(b)
	}
	if err != nil {
		s.salvageNext = time.Now().Add(salvagePause)
		return fmt.Errorf("salvage: %w", err)
	}
	s.swap(b.h)
	s.broken, s.generations = false, nil
	return nil
}
