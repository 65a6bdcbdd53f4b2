package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// A viewer runs f in a read transaction; damaged pages give an error.
type viewer func(f func(tx *bbolt.Tx) error) error

func viewOf(db *bbolt.DB) viewer {
	return func(f func(tx *bbolt.Tx) error) error {
		return protect(func() error { return db.View(f) })
	}
}

// raw is a record as it lies in the file, copied.
type raw struct {
	id           uint64
	meta, answer []byte // nil if there is none
}

// Bounds of what is read, or written anew, in one transaction.
const (
	scanRecords = 1024
	scanBytes   = 8 << 20
)

// scan calls fn with the records of a file in ascending order of IDs, outside of any
// transaction. Where pages are damaged it goes on behind them, and tells lost.
func scan(ctx context.Context, view viewer, next uint64, fn func([]raw) error, lost func(after uint64, err error)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var batch []raw
		more := false
		err := view(func(tx *bbolt.Tx) (err error) {
			batch, more, err = readRaw(tx, next)
			return err
		})
		if len(batch) > 0 { // what was read before the damage
			if err := fn(batch); err != nil {
				return err
			}
			last := batch[len(batch)-1].id
			if last == ^uint64(0) {
				return nil
			}
			next = last + 1
		}
		switch {
		case errors.Is(err, store.ErrCorrupt):
			lost(next, err)
			var ok bool
			if next, ok = behind(view, next); !ok {
				return nil
			}
		case err != nil:
			return err
		case !more:
			return nil
		}
	}
}

// behind returns an ID after bad, near it, at which reading can go on; false if there is
// none. It looks in growing steps and then halves the last of them.
func behind(view viewer, bad uint64) (good uint64, ok bool) {
	readable := func(id uint64) bool {
		return view(func(tx *bbolt.Tx) error {
			tx.Bucket(bucketEntry).Cursor().Seek(idKey(id))
			return nil
		}) == nil
	}
	step := uint64(1)
	for ; ; step *= 2 {
		if bad > ^uint64(0)-step || step > 1<<40 {
			return 0, false
		}
		if readable(bad + step) {
			break
		}
		bad += step
	}
	for good = bad + step; good-bad > 1; {
		if mid := bad + (good-bad)/2; readable(mid) {
			good = mid
		} else {
			bad = mid
		}
	}
	return good, true
}

// readRaw reads some records from ID next on. On damage it returns what it has.
func readRaw(tx *bbolt.Tx, next uint64) (batch []raw, more bool, err error) {
	err = protect(func() error {
		answers := tx.Bucket(bucketAnswer)
		c := tx.Bucket(bucketEntry).Cursor()
		size := 0
		for k, v := c.Seek(idKey(next)); k != nil; k, v = c.Next() {
			if len(batch) >= scanRecords || size >= scanBytes {
				more = true
				return nil
			}
			if len(k) != 8 || binary.BigEndian.Uint64(k) < next {
				return &pageError{"keys out of order"}
			}
			id := binary.BigEndian.Uint64(k)
			r := raw{id: id, meta: append([]byte{}, v...)}
			if a := readAnswer(answers, k); a != nil {
				r.answer = append([]byte{}, a...)
			}
			size += len(r.meta) + len(r.answer)
			batch, next = append(batch, r), id+1
			if next == 0 {
				return nil
			}
		}
		return nil
	})
	return batch, more, err
}

// readAnswer returns nil when the answer lies on a damaged page: the entries go on.
func readAnswer(answers *bbolt.Bucket, k []byte) (a []byte) {
	protect(func() error { a = answers.Get(k); return nil })
	return a
}

