package sketch

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/index/vec"
)

const (
	// probeEvery is how many searches of a processor there are between two of which one
	// may be probed.
	probeEvery = 512
	// probeRest is how many times as long as the last probe took none is begun after it:
	// it reads every vector, and takes what it reads from the processor's caches.
	probeRest = 500
)

// prober compares, now and then, what a search finds with what there is. Codes miss what
// was computed; lists miss what was measured when they were made, on data that may have
// become other data since. A vector that is missed because of its list widens the margins.
type prober struct {
	busy atomic.Bool // a probe is under way, which owns the next three fields
	rest time.Time   // none before
	unit []float32   // the question
	// threshold of the question
	threshold float32

	asked, found atomic.Int64 // questions with an answer, and of those the found ones
}

// sampled reports whether this search is one of those that may be probed. The count is
// that of the scratch space, of which each processor has its own: counting costs nothing.
func (s *search) sampled() bool {
	s.count++
	return s.count%probeEvery == 0
}

// maybeProbe begins a probe of the search that s has made, unless it is too early.
func (ix *Index) maybeProbe(t *tier, s *search, threshold float32) {
	p := &t.probe
	if !p.busy.CompareAndSwap(false, true) {
		return
	}
	if time.Now().Before(p.rest) {
		p.busy.Store(false)
		return
	}
	p.unit, p.threshold = append(p.unit[:0], s.unit...), threshold
	go func() {
		defer p.busy.Store(false)
		start := time.Now()
		ix.probe(t, p.unit, p.threshold)
		p.rest = time.Now().Add(probeRest * time.Since(start))
	}()
}

// probe compares the answer to a question with the exact one.
func (ix *Index) probe(t *tier, q []float32, threshold float32) {
	id, score := ix.nearest(t, q, threshold)
	if score < threshold {
		return
	}
	s := borrow()
	defer s.release()
	got, err := s.run(ix, nil, q, threshold, 1)
	ix.mu.Lock()
	defer ix.mu.Unlock()
	row, there := ix.find(id)
	if err != nil || ix.tier != t || !there || vec.Dot(q, ix.row(int(row))) < score-1e-5 {
		return // it has gone meanwhile
	}
	t.probe.asked.Add(1)
	if len(got) > 0 && got[0].Score >= score-1e-5 {
		t.probe.found.Add(1)
		return
	}
	ix.widen(t, s, q, threshold, int(row))
}

// nearest returns the vector nearest to q, by looking at all, some at a time; a score
// below the threshold if none is near enough.
func (ix *Index) nearest(t *tier, q []float32, threshold float32) (id uint64, score float32) {
	score = threshold - 1
	for row := 0; ; {
		ix.mu.RLock()
		for stop := min(ix.n, row+slice); row < stop; row++ {
			if dot := vec.Dot(q, ix.row(row)); dot >= max(score, threshold) {
				id, score = ix.id(row), dot
			}
		}
		done := row >= ix.n || ix.tier != t
		ix.mu.RUnlock()
		if done {
			return id, score
		}
		runtime.Gosched() // better here than with the lock
	}
}

// widen widens the margins if a row was missed because they are too small for a question.
// The caller holds mu for writing.
func (ix *Index) widen(t *tier, s *search, q []float32, threshold float32, row int) {
	l := t.cur
	l.sketch(&s.sketched, q)
	needed, margin := l.far(&s.sketched, l.spotOf(row).list), l.margin(threshold)
	if needed <= margin {
		return // its code it was
	}
	wider := *l.space
	for i := range wider.margins {
		wider.margins[i] += safety*needed - margin
	}
	l.space = &wider
}
