package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// Seq implements store.Store.
func (s *Store) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.seq
}

// changesPerView is how many changes are read in one transaction.
const changesPerView = 1024

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after uint64, fn func(store.Change) error) error {
	if err := s.alive(ctx); err != nil {
		return err
	}
	// What is to be told must stay in the log until it has been.
	s.mu.Lock()
	last := s.state.seq
	gone := after < s.state.since
	s.holds[&after] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.holds, &after)
		s.mu.Unlock()
	}()
	if gone {
		return store.ErrGone
	}
	if err := s.checkLog(after, last); err != nil {
		return err
	}
	for next := after + 1; next <= last; {
		if err := s.alive(ctx); err != nil {
			return err
		}
		changes, err := s.readChanges(next, min(last, next+changesPerView-1))
		if err != nil {
			return err
		}
		next += changesPerView
		for _, c := range changes {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return s.alive(ctx)
}

// checkLog returns store.ErrGone if the changes after number after, up to last, are
// not all there and sound.
func (s *Store) checkLog(after, last uint64) error {
	return s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		next := after + 1
		for k, v := c.Seek(idKey(next)); k != nil && next <= last; k, v = c.Next() {
			if len(k) != 8 || binary.BigEndian.Uint64(k) != next || unseal(k, v) == nil {
				return fmt.Errorf("%w: change %d is damaged", store.ErrGone, next)
			}
			next++
		}
		if next <= last {
			return fmt.Errorf("%w: change %d is missing", store.ErrGone, next)
		}
		return nil
	})
}

// readChanges reads changes from first to last with their records.
func (s *Store) readChanges(first, last uint64) (changes []store.Change, err error) {
	bad := make(map[uint64]error)
	err = s.view(func(tx *bbolt.Tx) error {
		d, entries := store.NewDecoder(readSpaces(tx)), tx.Bucket(bucketEntry)
		c := tx.Bucket(bucketLog).Cursor()
		k, v := c.Seek(idKey(first))
		for seq := first; seq <= last; seq++ {
			key, value := k, v
			k, v = c.Next()
			ch, ok := decodeChange(key, value)
			if !ok || binary.BigEndian.Uint64(key) != seq {
				return fmt.Errorf("%w: change %d", store.ErrCorrupt, seq)
			}
			told := store.Change{Seq: seq}
			if ch.kind == logDelete {
				told.Deleted = ch.ids
			} else {
				id := ch.ids[0]
				meta := entries.Get(idKey(id))
				if meta == nil {
					continue // removed since: that change follows
				}
				r, err := d.Meta(id, meta)
				if err != nil {
					bad[id] = err
					continue
				}
				told.Put = r
			}
			changes = append(changes, told)
		}
		return nil
	})
	for id, err := range bad {
		s.corrupt(id, err)
	}
	if errors.Is(err, store.ErrCorrupt) { // a salvaged file is on its way: start from the records
		err = fmt.Errorf("%w: %w", store.ErrGone, err)
	}
	return changes, err
}
