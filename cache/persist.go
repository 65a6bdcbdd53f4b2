package cache

import (
	"errors"
	"sync"

	"github.com/semcached/semcached/store"
)

const (
	// retryBatch bounds the writes tried again at a time, retryTicks how many
	// sweeps lie between: a disk that is full stays so for a while.
	retryBatch = 1000
	retryTicks = 5
	// unsavedBytes bounds the records kept for another try. Beyond it entries stay
	// in memory only.
	unsavedBytes = 64 << 20
)

// unsaved are the writes that have failed, to be tried again: when the disk has room
// once more, it gets what memory has.
type unsaved struct {
	mu       sync.Mutex // guards everything below; after Engine.mu
	puts     []failedPut
	deletes  []uint64
	bytes    int64 // of puts
	diverged bool  // a failed write was given up: the store lacks what memory has
}

// failedPut is a record that did not reach the store.
type failedPut struct {
	entry   *entry
	rec     *store.Record
	version int // entry.writes when it was queued
}

func (f failedPut) size() int64 {
	return int64(entryOverhead + len(f.rec.Canonical) + len(f.rec.Prompt) + 4*len(f.rec.Vector) + len(f.rec.Answer))
}

// saveLocked queues a record of en. waits, if not nil, has room for the one result it
// gets; without it a failed write is tried again later.
func (e *Engine) saveLocked(en *entry, rec *store.Record, waits chan<- error) {
	en.writes++
	version := en.writes
	saved := func(err error) {
		switch {
		case err == nil:
			en.durable.Store(true)
		case waits == nil:
			e.unsaved.put(failedPut{en, rec, version}, err)
		}
		if waits != nil {
			waits <- err
		}
	}
	if err := e.o.Store.Put(rec, waits != nil, saved); err != nil {
		if waits == nil { // else counted by who waits
			e.count.storeFailed.Add(1)
		}
		saved(err)
	}
}

// eraseLocked queues the removal of ids; done, if not nil, is called with the result.
// What fails is tried again later. It returns store.ErrClosed, and calls nobody then.
func (e *Engine) eraseLocked(ids []uint64, done func(error)) error {
	return e.o.Store.Delete(ids, done != nil, func(err error) {
		if err != nil {
			e.unsaved.delete(ids, err)
		}
		if done != nil {
			done(err)
		}
	})
}

func (u *unsaved) put(f failedPut, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrClosed):
	case errors.Is(err, store.ErrTooLarge) && f.version == 1:
		f.entry.refused.Store(true)
	case u.bytes+f.size() > unsavedBytes, errors.Is(err, store.ErrTooLarge):
		u.diverged = true
	default:
		u.puts = append(u.puts, f)
		u.bytes += f.size()
	}
}

func (u *unsaved) delete(ids []uint64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !errors.Is(err, store.ErrClosed) {
		u.deletes = append(u.deletes, ids...)
	}
}

// take takes out up to retryBatch writes of each kind.
func (u *unsaved) take() (puts []failedPut, deletes []uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, m := min(len(u.puts), retryBatch), min(len(u.deletes), retryBatch)
	puts, deletes = u.puts[:n:n], u.deletes[:m:m]
	u.puts, u.deletes = u.puts[n:], u.deletes[m:]
	for _, f := range puts {
		u.bytes -= f.size()
	}
	return puts, deletes
}

// len returns how many writes wait for another try, and whether some were given up.
func (u *unsaved) len() (waiting int, diverged bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.puts) + len(u.deletes), u.diverged
}

// retry queues failed writes again, unless they are out of date.
func (e *Engine) retry() {
	puts, deletes := e.unsaved.take()
	e.mu.Lock()
	if len(deletes) > 0 {
		e.eraseLocked(deletes, nil) // only ErrClosed: there is no later
	}
	e.mu.Unlock()
	for _, f := range puts {
		e.mu.Lock()
		if !f.entry.removed && f.entry.writes == f.version {
			e.saveLocked(f.entry, f.rec, nil)
		}
		e.mu.Unlock()
	}
}
