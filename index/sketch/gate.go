package sketch

import (
	"sync"
	"sync/atomic"
)

const (
	// writerTries and readerTries are how often a writer tries to find no reader, and a
	// reader no writer, before it is put to sleep: some ten microseconds, as long as most
	// searches take and some writes. More would keep a processor from who has the lock, if
	// that one has been interrupted.
	writerTries = 1000
	readerTries = 5000
)

// gate is a lock for many readers or one writer, of which the latter needs it for a
// microsecond. Who waits at a sync.RWMutex is put to sleep and woken up, which takes many
// times as long as the write: here those who come while somebody wants to write stay awake
// for a while, and the writer gets the lock as soon as the readers before have gone.
// Whoever has waited in vain waits at the RWMutex, so nobody waits for ever.
type gate struct {
	mu      sync.RWMutex
	writers atomic.Int32 // who have the lock or want it
}

// Lock takes the gate for writing.
func (g *gate) Lock() {
	g.writers.Add(1)
	for range writerTries {
		if g.mu.TryLock() {
			return
		}
	}
	g.mu.Lock()
}

// Unlock gives it back.
func (g *gate) Unlock() {
	g.mu.Unlock()
	g.writers.Add(-1)
}

// RLock takes the gate for reading.
func (g *gate) RLock() {
	for try := 0; try < readerTries && g.writers.Load() > 0; try++ {
	}
	g.mu.RLock()
}

// RUnlock gives it back.
func (g *gate) RUnlock() { g.mu.RUnlock() }
