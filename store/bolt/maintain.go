package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/semcached/semcached/store"
)

// This file is for tools that look at a data file while no server has it open.

// Report is what Check found.
type Report struct {
	Format      int   // of the file: 1 or 2
	Records     int   // readable, with a readable answer
	Expired     int   // of them
	Damaged     int   // records or answers that do not check
	Stray       int   // answers and expiries without a record
	Quarantined int   // records that a server has put aside
	Bytes       int64 // of the file
	Free        int64 // of them, free for new records
	// Problems describes what is wrong, the first maxProblems of it.
	Problems []string
	problems int
}

// Sound reports whether nothing is wrong.
func (r *Report) Sound() bool { return r.problems == 0 }

const maxProblems = 50

func (r *Report) problem(format string, args ...any) {
	if r.problems++; len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// openReadOnly opens a file of either format for looking at it.
// With free it reads the list of free pages as well.
func openReadOnly(path string, free bool) (db *bbolt.DB, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if err := checkSize(path, defaultLockTimeout); err != nil {
		return nil, err
	}
	var file *os.File
	err = protect(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			ReadOnly: true, PreLoadFreelist: free, InitialMmapSize: mapSize, Timeout: defaultLockTimeout,
			OpenFile: func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, perm)
				file = f
				return f, err
			},
		})
		return err
	})
	if err != nil && file != nil {
		giveUp(file)
	}
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, store.ErrLocked
	}
	if err == nil {
		err = viewOf(db)(checkFormat)
	}
	if err != nil && db != nil {
		db.Close()
	}
	return db, corrupt(err)
}

// corrupt makes store.ErrCorrupt of what bbolt has other words for.
func corrupt(err error) error {
	if damaged(err) && !errors.Is(err, store.ErrCorrupt) {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

// Check reads everything in a file and changes nothing: bbolt's pages, the checksum of
// every record and answer, and whether they belong together. Errors: store.ErrLocked
// (a server has it open), store.ErrVersion, store.ErrCorrupt (it cannot even be
// opened), ctx's, those of the file system.
func Check(ctx context.Context, path string, now time.Time) (*Report, error) {
	db, err := openReadOnly(path, true)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	defer protect(db.Close)
	r := new(Report)
	err = protect(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			r.Format, r.Bytes = int(formatOf(tx)), tx.Size()
			s := db.Stats()
			r.Free = int64(s.FreePageN+s.PendingPageN) * int64(db.Info().PageSize)
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			size := int64(db.Info().PageSize)
			w := pageWalk{f: f, pageSize: size, pages: uint64(tx.Size() / size), seen: make(map[uint64]bool), problem: r.problem}
			if !w.walk(uint64(tx.Cursor().Bucket().Root())) {
				return nil
			}
			for err := range tx.Check() {
				r.problem("page: %v", err)
			}
			return nil
		})
	})
	if err != nil {
		r.problem("pages: %v", err)
	}
	view := viewOf(db)
	err = walk(ctx, view, func(id uint64, rec *store.Record, err error) error {
		switch {
		case err != nil:
			r.Damaged++
			r.problem("record %d: %v", id, err)
		case !rec.Expires.After(now):
			r.Expired++
			fallthrough
		default:
			r.Records++
		}
		return nil
	}, func(after uint64, err error) { r.problem("behind record %d: %v", after, err) })
	if err != nil {
		return r, err
	}
	if err = view(r.strays); err != nil {
		r.problem("strays: %v", err)
	}
	if err = view(r.log); err != nil {
		r.problem("log: %v", err)
	}
	return r, nil
}

// strays counts what has no record.
func (r *Report) strays(tx *bbolt.Tx) error {
	entries := tx.Bucket(bucketEntry)
	r.Quarantined = tx.Bucket(bucketQuarantine).Stats().KeyN
	answers := tx.Bucket(bucketAnswer).Cursor()
	for k, _ := answers.First(); k != nil; k, _ = answers.Next() {
		if entries.Get(k) == nil {
			r.Stray++
			r.problem("an answer without a record: %x", k)
		}
	}
	expiries := tx.Bucket(bucketExpiry).Cursor()
	for k, _ := expiries.First(); k != nil; k, _ = expiries.Next() {
		if len(k) != 16 || entries.Get(k[8:]) == nil {
			r.Stray++
			r.problem("an expiry without a record: %x", k)
		}
	}
	return nil
}

