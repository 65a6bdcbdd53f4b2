// Package mem keeps records in memory: for tests, and for a cache that may be
// empty after every start.
package mem

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/semcached/semcached/store"
)

// Store is a store.Store on a map. Writes take effect at once and are as durable
// as they will ever be. It survives Close: New with the same Records goes on.
type Store struct {
	saving sync.Mutex // held by SaveSnapshot; taken before mu

	mu     sync.Mutex // guards everything below
	recs   *Records
	kept   bool // recs outlives the Store
	closed bool
}

// Records is what a Store holds.
type Records struct {
	byID map[uint64]*store.Record
	last uint64

	seq uint64
	log []change // the last of them, up to seq

	snapshot    []byte
	snapshotSeq uint64
	snapshotAt  time.Time
}

// change is one entry of the log.
type change struct {
	put     uint64 // ID, 0 for a delete
	deleted []uint64
}

// maxLog bounds the log: beyond it the oldest changes are forgotten.
const maxLog = 1 << 18

// New returns a store that holds r; nil makes a new, empty one, which nobody can
// open again and which therefore keeps neither a log nor snapshots.
func New(r *Records) *Store {
	s := &Store{recs: r, kept: r != nil}
	if r == nil {
		s.recs = &Records{}
	}
	if s.recs.byID == nil {
		s.recs.byID = make(map[uint64]*store.Record)
	}
	return s
}

// Put implements store.Store.
func (s *Store) Put(r *store.Record, _ bool, done func(error)) error {
	if err := r.Check(); err != nil {
		return err
	}
	return s.write(done, func() {
		s.recs.byID[r.ID] = r
		s.recs.last = max(s.recs.last, r.ID)
		s.noteLocked(change{put: r.ID})
	})
}

// Delete implements store.Store.
func (s *Store) Delete(ids []uint64, _ bool, done func(error)) error {
	return s.write(done, func() {
		for _, id := range ids {
			delete(s.recs.byID, id)
		}
		s.noteLocked(change{deleted: ids})
	})
}

func (s *Store) noteLocked(c change) {
	s.recs.seq++
	if !s.kept {
		return
	}
	s.recs.log = append(s.recs.log, c)
	s.recs.log = s.recs.log[max(0, len(s.recs.log)-maxLog):]
}

func (s *Store) write(done func(error), apply func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	apply()
	if done != nil {
		go done(nil)
	}
	return nil
}

// Seq implements store.Store.
func (s *Store) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recs.seq
}

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after uint64, fn func(store.Change) error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	first := s.recs.seq - uint64(len(s.recs.log))
	if after < first {
		s.mu.Unlock()
		return store.ErrGone
	}
	var changes []store.Change
	for i := after; i < s.recs.seq; i++ {
		c := s.recs.log[i-first]
		told := store.Change{Seq: i + 1, Deleted: c.deleted}
		if c.put != 0 {
			r := s.recs.byID[c.put]
			if r == nil {
				continue
			}
			told.Put = withoutAnswer(r)
		}
		changes = append(changes, told)
	}
	s.mu.Unlock()
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func withoutAnswer(r *store.Record) *store.Record {
	c := *r
	c.Answer, c.AnswerBytes = nil, len(r.Answer)
	return &c
}

// SaveSnapshot implements store.Store. A store that nobody can open again keeps no
// snapshot and does not call write.
func (s *Store) SaveSnapshot(seq uint64, write func(io.Writer) error) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return store.ErrClosed
	}
	if !s.kept {
		return nil
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recs
	r.snapshot, r.snapshotSeq, r.snapshotAt = b.Bytes(), seq, time.Now()
	if first := r.seq - uint64(len(r.log)); seq > first {
		r.log = r.log[min(seq-first, uint64(len(r.log))):]
	}
	return nil
}

// Snapshot implements store.Store.
func (s *Store) Snapshot() (uint64, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, nil, store.ErrClosed
	case s.recs.snapshotAt.IsZero():
		return 0, nil, store.ErrNotFound
	}
	return s.recs.snapshotSeq, io.NopCloser(bytes.NewReader(s.recs.snapshot)), nil
}

// Load implements store.Store.
func (s *Store) Load(ctx context.Context, now time.Time, fn func(*store.Record) error) (store.LoadReport, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.LoadReport{}, store.ErrClosed
	}
	report := store.LoadReport{LastID: s.recs.last}
	var live []*store.Record
	for _, r := range s.recs.byID {
		if !r.Expires.After(now) {
			report.Expired++
			continue
		}
		live = append(live, withoutAnswer(r))
	}
	s.mu.Unlock()
	slices.SortFunc(live, func(a, b *store.Record) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range live {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		if err := fn(r); err != nil {
			return report, err
		}
		report.Records++
	}
	return report, nil
}

// Answer implements store.Store.
func (s *Store) Answer(id uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	r, ok := s.recs.byID[id]
	if !ok {
		return nil, store.ErrNotFound
	}
	return append([]byte{}, r.Answer...), nil
}

// Expired implements store.Store.
func (s *Store) Expired(now time.Time, limit int) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	var gone []*store.Record
	for _, r := range s.recs.byID {
		if !r.Expires.After(now) {
			gone = append(gone, r)
		}
	}
	slices.SortFunc(gone, func(a, b *store.Record) int { return a.Expires.Compare(b.Expires) })
	var ids []uint64
	for _, r := range gone[:min(limit, len(gone))] {
		ids = append(ids, r.ID)
	}
	return ids, nil
}

// Sync implements store.Store.
func (s *Store) Sync(context.Context) error { return s.write(nil, func() {}) }

// Run implements store.Store.
func (s *Store) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Stats implements store.Store.
func (s *Store) Stats() store.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recs
	return store.Stats{
		Kind: "mem", Records: int64(len(r.byID)), Seq: r.seq, LogSince: r.seq - uint64(len(r.log)),
		SnapshotSeq: r.snapshotSeq, SnapshotAt: r.snapshotAt,
	}
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
