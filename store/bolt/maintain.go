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

// openReadOnly opens a file for looking at it.
func openReadOnly(path string) (db *bbolt.DB, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if err := checkSize(path, defaultLockTimeout); err != nil {
		return nil, err
	}
	err = protect(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: defaultLockTimeout})
		return err
	})
	if errors.Is(err, bberrors.ErrTimeout) {
		return nil, store.ErrLocked
	}
	if err == nil {
		err = protect(func() error { return checkFormat(db) })
	}
	if err != nil && db != nil {
		db.Close()
	}
	return db, err
}

// checkFormat refuses files that are not ours or newer than we are.
func checkFormat(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return fmt.Errorf("%w: not a data file of semcached", store.ErrCorrupt)
		}
		v := meta.Get(keyFormat)
		if len(v) != 4 {
			return fmt.Errorf("%w: no format number", store.ErrCorrupt)
		}
		if n := binary.LittleEndian.Uint32(v); n > format {
			return fmt.Errorf("%w: %d, this semcached knows %d", store.ErrVersion, n, format)
		}
		for _, name := range [][]byte{bucketEntry, bucketAnswer, bucketExpiry, bucketQuarantine} {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: no bucket %s", store.ErrCorrupt, name)
			}
		}
		return nil
	})
}

// Check reads everything in a file and changes nothing: bbolt's pages, the checksum of
// every record and answer, and whether they belong together. Errors: store.ErrLocked
// (a server has it open), store.ErrVersion, store.ErrCorrupt (it cannot even be
// opened), ctx's, those of the file system.
func Check(ctx context.Context, path string, now time.Time) (*Report, error) {
	db, err := openReadOnly(path)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	defer protect(db.Close)
	r := new(Report)
	err = protect(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			r.Bytes = tx.Size()
			s := db.Stats()
			r.Free = int64(s.FreePageN+s.PendingPageN) * int64(db.Info().PageSize)
			for err := range tx.Check() {
				r.problem("page: %v", err)
			}
			return nil
		})
	})
	if err != nil {
		r.problem("pages: %v", err)
	}
	err = walk(ctx, db, func(id uint64, rec *store.Record, err error) error {
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
	err = protect(func() error { return db.View(r.strays) })
	if err != nil {
		r.problem("strays: %v", err)
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

// walk calls fn for every record with its answer, or with what is wrong with it, in
// ascending order of IDs. Where pages are damaged it goes on behind them as well as it
// can, and tells lost.
func walk(ctx context.Context, db *bbolt.DB, fn func(id uint64, r *store.Record, err error) error, lost func(after uint64, err error)) error {
	const batch = 256
	next, skip := uint64(0), uint64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, last := 0, next
		var stop error
		err := protect(func() error {
			return db.View(func(tx *bbolt.Tx) error {
				answers := tx.Bucket(bucketAnswer)
				c := tx.Bucket(bucketEntry).Cursor()
				for k, v := c.Seek(idKey(next)); k != nil && n < batch; k, v = c.Next() {
					if len(k) != 8 {
						stop = fn(0, nil, fmt.Errorf("%w: a key of %d bytes", store.ErrCorrupt, len(k)))
						return stop
					}
					id := binary.BigEndian.Uint64(k)
					r, err := store.DecodeMeta(id, v)
					if err == nil {
						var answer []byte
						if raw := answers.Get(k); raw == nil {
							err = fmt.Errorf("%w: its answer is missing", store.ErrCorrupt)
						} else if answer, err = store.DecodeAnswer(id, raw); err == nil {
							r.Answer = answer
						}
					}
					n, last, skip = n+1, id, 0
					if stop = fn(id, r, err); stop != nil {
						return stop
					}
				}
				return nil
			})
		})
		switch {
		case stop != nil:
			return stop
		case err != nil: // damaged pages: try further on, in growing steps
			if skip == 0 {
				lost(last, err)
				skip = 1
			}
			if last > ^uint64(0)-skip || skip > 1<<40 {
				return nil
			}
			next, skip = last+skip, skip*2
		case n == 0:
			return nil
		case last == ^uint64(0):
			return nil
		default:
			next = last + 1
		}
	}
}

// Each calls fn for every sound record of a file, with its answer, until fn returns an
// error, which Each returns. fn owns the record. Errors as of Check.
func Each(ctx context.Context, path string, fn func(r *store.Record) error) error {
	db, err := openReadOnly(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer protect(db.Close)
	return walk(ctx, db, func(_ uint64, r *store.Record, err error) error {
		if err != nil {
			return nil
		}
		return fn(r)
	}, func(uint64, error) {})
}

// Rewrite copies every sound, unexpired record of a file into a new one, which must not
// exist: without damage, and without the room that removed records have left. Errors as
// of Check.
func Rewrite(ctx context.Context, from, to string, now time.Time) (kept, left int, err error) {
	db, err := openReadOnly(from)
	if err != nil {
		return 0, 0, fmt.Errorf("rewrite %s: %w", from, err)
	}
	defer protect(db.Close)
	if _, err := os.Stat(to); err == nil {
		return 0, 0, fmt.Errorf("rewrite: %w: %s", os.ErrExist, to)
	}
	out, err := Open(Options{Path: to})
	if err != nil {
		return 0, 0, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- out.Run(run) }()
	err = walk(ctx, db, func(_ uint64, r *store.Record, err error) error {
		if err != nil || !r.Expires.After(now) {
			left++
			return nil
		}
		kept++
		err = out.Put(r, false, nil)
		if errors.Is(err, store.ErrBusy) {
			if err = out.Sync(ctx); err == nil {
				err = out.Put(r, false, nil)
			}
		}
		return err
	}, func(uint64, error) { left++ })
	if err == nil {
		err = out.Sync(ctx)
	}
	stop()
	<-done
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(to)
		return kept, left, fmt.Errorf("rewrite %s: %w", from, err)
	}
	return kept, left, nil
}

// Replace puts the file from in the place of the file to, durably; what was there keeps
// its contents under the name that is returned, "" if there was nothing. No server may
// have to open; from and to must lie in the same file system.
func Replace(from, to string) (old string, err error) {
	if _, err := os.Stat(to); err == nil {
		old = to + ".before-" + time.Now().UTC().Format("20060102T150405.000")
		if err := os.Link(to, old); err != nil {
			return "", err
		}
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
	db, err := openReadOnly(path)
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
