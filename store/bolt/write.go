package bolt

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

const (
	// gatherTime is how long writes that nobody waits for are gathered; it
	// bounds what a crash can lose.
	gatherTime = 20 * time.Millisecond
	// batchOps and batchBytes bound one commit: larger ones gain little and
	// make those who wait wait longer.
	batchOps   = 1024
	batchBytes = 4 << 20
)

// opKind says what an op does.
type opKind uint8

const (
	opPut opKind = iota
	opDelete
	opQuarantine // move damaged metadata aside and delete the record
	opStray      // delete a key of the expiry bucket that has no record
	opBarrier    // nothing: Sync waits for its turn
)

// op is one queued write.
type op struct {
	kind opKind
	rec  *store.Record
	ids  []uint64
	id   uint64
	key  []byte

	urgent bool
	done   func(error)
}

func (o op) size() int64 {
	if o.kind != opPut {
		return int64(64 + 8*len(o.ids))
	}
	r := o.rec
	return int64(512 + len(r.Canonical) + len(r.Prompt) + 4*len(r.Vector) + len(r.Answer))
}

// Put implements store.Store.
func (s *Store) Put(r *store.Record, urgent bool, done func(error)) error {
	if err := r.Check(); err != nil {
		return err
	}
	o := op{kind: opPut, rec: r, urgent: urgent, done: done}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return store.ErrClosed
	case s.bytes+o.size() > s.o.QueueBytes && len(s.queue) > 0:
		s.stats.Failed++
		return store.ErrBusy
	}
	s.enqueueLocked(o)
	return nil
}

// Delete implements store.Store.
func (s *Store) Delete(ids []uint64, urgent bool, done func(error)) error {
	return s.enqueue(op{kind: opDelete, ids: ids, urgent: urgent, done: done})
}

