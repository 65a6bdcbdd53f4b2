package sketch

import (
	"github.com/semcached/semcached/index/slab"
	"github.com/semcached/semcached/index/vec"
)

// chunkRows is the number of codes in a chunk of a list: a list grows by copying no more.
const chunkRows = 4096

// layout is the codes of an index's rows in lists. It is guarded by the index's mu, but
// for its space.
type layout struct {
	*space
	list []list
	// place is, for each row, one more than its list in the upper 32 bits and its
	// position there in the lower; 0: the row is not here (yet).
	place slab.Of[uint64]
}

// list is the codes of some rows.
type list struct {
	n     int
	first slab.Of[uint64] // the first word of a code
	whole slab.Of[uint64] // the whole code; empty if it has one word only
	rows  slab.Of[uint32]
	// least and most bound the distances of its vectors from the centre; they may be of
	// vectors that have gone.
	least, most float32
}

func newLayout(s *space) *layout {
	l := &layout{space: s, list: make([]list, s.len()), place: slab.Sized[uint64](1, placeRows)}
	for i := range l.list {
		l.list[i] = list{
			first: slab.Sized[uint64](1, chunkRows), whole: slab.Sized[uint64](s.r.words(), chunkRows),
			rows: slab.Sized[uint32](1, chunkRows), least: 2,
		}
	}
	return l
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
	in.first.Grow(in.n + 1)
	in.rows.Grow(in.n + 1)
	in.first.Row(in.n)[0] = at.code[0]
	in.rows.Row(in.n)[0] = uint32(row)
	if w := l.r.words(); w > 1 {
		in.whole.Grow(in.n + 1)
		copy(in.whole.Row(in.n), at.code[:w])
	}
	in.least, in.most = min(in.least, at.least), max(in.most, at.most)
	l.place.Row(row)[0] = uint64(at.list+1)<<32 | uint64(in.n)
	in.n++
}

// reserve makes room for n rows in all, with codes of so many words.
func (in *list) reserve(n, words int) {
	in.first.Grow(n)
	in.rows.Grow(n)
	if words > 1 {
		in.whole.Grow(n)
	}
}

// take removes a row from its list, if it is in one; the last of the list takes its
// place.
func (l *layout) take(row int) {
	if !l.has(row) {
		return
	}
	where := l.place.Row(row)
	in, i := &l.list[where[0]>>32-1], int(uint32(where[0]))
	last := in.n - 1
	if i != last {
		moved := in.rows.Row(last)[0]
		in.rows.Row(i)[0] = moved
		in.first.Row(i)[0] = in.first.Row(last)[0]
		if l.r.words() > 1 {
			copy(in.whole.Row(i), in.whole.Row(last))
		}
		l.place.Row(int(moved))[0] = where[0]
	}
	where[0] = 0
	in.n = last
	if in.n == 0 {
		in.least, in.most = 2, 0
	}
	in.first.Shrink(in.n)
	in.rows.Shrink(in.n)
	in.whole.Shrink(in.n)
}

// rename gives a row that is here another number, whose own row has been taken.
func (l *layout) rename(from, to int) {
	where := l.place.Row(from)
	l.list[where[0]>>32-1].rows.Row(int(uint32(where[0])))[0] = uint32(to)
	l.place.Row(to)[0], where[0] = where[0], 0
}

// shrink gives back what n rows do not need.
func (l *layout) shrink(n int) { l.place.Shrink(n) }

// spotOf returns where a row is.
func (l *layout) spotOf(row int) spot {
	where := l.at(row)
	in, i := &l.list[where>>32-1], int(uint32(where))
	at := spot{list: int(where>>32 - 1), least: in.least, most: in.most}
	at.code[0] = in.first.Row(i)[0]
	if w := l.r.words(); w > 1 {
		copy(at.code[:w], in.whole.Row(i))
	}
	return at
}

// bytes is the memory held.
func (l *layout) bytes() int64 {
	n := l.bytesHeld() + l.place.Bytes()
	for i := range l.list {
		in := &l.list[i]
		n += in.first.Bytes() + in.whole.Bytes() + in.rows.Bytes()
	}
	const header = 152 // of a list
	return n + header*int64(len(l.list))
}

// near appends the rows of a list whose first words are within the limit and whose codes
// within the other; code is the question's.
func (s *search) near(l *layout, i int, first, whole int) {
	in, words := &l.list[i], l.r.words()
	code := s.code[:words]
	l.code(code[:1], &s.sketched, i)
	coded := words == 1
	s.did.lists++
	s.did.codes += in.n
	for c, left := 0, in.n; left > 0; c, left = c+1, left-chunkRows {
		codes := in.first.Chunks()[c]
		s.found = vec.Near(s.found[:0], codes[:min(left, chunkRows)], code[0], first)
		n := len(s.found)
		s.did.whole += n
		s.distance = resize(s.distance, n)
		if words > 1 && n > 0 {
			if !coded {
				l.code(code, &s.sketched, i)
				coded = true
			}
			n = vec.Closer(s.found, s.distance, in.whole.Chunks()[c], code, whole)
		} else {
			clear(s.distance)
		}
		rows := in.rows.Chunks()[c]
		for j, at := range s.found[:n] {
			row := rows[at]
			vec.Prefetch(s.ix.row(int(row))[:min(prefetched, s.ix.dims)])
			s.wanted = append(s.wanted, candidate{row: row, distance: s.distance[j]})
		}
	}
}
