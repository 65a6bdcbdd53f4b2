package sketch

import "unsafe"

// chunkRows is the number of codes in a chunk of a list: a list grows by copying no more.
const chunkRows = 4096

// list is the codes of some rows: in chunks, of which all but the last are full.
type list struct {
	n    int
	near uint8 // the least of its vectors' distances from the centre, and the greatest:
	far  uint8 // levels, which may be of vectors that have gone
	head chunk
	more []chunk
}

// chunk is the codes of up to chunkRows rows in four parts, so that a search reads only as
// much of each code as it needs to know.
type chunk struct {
	first  []uint64 // word of a code
	second []uint64 // word; empty if there is one only
	rest   []uint64 // the words from the third on, code by code
	away   []uint8  // level of the distance from the centre
	rows   []uint32
}

// grown returns the chunk with room for n rows.
func (c chunk) grown(n, words int) chunk {
	d := chunk{first: make([]uint64, n), away: make([]uint8, n), rows: make([]uint32, n)}
	copy(d.first, c.first)
	copy(d.away, c.away)
	copy(d.rows, c.rows)
	if words > 1 {
		d.second = make([]uint64, n)
		copy(d.second, c.second)
	}
	if words > 2 {
		d.rest = make([]uint64, n*(words-2))
		copy(d.rest, c.rest)
	}
	return d
}

// set makes row i what it is at the place where.
func (c *chunk) set(i, row, words int, at *spot) {
	c.first[i], c.away[i], c.rows[i] = at.code[0], at.away, uint32(row)
	if words > 1 {
		c.second[i] = at.code[1]
	}
	if words > 2 {
		copy(c.rest[i*(words-2):], at.code[2:words])
	}
}

// chunk returns the c-th.
func (in *list) chunk(c int) *chunk {
	if c == 0 {
		return &in.head
	}
	return &in.more[c-1]
}

// row returns the number of the i-th row.
func (in *list) row(i int) int { return int(in.chunk(i / chunkRows).rows[i%chunkRows]) }

// get returns what set was given for the i-th row, but for the list.
func (in *list) get(i, words int) (at spot) {
	c := in.chunk(i / chunkRows)
	i %= chunkRows
	at.code[0], at.away = c.first[i], c.away[i]
	if words > 1 {
		at.code[1] = c.second[i]
	}
	if words > 2 {
		copy(at.code[2:words], c.rest[i*(words-2):])
	}
	return at
}

// push adds a row at the end.
func (in *list) push(row, words int, at *spot) {
	in.reserve(in.n+1, words)
	in.chunk(in.n/chunkRows).set(in.n%chunkRows, row, words, at)
	if in.n == 0 {
		in.near, in.far = at.away, at.away
	}
	in.near, in.far = min(in.near, at.away), max(in.far, at.away)
	in.n++
}

// pop removes the last row.
func (in *list) pop() {
	in.n--
	// One empty chunk is kept: a list that shrinks and grows by turns does not pay for it.
	if keep := in.n/chunkRows + 1; keep < len(in.more) {
		clear(in.more[keep:])
		in.more = in.more[:keep]
	}
}

// reserve makes room for n rows. The first chunk grows by an eighth at a time.
func (in *list) reserve(n, words int) {
	if room := len(in.head.rows); room < min(n, chunkRows) {
		in.head = in.head.grown(min(chunkRows, max(n, room+room/8+1)), words)
	}
	for (len(in.more)+1)*chunkRows < n {
		in.more = append(in.more, chunk{}.grown(chunkRows, words))
	}
}

// bytes is the memory held.
func (in *list) bytes(words int) int64 {
	perRow := 8*words + 1 + 4
	return int64(unsafe.Sizeof(*in)) + int64(len(in.head.rows)*perRow) +
		int64(len(in.more)*chunkRows*perRow) + int64(cap(in.more))*int64(unsafe.Sizeof(chunk{}))
}
