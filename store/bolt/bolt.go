// Package bolt keeps records in one bbolt file.
//
// The file has a few large buckets:
//
//	meta        "format" -> u32 LE, "last_id" -> u64 LE (highest ID ever committed)
//	entry       ID, u64 big-endian -> store.AppendMeta
//	answer      ID, u64 big-endian -> store.AppendAnswer
//	expiry      Expires in Unix milliseconds, u64 BE, then ID, u64 BE -> empty
//	quarantine  ID, u64 big-endian -> damaged metadata, at most 1000 of them
//
// The format number changes when the buckets do; a file with a higher one is
// refused. Values carry checksums of their own, for bbolt has none on its pages.
//
// One goroutine (Run) writes. Queued writes are committed together: at once when
// somebody waits for one of them, else when enough have come or 20 ms have
// passed. A commit that fails is reported to all who waited for it, and the file
// is closed and opened again before the next one: after a failed fsync the page
// cache cannot be trusted.
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
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/semcached/semcached/store"
)

const format = 1

var (
	bucketMeta       = []byte("meta")
	bucketEntry      = []byte("entry")
	bucketAnswer     = []byte("answer")
	bucketExpiry     = []byte("expiry")
	bucketQuarantine = []byte("quarantine")

	keyFormat = []byte("format")
	keyLastID = []byte("last_id")
)

const (
	defaultLockTimeout = time.Second
	defaultQueueBytes  = 64 << 20

	// mapSize is mapped at open, mostly beyond the end of the file, which
	// costs address space only. Growing the map later needs every read
	// transaction to end, and stalls all new ones meanwhile.
	mapSize = 64 << 30

	maxQuarantined = 1000
)

// Options configure a Store.
type Options struct {
	Path string // of the file; its folder is made if need be
	// LockTimeout is how long to wait for another process. Default: 1 s.
	LockTimeout time.Duration
	// QueueBytes bounds the writes that wait for a commit; beyond it Put
	// returns store.ErrBusy. Default: 64 MiB.
	QueueBytes int64
	Log        *slog.Logger // default: discards

	openFile func(name string, flag int, perm os.FileMode) (*os.File, error) // for tests
}

// Store is a store.Store on a bbolt file.
type Store struct {
	o Options

	dbMu sync.RWMutex // guards db: held for reading by every transaction
	db   *bbolt.DB    // nil after Close, or while the file cannot be opened

	mu     sync.Mutex // guards the fields below; never held during a transaction
	queue  []op
	bytes  int64 // of queue
	urgent bool  // somebody waits for a queued write
	closed bool
	stats  store.Stats

	failures int   // commits that failed
	failure  error // of the last of them

	wake chan struct{} // capacity 1: there is something in the queue
}

// Open opens or creates the file. A damaged file is moved aside, to a name that
// ends in ".corrupt-" and the time, and an empty one is made; Quarantined tells.
// Errors: store.ErrLocked, store.ErrVersion, those of the file system.
func Open(o Options) (*Store, error) {
	if o.LockTimeout == 0 {
		o.LockTimeout = defaultLockTimeout
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = defaultQueueBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s := &Store{o: o, wake: make(chan struct{}, 1)}
	s.stats.Kind, s.stats.Path = "bolt", o.Path
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := s.open()
	if damaged(err) {
		if err := s.quarantine(err); err != nil {
			return nil, err
		}
		db, err = s.open()
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Path, err)
	}
	s.db = db
	return s, nil
}

// open opens the file and makes what is missing in it.
func (s *Store) open() (db *bbolt.DB, err error) {
	if err := checkSize(s.o.Path, s.o.LockTimeout); err != nil {
		return nil, err
	}
	opts := &bbolt.Options{
		Timeout: s.o.LockTimeout, FreelistType: bbolt.FreelistMapType,
		InitialMmapSize: mapSize, OpenFile: s.o.openFile,
	}
	err = protect(func() error {
		db, err = bbolt.Open(s.o.Path, 0o600, opts)
		return err
	})
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, store.ErrLocked
	}
	if err == nil {
		err = protect(func() error { return prepare(db) })
	}
	if err != nil && db != nil {
		db.Close()
	}
	return db, err
}

// prepare checks the format and makes the buckets of a new file.
func prepare(db *bbolt.DB) error {
	fresh := false
	err := db.View(func(tx *bbolt.Tx) error {
		fresh = tx.Bucket(bucketMeta) == nil
		return nil
	})
	if err == nil && !fresh {
		err = checkFormat(db)
	}
	if err != nil || !fresh {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketEntry, bucketAnswer, bucketExpiry, bucketQuarantine} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, binary.LittleEndian.AppendUint32(nil, format))
	})
}

// protect runs f, which touches the mapped file, and makes an error of a fault or
// of a panic over damaged pages.
func protect(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: bbolt: %v", store.ErrCorrupt, p)
		}
	}()
	return f()
}

