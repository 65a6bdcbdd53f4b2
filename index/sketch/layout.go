package sketch

import "github.com/semcached/semcached/index/slab"

// layout is the codes of an index's rows in lists. It is guarded by the index's mu, but
// for its space.
type layout struct {
	*space
	list []list
	// place is, for each row, one more than its list in the upper 32 bits and its
	// position there in the lower; 0: the row is not here (yet).
	place slab.Of[uint64]
}

func newLayout(s *space) *layout {
	return &layout{space: s, list: make([]list, s.len()), place: slab.Sized[uint64](1, placeRows)}
}

// has reports whether a row is in some list.
func (l *layout) has(row int) bool {
	return row < len(l.place.Chunks())<<l.place.Shift() && l.at(row) != 0
}

func (l *layout) at(row int) uint64 {
	chunk := l.place.Chunks()[row>>l.place.Shift()]
	if i := row & (1<<l.place.Shift() - 1); i < len(chunk) {
		return chunk[i]
	}
	return 0
}

// put puts a row where it belongs, wherever it was before.
func (l *layout) put(row int, at *spot) {
	l.place.Grow(row + 1)
	l.take(row)
	in := &l.list[at.list]
	l.place.Row(row)[0] = uint64(at.list+1)<<32 | uint64(in.n)
	in.push(row, l.r.words(), at)
}

// take removes a row from its list, if it is in one; the last of the list takes its
// place.
func (l *layout) take(row int) {
	if !l.has(row) {
		return
	}
	where, words := l.place.Row(row), l.r.words()
	in, i := &l.list[where[0]>>32-1], int(uint32(where[0]))
	if last := in.n - 1; i != last {
		moved, at := in.row(last), in.get(last, words)
		in.chunk(i/chunkRows).set(i%chunkRows, moved, words, &at)
		l.place.Row(moved)[0] = where[0]
	}
	where[0] = 0
	in.pop()
}

// rename gives a row that is here another number, whose own row has been taken.
func (l *layout) rename(from, to int) {
	where := l.place.Row(from)
	i := int(uint32(where[0]))
	l.list[where[0]>>32-1].chunk(i / chunkRows).rows[i%chunkRows] = uint32(to)
	l.place.Row(to)[0], where[0] = where[0], 0
}

// shrink gives back what n rows do not need.
func (l *layout) shrink(n int) { l.place.Shrink(n) }

// spotOf returns where a row is.
func (l *layout) spotOf(row int) spot {
	where := l.at(row)
	at := l.list[where>>32-1].get(int(uint32(where)), l.r.words())
	at.list = int(where>>32 - 1)
	return at
}

// bytes is the memory held.
func (l *layout) bytes() int64 {
	n := l.bytesHeld() + l.place.Bytes()
	for i := range l.list {
		n += l.list[i].bytes(l.r.words())
	}
	return n
}
