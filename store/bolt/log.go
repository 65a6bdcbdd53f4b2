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
	last, since, release := s.hold(after)
	defer release()
	if after < since {
		return store.ErrGone
	}
	if err := s.checkLog(after, last); err != nil {
		s.forgetLog(err)
		if errors.Is(err, store.ErrCorrupt) { // damaged pages
			err = fmt.Errorf("%w: %w", store.ErrGone, err)
		}
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

// hold keeps the changes after number after in the log, as far as they are there, until
// release is called: those after since, up to last.
func (s *Store) hold(after uint64) (last, since uint64, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since = s.sinceLocked()
	held := max(after, since)
	s.holds[&held] = struct{}{}
	return s.state.seq, since, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.holds, &held)
	}
}

// sinceLocked returns the change behind which the log is whole and will stay so.
func (s *Store) sinceLocked() uint64 { return max(s.state.since, s.leaving) }

// forgetLog gives up a damaged log, so that it does not get in anybody's way again.
func (s *Store) forgetLog(err error) {
	if errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrCorrupt) && !pagesDamaged(err) {
		s.o.Log.Warn("the log of changes is damaged and begins anew", "error", err)
		s.enqueue(op{kind: opForget})
	}
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
