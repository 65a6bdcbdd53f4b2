// Package mem keeps records in memory: for tests, and for a cache that may be
// empty after every start.
package mem

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/semcached/semcached/store"
)

// Store is a store.Store on a map. Writes take effect at once and are as durable
// as they will ever be. It survives Close: New with the same Records goes on.
type Store struct {
	mu     sync.Mutex // guards everything below
	recs   *Records
	closed bool
}

// Records is what a Store holds.
type Records struct {
	byID map[uint64]*store.Record
	last uint64
}

// New returns a store that holds r; nil makes a new, empty one.
func New(r *Records) *Store {
	if r == nil {
		r = &Records{}
	}
	if r.byID == nil {
		r.byID = make(map[uint64]*store.Record)
	}
	return &Store{recs: r}
}

// Put implements store.Store.
func (s *Store) Put(r *store.Record, done func(error)) error {
	if err := r.Check(); err != nil {
		return err
	}
	return s.write(done, func() {
		s.recs.byID[r.ID] = r
		s.recs.last = max(s.recs.last, r.ID)
	})
}

// Delete implements store.Store.
func (s *Store) Delete(ids []uint64, done func(error)) error {
	return s.write(done, func() {
		for _, id := range ids {
			delete(s.recs.byID, id)
		}
	})
}

func (s *Store) write(done func(error), change func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	change()
	if done != nil {
		go done(nil)
	}
	return nil
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
		c := *r
		c.AnswerBytes, c.Answer = len(r.Answer), nil
		live = append(live, &c)
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
	return store.Stats{Kind: "mem", Records: int64(len(s.recs.byID))}
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
