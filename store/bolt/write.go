package bolt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
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
	opTrim       // forget what the snapshot covers
	opForget     // forget all changes so far: the log is damaged
	opSalvage    // replace the damaged file
	opBarrier    // nothing: Sync waits for its turn
)

// op is one queued write.
type op struct {
	kind    opKind
	rec     *store.Record
	ids     []uint64
	key     []byte
	damaged *handle
	cause   error

	urgent bool
	done   func(error)
}

func (o op) size() int64 {
	if o.kind != opPut {
		return int64(64 + 8*len(o.ids))
	}
	return recordSize(o.rec)
}

// recordSize estimates the bytes of a record on disk.
func recordSize(r *store.Record) int64 {
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
		s.stats.Busy++
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
	if s.urgent || len(s.queue) == 1 || len(s.queue) >= batchOps || s.bytes >= batchBytes {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Run implements store.Store.
func (s *Store) Run(ctx context.Context) error {
	var compaction sync.WaitGroup
	defer compaction.Wait()
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
			s.compactIfWorthIt(ctx, &compaction)
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
	s.writing.Lock()
	defer s.writing.Unlock()
	for _, o := range batch {
		if o.kind == opSalvage {
			if err := s.salvage(o.damaged, o.cause); err != nil {
				s.o.Log.Error("the data file stays damaged", "error", err)
				s.reopen()
			}
		}
	}
	batch, refused := s.admit(batch)
	err := s.commit(batch)
	if pagesDamaged(err) {
		if e := s.salvage(s.current(), err); e == nil {
			err = s.commit(batch)
		}
	}
	if full(err) {
		s.squeeze(batch, err)
		return true
	}
	if err != nil {
		s.recover(batch, err)
		s.noteFailure(batch, err)
	} else if len(refused) == 0 && !idle(batch) {
		s.noteSuccess()
	}
	finish(batch, err)
	return true
}

// idle reports whether a batch has nothing to commit.
func idle(batch []op) bool {
	for _, o := range batch {
		if o.kind != opBarrier && o.kind != opSalvage {
			return false
		}
	}
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

// split tells puts from other ops.
func split(batch []op) (puts, others []op) {
	for _, o := range batch {
		if o.kind == opPut {
			puts = append(puts, o)
		} else {
			others = append(others, o)
		}
	}
	return puts, others
}

// full reports whether err is for want of room.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// recover opens the file again after a commit has failed. If the commit is there all
// the same, its new records are removed again, before anything else that is queued:
// their owners were told that they failed. One that replaced a record stays, for the
// record before it was acknowledged and is gone.
func (s *Store) recover(batch []op, err error) {
	s.o.Log.Error("commit failed", "writes", len(batch), "error", err)
	s.mu.Lock()
	last := s.state.lastID
	s.mu.Unlock()
	if !s.reopen() {
		return
	}
	var ids []uint64
	for _, o := range batch {
		if o.kind == opPut && o.rec.ID > last {
			ids = append(ids, o.rec.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.enqueueLocked(op{kind: opDelete, ids: ids})
		n := len(s.queue) - 1
		s.queue = append([]op{s.queue[n]}, s.queue[:n]...)
	}
}

func (s *Store) noteFailure(batch []op, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range batch {
		if o.kind == opPut || o.kind == opDelete {
			s.stats.Failed++
		}
	}
	s.stats.LastErr = err.Error()
	s.stats.Full = full(err) || errors.Is(err, store.ErrFull)
	s.failures++
	s.failure = err
}

// noteSuccess clears the last error after a commit of which nothing was refused.
func (s *Store) noteSuccess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.LastErr, s.stats.Full = "", false
}

// admit tells the puts for which there is no room, by MaxSize or for want of a reserve,
// that they have failed.
func (s *Store) admit(batch []op) (admitted, refused []op) {
	h := s.current()
	puts, _ := split(batch)
	if len(puts) == 0 || h == nil {
		return batch, nil
	}
	s.ensureReserve()
	if s.o.MaxSize <= 0 && s.reserved {
		return batch, nil
	}
	free := h.freePages()
	room := int64(math.MaxInt64)
	if s.o.MaxSize > 0 {
		protect(func() error {
			return h.db.View(func(tx *bbolt.Tx) error {
				room = s.o.MaxSize - (tx.Size() - free)
				return nil
			})
		})
	}
	if !s.reserved {
		room = min(room, free-reserveBytes)
	}
	for _, o := range batch {
		if o.kind == opPut {
			// A record's pages are not full, and its neighbours' are written anew.
			if room -= o.size() + o.size()/4; room < 0 {
				refused = append(refused, o)
				continue
			}
		}
		admitted = append(admitted, o)
	}
	if len(refused) > 0 {
		s.noteFailure(refused, store.ErrFull)
		finish(refused, store.ErrFull)
	}
	return admitted, refused
}

// Bounds of how far the file is grown beyond what a commit needs: growing costs an
// fsync, and room that nobody uses looks like waste.
const (
	minAlloc = 64 << 10
	maxAlloc = 16 << 20
)

// allocSize is an eighth of the file, within bounds.
func allocSize(h *handle) int {
	info, err := h.file.Stat()
	if err != nil {
		return minAlloc
	}
	return int(min(max(info.Size()/8, minAlloc), maxAlloc))
}

// commit writes a batch in one transaction. The caller holds writing.
func (s *Store) commit(batch []op) error {
	if idle(batch) {
		return nil
	}
	if s.broken {
		s.reopen()
	}
	h := s.current()
	if h == nil {
		return fmt.Errorf("commit: %w", store.ErrClosed)
	}
	if s.broken {
		return errors.New("commit: the data file cannot be opened")
	}
	h.db.AllocSize = allocSize(h)
	s.mu.Lock()
	before, upTo := s.state, s.leaveLocked(len(batch))
	s.mu.Unlock()
	var w writer
	err := protect(func() error {
		return h.db.Update(func(tx *bbolt.Tx) error {
			w = newWriter(tx, before, s.generations)
			w.st.enter(s.life)
			for _, o := range batch {
				if err := w.apply(o); err != nil {
					return fmt.Errorf("commit: %w", err)
				}
			}
			if err := w.trim(upTo, trimPerCommit+2*len(batch)); err != nil {
				return fmt.Errorf("commit: %w", err)
			}
			return w.save()
		})
	})
	if err != nil {
		s.generations = nil
		return err
	}
	s.generations = w.generations
	s.mu.Lock()
	s.state = w.st
	s.mu.Unlock()
	return nil
}

// trimPerCommit bounds what forgetting the log adds to a commit.
const trimPerCommit = 1000

// leaveLocked returns the last change that leaves the log in a commit of n ops.
func (s *Store) leaveLocked(n int) uint64 {
	upTo := s.stats.SnapshotSeq
	if last := s.state.seq + uint64(n); last > maxLog {
		upTo = max(upTo, last-maxLog)
	}
	for held := range s.holds {
		upTo = min(upTo, *held)
	}
	s.leaving = max(s.leaving, upTo)
	return upTo
}

// apply does one op and logs what it changes.
func (w *writer) apply(o op) error {
	switch o.kind {
	case opPut:
		if err := w.put(o.rec); err != nil {
			return err
		}
		return w.note(change{logPut, []uint64{o.rec.ID}})
	case opDelete:
		for _, id := range o.ids {
			if err := w.delete(id); err != nil {
				return err
			}
		}
		return w.note(change{logDelete, o.ids})
	case opQuarantine:
		if err := w.quarantine(o.ids[0]); err != nil {
			return err
		}
		return w.note(change{logDelete, o.ids})
	case opStray:
		return w.expiry.Delete(o.key)
	case opForget:
		w.st.since = w.st.seq
	}
	return nil
}
