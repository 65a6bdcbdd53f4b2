// Package sketch answers "what is at least this similar" by comparing binary codes
// first and vectors only where the codes allow it.
//
// # The codes
//
// A vector x is turned by a random rotation R that is drawn when the process starts
// (two rounds of random signs and a Walsh-Hadamard transform: Ailon and Chazelle, "The
// Fast Johnson-Lindenstrauss Transform", 2009), and bit j of its code says on which
// side of the partition's centre c it lies: sign((R(x-c))_j). Random hyperplanes
// separate two vectors with a probability proportional to the angle between them
// (Goemans and Williamson 1995; Charikar 2002, section 3): each bit of the codes of x
// and a question q differs with probability angle(x-c, q-c)/pi.
//
// # What a search may miss
//
// Let t be the threshold. All vectors are of unit length, so whatever is to be found
// lies within r = sqrt(2-2t) of q. Seen from c, at the distance u = |q-c|, a point
// within r of q lies at an angle of at most asin(r/u): the tangent to that ball. Hence
// each bit differs with probability at most p = asin(r/u)/pi, whatever the data looks
// like. The number of differing bits among n is then at most binomial, and the search
// drops a vector only beyond the distance that a binomial variable with n and p exceeds
// with a small probability: 1/1250 among the first 64 bits, where each bit more costs
// survivors, and 1/20000 among all 256. Together that is less than 1/1000 for a vector
// exactly at the threshold and in the least favourable place; above it the angle
// shrinks and the probability with it, by orders of magnitude.
// TestPairsAtTheThresholdAreFound measures it.
//
// From some ten thousand vectors on, searches look into a part of the codes only, and may
// miss another 1/1000 at the threshold, as measured on the data: see lists.go.
//
// What is dropped is never looked at again, and what is not dropped is compared
// exactly: there are no false hits, and scores are exact cosines.
//
// # Memory
//
// Per vector: 4 bytes per dimension, 32 bytes of code (from 256 vectors on), 8 of ID
// and about 24 of the map from IDs to rows (from 33 vectors on), and 10 where there are
// lists. A search touches eight bytes per vector that it looks at, and little else.
package sketch