// damaged reports whether err says that the file itself is no good.
func damaged(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, bberrors.ErrInvalid) ||
		errors.Is(err, bberrors.ErrChecksum) || errors.Is(err, bberrors.ErrVersionMismatch)
}

// quarantine moves the file aside. Nobody has it open.
func (s *Store) quarantine(cause error) error {
	aside := s.o.Path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(s.o.Path, aside); err != nil {
		return fmt.Errorf("move damaged store aside: %w", err)
	}
	s.o.Log.Error("the data file was damaged: moved aside, starting empty", "moved_to", aside, "cause", cause)
	s.mu.Lock()
	s.stats.Quarantined = aside
	s.stats.Corrupt++
	s.mu.Unlock()
	return nil
}

// view runs f in a short read transaction.
func (s *Store) view(f func(tx *bbolt.Tx) error) error {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return store.ErrClosed
	}
	return protect(func() error { return s.db.View(f) })
}

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func expiryKey(expires time.Time, id uint64) []byte {
	return binary.BigEndian.AppendUint64(idKey(uint64(max(expires.UnixMilli(), 0))), id)
}

// loadBatch is how many records are read in one transaction.
const loadBatch = 2048

// Load implements store.Store. It reads the file once from end to end before it
// scans: bbolt maps its file for random access, and a cold scan through the map
// is ten times slower than reading.
func (s *Store) Load(ctx context.Context, now time.Time, fn func(*store.Record) error) (store.LoadReport, error) {
	s.warm()
	var report store.LoadReport
	err := s.view(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketMeta).Get(keyLastID); len(v) == 8 {
			report.LastID = binary.LittleEndian.Uint64(v)
		}
		return nil
	})
	var next []byte
	for err == nil {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		var batch []*store.Record
		batch, next, err = s.loadBatch(next, now, &report)
		for _, r := range batch {
			if err := fn(r); err != nil {
				return report, err
			}
			report.Records++
		}
		if next == nil && err == nil {
			return report, nil
		}
	}
	if !damaged(err) {
		return report, err
	}
	report.Corrupt++
	return report, s.startOver(err)
}

func (s *Store) warm() {
	f, err := os.Open(s.o.Path)
	if err != nil {
		return
	}
	defer f.Close()
	io.Copy(io.Discard, f)
}

// loadBatch reads records from key on; next is where to go on, nil at the end.
func (s *Store) loadBatch(from []byte, now time.Time, report *store.LoadReport) (batch []*store.Record, next []byte, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketEntry).Cursor()
		k, v := c.First()
		if from != nil {
			k, v = c.Seek(from)
		}
		for ; k != nil; k, v = c.Next() {
			if len(batch) == loadBatch {
				next = append([]byte(nil), k...)
				return nil
			}
			if r := s.read(k, v, now, report); r != nil {
				batch = append(batch, r)
			}
		}
		return nil
	})
	return batch, next, err
}

// read decodes one record, or counts why it is not loaded.
func (s *Store) read(k, v []byte, now time.Time, report *store.LoadReport) *store.Record {
	if len(k) != 8 {
		report.Corrupt++
		return nil
	}
	id := binary.BigEndian.Uint64(k)
	report.LastID = max(report.LastID, id)
	r, err := store.DecodeMeta(id, v)
	switch {
	case err != nil:
		report.Corrupt++
		s.corrupt(id, err)
		return nil
	case !r.Expires.After(now):
		report.Expired++
		return nil
	}
	return r
}

// corrupt counts a damaged record and, unless a newer semcached wrote it, has it
// put aside.
func (s *Store) corrupt(id uint64, err error) {
	s.o.Log.Warn("skipping a damaged record", "id", id, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Corrupt++
	if errors.Is(err, store.ErrCorrupt) && !s.closed {
		s.enqueueLocked(op{kind: opQuarantine, id: id})
	}
}

// startOver replaces a file whose pages are damaged by an empty one.
func (s *Store) startOver(cause error) error {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.db != nil {
		protect(s.db.Close)
		s.db = nil
	}
	if err := s.quarantine(cause); err != nil {
		return err
	}
	db, err := s.open()
	if err != nil {
		return fmt.Errorf("open store %s: %w", s.o.Path, err)
	}
	s.db = db
	return nil
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
	if errors.Is(err, store.ErrCorrupt) {
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

// Stats implements store.Store.
func (s *Store) Stats() store.Stats {
	var records, size int64
	s.view(func(tx *bbolt.Tx) error {
		records, size = int64(tx.Bucket(bucketEntry).Stats().KeyN), tx.Size()
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Records, st.Bytes, st.Pending = records, size, len(s.queue)
	return st
}

// Backup writes a consistent copy of the file to w while the store goes on.
func (s *Store) Backup(w io.Writer) error {
	return s.view(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	left := s.queue
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	finish(left, store.ErrClosed)
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return protect(db.Close)
}
