package bolt

import (
	"context"
	"io"

	"github.com/semcached/semcached/store"
)

// Seq implements store.Store. Format 1 keeps no log: numbers begin anew at Open.
func (s *Store) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Seq
}

// Changes implements store.Store. Format 1 keeps no log.
func (s *Store) Changes(_ context.Context, after uint64, _ func(store.Change) error) error {
	if after < s.Seq() {
		return store.ErrGone
	}
	return nil
}

// SaveSnapshot implements store.Store. Format 1 keeps no snapshots.
func (s *Store) SaveSnapshot(uint64, func(io.Writer) error) error { return nil }

// Snapshot implements store.Store.
func (s *Store) Snapshot() (uint64, io.ReadCloser, error) { return 0, nil, store.ErrNotFound }