import (
	"io"
	"math"
	"slices"
	"sync"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

const (
	// defaultCodesFrom is the number of vectors from which codes are kept:
	// below, a plain scan takes no longer than turning the question.
	defaultCodesFrom = 256
	// mapFrom is the number of vectors from which their rows are found by a
	// map: below, looking through them costs less than the map's memory.
	mapFrom = 33
	// nearIdentical is the cosine from which a hit is taken for the question
	// itself: when as many as are asked for are found, nothing better can come.
	nearIdentical = 0.9999
	// drift is how far, squared, the mean may move from the centre of the
	// codes before they are made anew.
	drift = 0.01
)

// Index is an index.Index. Searches with a threshold are probabilistic as the package
// says; TopK is exact. The zero value is not usable; see New.
type Index struct {
	dims int

	mu    sync.RWMutex      // guards the fields below
	rows  []float32         // unit vectors, one after the other
	ids   []uint64          // of the rows
	at    map[uint64]uint32 // row of an ID; nil below mapFrom
	codes *codes            // nil below codesFrom

	always    bool   // make lists even of data without groups, for tests
	codesFrom int    // number of vectors from which codes are kept
	listsFrom int    // number of vectors from which lists are tried
	nextLists int    // at which they are tried next
	building  *build // nil unless lists are being made
}

// codes are the binary codes of an index's rows.
type codes struct {
	r     *rotation
	words int       // 64-bit words of a code
	first []uint64  // the first word of each row's code; nil with lists
	rest  []uint64  // the other words, row by row; likewise
	lists *lists    // nil while there are not enough rows, or they have no groups
	sum   []float64 // of all rows

	centre []float32 // c
	turned []float32 // R(c), as many components as there are bits
	norm2  float64   // |c|^2
	next   int       // number of rows at which the centre is looked at again
}

// New returns an empty index for vectors of dims components; dims < 1 is a
// programmer's mistake and panics.
func New(dims int) *Index {
	if dims < 1 {
		panic("sketch: dims must be positive")
	}
	return &Index{dims: dims, codesFrom: defaultCodesFrom, listsFrom: defaultListsFrom, nextLists: defaultListsFrom}
}

// Add implements index.Index in O(1), but for the moments at which the number of
// vectors has doubled and their mean has moved: then all codes are made anew, at about
// a microsecond each.
func (ix *Index) Add(id uint64, v []float32) error {
	unit := floats.get(ix.dims)
	defer floats.put(unit)
	if err := index.Unit(*unit, v, ix.dims); err != nil {
		return err
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	row, replace := ix.find(id)
	if !replace {
		row = uint32(len(ix.ids))
		ix.grow()
		ix.ids = append(ix.ids, id)
		if ix.at != nil {
			ix.at[id] = row
		} else if len(ix.ids) == mapFrom {
			ix.remember()
		}
	} else if ix.codes != nil {
		ix.codes.weigh(ix.row(row), -1)
	}
	copy(ix.row(row), *unit)
	ix.touch(row)
	switch {
	case ix.codes != nil:
		ix.codes.weigh(*unit, 1)
		ix.codes.put(int(row), *unit)
		if len(ix.ids) >= ix.codes.next {
			ix.recentre()
		}
	case len(ix.ids) >= ix.codesFrom:
		ix.encode()
	}
	ix.maybeBuild()
	return nil
}

// touch tells the making of lists that a row has changed.
func (ix *Index) touch(row uint32) {
	if ix.building != nil {
		ix.building.dirty[row] = struct{}{}
	}
}

// find returns the row of an ID. The caller holds mu.
func (ix *Index) find(id uint64) (row uint32, ok bool) {
	if ix.at != nil {
		row, ok = ix.at[id]
		return row, ok
	}
	i := slices.Index(ix.ids, id)
	return uint32(max(i, 0)), i >= 0
}

func (ix *Index) remember() {
	ix.at = make(map[uint64]uint32, 2*mapFrom)
	for i, id := range ix.ids {
		ix.at[id] = uint32(i)
	}
}

// grow adds a row: a few at a time while there are few, so that many small indexes do
// not pay for what they do not need, then a quarter more each time.
func (ix *Index) grow() {
	n := len(ix.rows) + ix.dims
	if n > cap(ix.rows) {
		rows := make([]float32, len(ix.rows), len(ix.rows)+max(4, len(ix.ids)/4)*ix.dims)
		copy(rows, ix.rows)
		ix.rows = rows
	}
	ix.rows = ix.rows[:n]
}

func (ix *Index) row(i uint32) []float32 {
	at := int(i) * ix.dims
	return ix.rows[at : at+ix.dims : at+ix.dims]
}

// Remove implements index.Index in O(1): the last row takes the place of the removed
// one.
func (ix *Index) Remove(id uint64) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	row, ok := ix.find(id)
	if !ok {
		return false
	}
	last := uint32(len(ix.ids) - 1)
	if ix.codes != nil {
		ix.codes.weigh(ix.row(row), -1)
		ix.codes.move(int(last), int(row))
		ix.touch(row)
		ix.touch(last)
	}
	if row != last {
		copy(ix.row(row), ix.row(last))
		ix.ids[row] = ix.ids[last]
		if ix.at != nil {
			ix.at[ix.ids[row]] = row
		}
	}
	delete(ix.at, id)
	ix.ids = ix.ids[:last]
	ix.rows = ix.rows[:int(last)*ix.dims]
	if int(last) < ix.codesFrom/2 {
		ix.codes, ix.nextLists = nil, ix.listsFrom
	}
	return true
}

// encode makes the codes of all rows. The caller holds mu.
func (ix *Index) encode() {
	r := rotationOf(ix.dims)
	c := &codes{r: r, words: r.bits / 64, sum: make([]float64, ix.dims)}
	for i := range ix.ids {
		c.weigh(ix.row(uint32(i)), 1)
	}
	ix.codes = c
	ix.recode()
}

// recentre makes the codes anew if the mean has left their centre.
func (ix *Index) recentre() {
	c := ix.codes
	moved := 0.0
	for i, s := range c.sum {
		d := s/float64(len(ix.ids)) - float64(c.centre[i])
		moved += d * d
	}
	if c.next = 2 * len(ix.ids); moved > drift {
		ix.recode()
	}
}

// recode moves the centre of the codes to the mean and makes them anew.
func (ix *Index) recode() {
	c, n := ix.codes, len(ix.ids)
	c.centre, c.norm2, c.next = make([]float32, ix.dims), 0, 2*n
	for i, s := range c.sum {
		m := s / float64(n)
		c.centre[i] = float32(m)
		c.norm2 += m * m
	}
	turned := floats.get(c.r.size)
	defer floats.put(turned)
	c.r.turn(*turned, c.centre)
	c.turned = slices.Clone((*turned)[:c.r.bits])
	if c.lists == nil {
		c.first, c.rest = make([]uint64, 0, n+n/4), make([]uint64, 0, (n+n/4)*(c.words-1))
	}
	for i := range ix.ids {
		c.put(i, ix.row(uint32(i)))
	}
}

// weigh adds or takes away a row of the sum.
func (c *codes) weigh(row []float32, sign float64) {
	for i, x := range row {
		c.sum[i] += sign * float64(x)
	}
}

// put makes the code of row i, which may be the next one.
func (c *codes) put(i int, v []float32) {
	if l := c.lists; l != nil {
		if i < len(l.of) {
			l.take(i, c.words)
		}
		var code [maxWords]uint64
		c.code(&code, v)
		bytes, scores := byteScratch.get(l.p.stride), floats.get(l.p.len())
		l.add(i, uint16(l.p.scores(*scores, *bytes, v)), &code, c.words)
		byteScratch.put(bytes)
		floats.put(scores)
		return
	}
	if i == len(c.first) {
		c.first = append(c.first, 0)
		c.rest = append(c.rest, make([]uint64, c.words-1)...)
	}
	var code [maxWords]uint64
	c.code(&code, v)
	c.first[i] = code[0]
	copy(c.rest[i*(c.words-1):], code[1:c.words])
}

// move puts the code of the last row into row i and drops the last.
func (c *codes) move(last, i int) {
	if c.lists != nil {
		c.lists.take(i, c.words)
		c.lists.rename(last, i)
		return
	}
	w := c.words - 1
	c.first[i] = c.first[last]
	copy(c.rest[i*w:(i+1)*w], c.rest[last*w:])
	c.first, c.rest = c.first[:last], c.rest[:last*w]
}

// code computes the code of v.
func (c *codes) code(out *[maxWords]uint64, v []float32) {
	turned := floats.get(c.r.size)
	defer floats.put(turned)
	c.r.turn(*turned, v)
	y := (*turned)[:len(c.turned)]
	for w := range c.words {
		var word uint64
		a, b := y[64*w:64*w+64], c.turned[64*w:64*w+64]
		for j, x := range a {
			word |= uint64(math.Float32bits(x-b[j])>>31) << j
		}
		out[w] = word
	}
}

// Search implements index.Index. It allocates nothing when dst has room for k hits.
func (ix *Index) Search(dst []index.Hit, q []float32, threshold float32, k int) ([]index.Hit, error) {
	unit := floats.get(ix.dims)
	defer floats.put(unit)
	if err := index.Unit(*unit, q, ix.dims); err != nil {
		return dst, err
	}
	if k <= 0 {
		return dst, nil
	}
	s := search{ix: ix, q: *unit, threshold: threshold, k: k, dst: dst, from: len(dst)}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if p, ok := ix.codes.bound(*unit, threshold); ok {
		s.codes(ix.codes, p)
	} else {
		s.all()
	}
	return s.dst, nil
}

// bound returns the probability with which a bit may differ at most, in steps of 1/1024
// and rounded up; not ok if the codes tell nothing.
func (c *codes) bound(q []float32, threshold float32) (p int, ok bool) {
	const slack = 1e-5 // for the rounding of dot products
	if c == nil {
		return 0, false
	}
	r2 := 2 - 2*float64(threshold) + slack
	u2 := 1 - 2*float64(vec.Dot(q, c.centre)) + c.norm2 - slack
	if r2 <= 0 {
		r2 = slack
	}
	if u2 <= r2 {
		return 0, false
	}
	p = int(math.Ceil(math.Asin(math.Sqrt(r2/u2)) / math.Pi * steps))
	return p, p <= mostSteps
}

// search is one search under way.
type search struct {
	ix        *Index
	q         []float32
	threshold float32
	k         int
	dst       []index.Hit
	from      int // where this search's hits begin in dst
}

// all compares every row.
func (s *search) all() {
	for i := range s.ix.ids {
		if s.row(uint32(i)) {
			return
		}
	}
}

// codes compares the rows whose codes are near enough.
func (s *search) codes(c *codes, p int) {
	var code [maxWords]uint64
	c.code(&code, s.q)
	near := rowNumbers.get()
	defer rowNumbers.put(near)
	if c.lists == nil {
		s.scan(c, p, &code, near, c.first, c.rest, nil)
		return
	}
	l := c.lists
	bytes, scores := byteScratch.get(l.p.stride), floats.get(l.p.len())
	defer byteScratch.put(bytes)
	defer floats.put(scores)
	nearest := l.p.scores(*scores, *bytes, s.q)
	least := (*scores)[nearest] - l.p.width(s.threshold)
	for i, score := range *scores {
		if in := &l.list[i]; score >= least && len(in.rows) > 0 && s.scan(c, p, &code, near, in.first, in.rest, in.rows) {
			return
		}
	}
}

// scan compares the rows of some codes that are near enough, and reports whether
// nothing better can come. rows are their numbers; nil: they are all in order.
func (s *search) scan(c *codes, p int, code *[maxWords]uint64, near *[]uint32, first, rest []uint64, rows []uint32) (done bool) {
	limit, whole := firstLimit(p), wholeLimit(c.r.bits, p)
	*near = vec.Near((*near)[:0], first, code[0], limit)
	w := c.words - 1
	for _, i := range *near {
		if w > 0 && vec.Hamming(code[1:c.words], rest[int(i)*w:int(i)*w+w])+vec.Hamming(code[:1], first[i:i+1]) > whole {
			continue
		}
		row := i
		if rows != nil {
			row = rows[i]
		}
		if s.row(row) {
			return true
		}
	}
	return false
}

// row compares one row and reports whether nothing better can come.
func (s *search) row(i uint32) (done bool) {
	score := index.Clamp(vec.Dot(s.q, s.ix.row(i)))
	if score < s.threshold {
		return false
	}
	s.dst = index.Offer(s.dst, s.from, s.k, index.Hit{ID: s.ix.ids[i], Score: score})
	if len(s.dst)-s.from < s.k {
		return false
	}
	s.threshold = s.dst[len(s.dst)-1].Score
	return s.k == 1 && s.threshold >= nearIdentical
}

// TopK implements index.Index by an exact scan.
func (ix *Index) TopK(dst []index.Hit, q []float32, k int) ([]index.Hit, error) {
	return ix.Search(dst, q, -1, k)
}

// Len implements index.Index.
func (ix *Index) Len() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.ids)
}