// walk calls fn for every record with its answer, or with what is wrong with it, and
// else is scan.
func walk(ctx context.Context, view viewer, fn func(id uint64, r *store.Record, err error) error, lost func(after uint64, err error)) error {
	var spaces map[uint32]store.Space
	err := view(func(tx *bbolt.Tx) error {
		spaces = readSpaces(tx)
		return nil
	})
	if err != nil {
		return err
	}
	d := store.NewDecoder(spaces)
	return scan(ctx, view, 0, func(batch []raw) error {
		for _, b := range batch {
			r, err := d.Meta(b.id, b.meta)
			switch {
			case err != nil:
			case b.answer == nil:
				err = fmt.Errorf("%w: its answer is missing", store.ErrCorrupt)
			default:
				r.Answer, err = store.DecodeAnswer(b.id, b.answer)
			}
			if err := fn(b.id, r, err); err != nil {
				return err
			}
		}
		return nil
	}, lost)
}

// builder writes a new data file in large transactions that are made durable at the
// end.
type builder struct {
	path  string
	h     *handle
	st    state
	tx    *bbolt.Tx
	w     writer
	bytes int
}

// newBuilder begins a file, in the place of one that an earlier try has left.
func newBuilder(path string) (*builder, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	h, err := openHandle(path, defaultLockTimeout, nil)
	if err != nil {
		return nil, err
	}
	b := &builder{path: path, h: h}
	if _, err := prepare(h.db); err != nil {
		b.abandon()
		return nil, err
	}
	h.db.NoSync, h.db.NoGrowSync = true, true
	return b, nil
}

// begin makes sure that there is a transaction.
func (b *builder) begin() (err error) {
	if b.tx != nil {
		return nil
	}
	b.h.db.AllocSize = allocSize(b.h)
	if b.tx, err = b.h.db.Begin(true); err == nil {
		b.w = newWriter(b.tx, b.st, b.w.generations)
	}
	return err
}

// change runs f, which writes about size bytes, in a transaction.
func (b *builder) change(size int, f func(w *writer) error) error {
	err := b.begin()
	if err == nil {
		err = f(&b.w)
	}
	if b.bytes += size; err == nil && b.bytes >= scanBytes {
		err = b.flush()
	}
	return err
}

func (b *builder) put(r *store.Record) error {
	return b.change(int(recordSize(r)), func(w *writer) error { return w.put(r) })
}

// flush commits, not yet durably.
func (b *builder) flush() error {
	if b.tx == nil {
		return nil
	}
	b.st = b.w.st
	tx := b.tx
	b.tx, b.bytes = nil, 0
	return tx.Commit()
}

// finish writes the state and makes the file durable. It then is like any other.
func (b *builder) finish() error {
	err := b.flush()
	if err == nil {
		err = b.h.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyState, b.st.append(nil)) })
	}
	if err == nil {
		err = b.h.db.Sync()
	}
	if err != nil {
		b.abandon()
		return err
	}
	b.h.db.NoSync, b.h.db.NoGrowSync = false, false
	return nil
}

// abandon removes the file. It may be called again.
func (b *builder) abandon() {
	if b.h == nil {
		return
	}
	if b.tx != nil {
		b.tx.Rollback()
		b.tx = nil
	}
	b.h.close()
	b.h = nil
	os.Remove(b.path)
}

// rebuild copies every sound record that keep, if not nil, wants into a new file, until
// ctx ends, which is no error. The caller finishes it. lost counts what was left out.
func rebuild(ctx context.Context, view viewer, path string, keep func(*store.Record) bool) (b *builder, lost int, err error) {
	if b, err = newBuilder(path); err != nil {
		return nil, 0, err
	}
	err = view(func(tx *bbolt.Tx) error {
		st, err := readState(tx)
		if err == nil {
			b.st.seq, b.st.since, b.st.lastID = st.seq, st.seq, st.lastID
		}
		return nil
	})
	if err == nil {
		err = walk(ctx, view, func(_ uint64, r *store.Record, err error) error {
			if err != nil || keep != nil && !keep(r) {
				lost++
				return nil
			}
			return b.put(r)
		}, func(uint64, error) { lost++ })
	}
	if err == nil || errors.Is(err, ctx.Err()) || damaged(err) {
		err = b.flush()
	}
	if err != nil {
		b.abandon()
		return nil, 0, err
	}
	return b, lost, nil
}
