package cache

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/semcached/semcached/cache/admission"
)

// answers keeps the answers that are asked for most in memory, within a budget; the
// others are read from the store when they are asked for. A hit on an answer in memory
// takes no lock and allocates nothing. It shares the counts of use with the eviction:
// a cache of its own (otter, say) would count again, and hold a second map of all IDs.
type answers struct {
	max   int64
	use   *admission.Sketch
	reads atomic.Uint64

	mu    sync.Mutex // guards everything below, and what entry says of it; after Engine.mu
	held  []*entry   // whose answers are in memory, in no order
	bytes int64
}

// seat is where an entry is in answers.held. Guarded by answers.mu.
type seat struct {
	pos   int
	taken bool
	over  bool // the entry has been removed
}

// answerSample is how many answers are compared to find one to let go.
const answerSample = 8

// hold keeps en's answer in memory and lets others go for it.
func (a *answers) hold(en *entry, answer []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if en.seat.taken || en.seat.over {
		return
	}
	en.answer.Store(&answer)
	en.seat.pos, en.seat.taken = len(a.held), true
	a.held = append(a.held, en)
	a.bytes += int64(len(answer))
	a.trimLocked()
}

// trim lets answers go until the budget is kept.
func (a *answers) trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trimLocked()
}

// trimLocked may leave the budget exceeded: an answer that is not on disk yet cannot go,
// and a better one does not go in its stead.
func (a *answers) trimLocked() {
	for tries := 0; a.bytes > a.max && tries < answerSample && len(a.held) > 0; {
		least := a.leastLocked()
		if !least.durable.Load() {
			tries++
			continue
		}
		a.leaveLocked(least)
		least.answer.Store(nil)
	}
}

// leastLocked returns the entry of a sample that is used least for its bytes.
func (a *answers) leastLocked() (least *entry) {
	var worth float64
	for range answerSample {
		en := a.held[rand.IntN(len(a.held))]
		w := float64(a.use.Estimate(en.Hash)) / float64(en.answerBytes+1)
		if least == nil || w < worth {
			least, worth = en, w
		}
	}
	return least
}

func (a *answers) leaveLocked(en *entry) {
	last := len(a.held) - 1
	a.held[en.seat.pos] = a.held[last]
	a.held[en.seat.pos].seat.pos = en.seat.pos
	a.held[last] = nil
	a.held = a.held[:last]
	a.bytes -= int64(en.answerBytes)
	en.seat.taken = false
}

// forget is told that en has been removed. Lookups that have found it just before may
// still serve its answer.
func (a *answers) forget(en *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	en.seat.over = true
	if en.seat.taken {
		a.leaveLocked(en)
	}
}

func (a *answers) stats() (held int, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.held), a.bytes
}

// answer returns en's answer, from memory or from the store.
func (e *Engine) answer(en *entry) ([]byte, error) {
	if a := en.answer.Load(); a != nil {
		return *a, nil
	}
	e.answers.reads.Add(1)
	a, err := e.o.Store.Answer(en.id)
	if err != nil {
		return nil, err
	}
	e.answers.hold(en, a)
	return a, nil
}