// Dims implements index.Index.
func (ix *Index) Dims() int { return ix.dims }

// Stats implements index.Index.
func (ix *Index) Stats() index.Stats {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	s := index.Stats{Tier: "flat", Entries: len(ix.ids), Bytes: int64(4*cap(ix.rows) + 8*cap(ix.ids))}
	if ix.at != nil {
		s.Bytes += 24 * int64(len(ix.ids))
	}
	if c := ix.codes; c != nil {
		s.Tier = "sketch"
		s.Bytes += int64(8*cap(c.first) + 8*cap(c.rest) + 12*len(c.sum) + 4*len(c.turned))
		if c.lists != nil {
			s.Tier = "lists"
			s.Bytes += c.lists.bytes()
		}
	}
	return s
}

// Snapshot implements index.Index. It holds the vectors; codes are made when it is
// loaded, for another rotation. Writers wait while it runs, lookups do not.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return index.WriteSnapshot(w, ix.dims, len(ix.ids), func(i int) (uint64, []float32) { return ix.ids[i], ix.row(uint32(i)) })
}

// Load reads an index that Snapshot wrote. Errors: index.ErrCorrupt,
// index.ErrVersion, those of r.
func Load(r io.Reader) (*Index, error) {
	var ix *Index
	err := index.ReadSnapshot(r, func(dims int) { ix = New(dims) }, func(id uint64, v []float32) error { return ix.Add(id, v) })
	if err != nil {
		return nil, err
	}
	return ix, nil
}
