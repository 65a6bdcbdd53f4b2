package sketch

import (
	"math/rand/v2"
	"runtime"
)

const (
	// slice is how many rows the background looks at between two moments at which
	// others may have the lock.
	slice = 16
	// drift is how far, squared, the mean may move from the centre of a single list
	// before its codes are made anew.
	drift = 0.01
)

// encode makes the first codes, of few vectors. The caller holds mu for writing.
func (ix *Index) encode() {
	sample := make([][]float32, ix.n)
	for i := range sample {
		sample[i] = ix.row(i)
	}
	l := newLayout(newSpace(rotationOf(ix.dims), ix.dims, ix.n, [][]float32{mean(sample)}))
	var d sketched
	for i, v := range sample {
		l.sketch(&d, v)
		at := l.spot(&d)
		l.put(i, &at)
	}
	ix.tier = &tier{cur: l, due: ix.n}
}

// improve begins to make another layout in the background if as many vectors have come
// as there were the last time, or three in four have gone. The caller holds mu for
// writing.
func (ix *Index) improve() {
	t := ix.tier
	if t == nil || t.building || t.due > 0 && ix.n > t.low {
		return
	}
	t.building, t.due, t.low = true, ix.n, ix.n/4
	if ix.n < ix.o.listsFrom {
		t.due = min(t.due, ix.o.listsFrom-ix.n)
	}
	go ix.build(t)
}

// build makes the layout that suits the index now and puts it in force. Unless t stays
// the index's tier it gives up.
func (ix *Index) build(t *tier) {
	defer func() {
		ix.mu.Lock()
		t.building, t.next = false, nil
		if ix.tier == t {
			ix.improve() // much may have come meanwhile
		}
		ix.mu.Unlock()
	}()
	sample, n := ix.sample(t)
	if len(sample) == 0 {
		return
	}
	ix.mu.RLock()
	cur := t.cur.space
	ix.mu.RUnlock()
	sp := ix.suited(cur, sample, n)
	if sp == cur {
		return
	}
	next := newLayout(sp)
	ix.mu.Lock()
	t.next = next
	ix.mu.Unlock()
	for row := 0; row >= 0; {
		row = ix.fill(t, next, row)
		runtime.Gosched() // better here than with the lock
	}
}

// sample copies some vectors of the index, no row twice, and returns them and the number
// of all.
func (ix *Index) sample(t *tier) (sample [][]float32, n int) {
	ix.mu.RLock()
	n = ix.n
	ix.mu.RUnlock()
	rows := rand.Perm(n)[:ix.o.sampleSize(n)]
	for len(rows) > 0 {
		ix.mu.RLock()
		if ix.tier != t {
			ix.mu.RUnlock()
			return nil, 0
		}
		for _, row := range rows[:min(slice, len(rows))] {
			if row < ix.n { // else it has gone meanwhile
				sample = append(sample, append([]float32(nil), ix.row(row)...))
			}
		}
		ix.mu.RUnlock()
		rows = rows[min(slice, len(rows)):]
		runtime.Gosched()
	}
	return sample, n
}

// fill puts the next rows from row on into a layout, puts the layout in force if these
// were the last, and returns where to go on; -1 if there is nothing more to do.
func (ix *Index) fill(t *tier, next *layout, row int) int {
	s := borrow()
	defer s.release()
	var at [slice]spot
	s.unit = resize(s.unit, slice*ix.dims)

	ix.mu.RLock()
	if ix.tier != t {
		ix.mu.RUnlock()
		return -1
	}
	changes, n := t.changes, 0
	for ; n < slice && row+n < ix.n; n++ {
		copy(s.unit[n*ix.dims:(n+1)*ix.dims], ix.row(row+n))
	}
	ix.mu.RUnlock()

	for i := range n {
		next.sketch(&s.sketched, s.unit[i*ix.dims:(i+1)*ix.dims])
		at[i] = next.spot(&s.sketched)
	}

	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.tier != t {
		return -1
	}
	for i := range n {
		switch {
		case row+i >= ix.n || next.has(row+i):
			continue
		case changes != t.changes:
			next.sketch(&s.sketched, ix.row(row+i))
			at[i] = next.spot(&s.sketched)
		}
		next.put(row+i, &at[i])
	}
	if row += n; row < ix.n {
		return row
	}
	t.cur, t.next = next, nil
	return -1
}