// Sync implements store.Store. What fails between its call and its turn in the
// queue was queued before it.
func (s *Store) Sync(ctx context.Context) error {
	done := make(chan error, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	failures := s.failures
	s.enqueueLocked(op{kind: opBarrier, urgent: true, done: func(err error) { done <- err }})
	s.mu.Unlock()
	select {
	case err := <-done:
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil && s.failures != failures {
			err = s.failure
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) enqueue(o op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	s.enqueueLocked(o)
	return nil
}

func (s *Store) enqueueLocked(o op) {
	s.queue = append(s.queue, o)
	s.bytes += o.size()
	s.urgent = s.urgent || o.urgent
	if s.urgent || len(s.queue) == 1 || len(s.queue) >= batchOps {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Run implements store.Store.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			for s.commitNext() {
			}
			return ctx.Err()
		case <-s.wake:
		}
		s.gather(ctx)
		for s.commitNext() {
		}
	}
}

// gather waits for more writes to share the commit, unless somebody waits.
func (s *Store) gather(ctx context.Context) {
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for {
		s.mu.Lock()
		ready := s.urgent || len(s.queue) >= batchOps || s.bytes >= batchBytes
		s.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// next takes the writes of one commit from the queue.
func (s *Store) next() []op {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int
	var bytes int64
	for n < len(s.queue) && n < batchOps && bytes < batchBytes {
		bytes += s.queue[n].size()
		n++
	}
	batch := s.queue[:n:n]
	s.queue, s.bytes = s.queue[n:], s.bytes-bytes
	if len(s.queue) == 0 {
		s.queue, s.urgent = nil, false
	}
	return batch
}

// commitNext commits one batch and reports whether there was one.
func (s *Store) commitNext() bool {
	batch := s.next()
	if len(batch) == 0 {
		return false
	}
	err := s.commit(batch)
	if err != nil {
		s.o.Log.Error("commit failed", "writes", len(batch), "error", err)
		s.reopen()
	}
	s.mu.Lock()
	if err != nil {
		for _, o := range batch {
			if o.kind == opPut || o.kind == opDelete {
				s.stats.Failed++
			}
		}
		s.stats.LastErr = err.Error()
		s.failures++
		s.failure = err
	} else {
		s.stats.LastErr = ""
		for _, o := range batch {
			if o.kind <= opQuarantine {
				s.stats.Seq++
			}
		}
	}
	s.mu.Unlock()
	finish(batch, err)
	return true
}

// finish tells those who wait.
func finish(batch []op, err error) {
	for _, o := range batch {
		if o.done != nil {
			o.done(err)
		}
	}
}

// commit writes a batch in one transaction.
func (s *Store) commit(batch []op) error {
	if s.database() == nil {
		s.reopen()
	}
	db := s.database()
	if db == nil {
		return fmt.Errorf("commit: %w", store.ErrClosed)
	}
	return protect(func() error {
		return db.Update(func(tx *bbolt.Tx) error {
			w := writer{
				entries: tx.Bucket(bucketEntry), answers: tx.Bucket(bucketAnswer),
				expiry: tx.Bucket(bucketExpiry), aside: tx.Bucket(bucketQuarantine),
			}
			w.entries.FillPercent, w.answers.FillPercent = 0.9, 0.9 // IDs ascend
			for _, o := range batch {
				if err := w.apply(o); err != nil {
					return fmt.Errorf("commit: %w", err)
				}
			}
			return w.finish(tx.Bucket(bucketMeta))
		})
	})
}

func (s *Store) database() *bbolt.DB {
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	return s.db
}

// reopen closes the file and opens it again. On failure the store has no file
// until the next commit tries again; reads fail meanwhile.
func (s *Store) reopen() {
	s.dbMu.Lock()
	defer s.dbMu.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return
	}
	if s.db != nil {
		protect(s.db.Close)
		s.db = nil
	}
	db, err := s.open()
	if err != nil {
		s.o.Log.Error("the data file cannot be opened again", "path", s.o.Path, "error", err)
		return
	}
	s.db = db
}

// writer applies ops within a transaction.
type writer struct {
	entries, answers, expiry, aside *bbolt.Bucket
	lastID                          uint64
}

func (w *writer) apply(o op) error {
	switch o.kind {
	case opPut:
		return w.put(o.rec)
	case opDelete:
		for _, id := range o.ids {
			if err := w.delete(id); err != nil {
				return err
			}
		}
	case opQuarantine:
		return w.quarantine(o.id)
	case opStray:
		return w.expiry.Delete(o.key)
	}
	return nil
}

// put writes a record. Values are made anew for each: bbolt keeps them until the
// commit.
func (w *writer) put(r *store.Record) error {
	key := idKey(r.ID)
	if err := w.unexpire(key, r.ID); err != nil {
		return err
	}
	if err := w.entries.Put(key, store.AppendMeta(nil, r)); err != nil {
		return err
	}
	if err := w.answers.Put(key, store.AppendAnswer(nil, r.ID, r.Answer)); err != nil {
		return err
	}
	w.lastID = max(w.lastID, r.ID)
	return w.expiry.Put(expiryKey(r.Expires, r.ID), nil)
}

func (w *writer) delete(id uint64) error {
	key := idKey(id)
	if err := w.unexpire(key, id); err != nil {
		return err
	}
	if err := w.entries.Delete(key); err != nil {
		return err
	}
	return w.answers.Delete(key)
}

// unexpire removes the expiry of the record that is there now, if any. That of a
// damaged record stays behind; Expired finds it.
func (w *writer) unexpire(key []byte, id uint64) error {
	old := w.entries.Get(key)
	if old == nil {
		return nil
	}
	r, err := store.DecodeMeta(id, old)
	if err != nil {
		return nil
	}
	return w.expiry.Delete(expiryKey(r.Expires, id))
}

func (w *writer) quarantine(id uint64) error {
	key := idKey(id)
	if v := w.entries.Get(key); v != nil && w.aside.Stats().KeyN < maxQuarantined {
		if err := w.aside.Put(key, append([]byte(nil), v...)); err != nil {
			return err
		}
	}
	return w.delete(id)
}

// finish notes the highest ID, so that it is not used again after its record has
// gone.
func (w *writer) finish(meta *bbolt.Bucket) error {
	if w.lastID == 0 {
		return nil
	}
	if v := meta.Get(keyLastID); len(v) == 8 && binary.LittleEndian.Uint64(v) >= w.lastID {
		return nil
	}
	return meta.Put(keyLastID, binary.LittleEndian.AppendUint64(nil, min(w.lastID, math.MaxUint64)))
}