// log verifies the state, the dictionary and the log of changes.
func (r *Report) log(tx *bbolt.Tx) error {
	st, err := readState(tx)
	if err != nil || formatOf(tx) == 1 {
		return err
	}
	if n := uint64(tx.Bucket(bucketEntry).Stats().KeyN); n != st.records {
		r.problem("%d records, of which the file counts %d", n, st.records)
	}
	if n, good := tx.Bucket(bucketSpace).Stats().KeyN, len(readSpaces(tx)); n != good {
		r.problem("%d of %d vector spaces are damaged", n-good, n)
	}
	c, next := tx.Bucket(bucketLog).Cursor(), st.since+1
	k, v := c.Seek(idKey(next))
	for ; k != nil; k, v = c.Next() {
		if _, ok := decodeChange(k, v); !ok || binary.BigEndian.Uint64(k) != next {
			return fmt.Errorf("change %d is damaged", next)
		}
		next++
	}
	if next != st.seq+1 {
		return fmt.Errorf("changes %d to %d are missing", next, st.seq)
	}
	return nil
}

// Each calls fn for every sound record of a file, with its answer, in ascending order of
// IDs, until fn returns an error, which Each returns. fn owns the record. Errors as of
// Check; store.ErrCorrupt also, once fn has had all that is sound, if something is not.
func Each(ctx context.Context, path string, fn func(r *store.Record) error) error {
	db, err := openReadOnly(path, false)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer protect(db.Close)
	bad := 0
	err = walk(ctx, viewOf(db), func(_ uint64, r *store.Record, err error) error {
		if err != nil {
			bad++
			return nil
		}
		return fn(r)
	}, func(uint64, error) { bad++ })
	if err == nil && bad > 0 {
		err = fmt.Errorf("read %s: %w in %d places", path, store.ErrCorrupt, bad)
	}
	return err
}

// Rewrite copies every sound, unexpired record of a file into a new one, which must not
// exist: without damage, without the room that removed records have left, and in the
// newest format. Errors as of Check.
func Rewrite(ctx context.Context, from, to string, now time.Time) (kept, left int, err error) {
	db, err := openReadOnly(from, false)
	damage := err
	if damaged(err) { // cut short, or worse
		db, err = openDamaged(from)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("rewrite %s: %w", from, corrupt(err))
	}
	defer protect(db.Close)
	if _, err := os.Stat(to); err == nil {
		return 0, 0, fmt.Errorf("rewrite: %w: %s", os.ErrExist, to)
	}
	b, left, err := rebuild(ctx, viewOf(db), to, func(r *store.Record) bool { return r.Expires.After(now) })
	if err != nil {
		return 0, 0, fmt.Errorf("rewrite %s: %w", from, err)
	}
	if err = ctx.Err(); err == nil && b.st.records == 0 && left == 0 {
		err = damage
	}
	if err != nil {
		b.abandon()
		return 0, 0, err
	}
	b.st.lives = []life{{newLife(), b.st.seq}}
	if err := b.finish(); err != nil {
		return 0, 0, fmt.Errorf("rewrite %s: %w", from, err)
	}
	kept = int(b.st.records)
	b.h.close()
	return kept, left, b.h.err
}

// Replace puts the file from in the place of the file to, durably; what was there keeps
// its contents under the name that is returned, "" if there was nothing. No server may
// have to open; from and to must lie in the same file system. A snapshot of to's index
// is removed: it would not fit.
func Replace(from, to string) (old string, err error) {
	if _, err := os.Stat(to); err == nil {
		old = to + ".before-" + time.Now().UTC().Format("20060102T150405.000")
		if err := os.Link(to, old); err != nil {
			return "", err
		}
	}
	if err := os.Remove(to + snapshotSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return old, err
	}
	if err := os.Rename(from, to); err != nil {
		return old, err
	}
	return old, syncDir(filepath.Dir(to))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Copy writes a file that no server has open to w. Errors as of Check.
func Copy(path string, w io.Writer) error {
	db, err := openReadOnly(path, false)
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	defer protect(db.Close)
	return protect(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
}
