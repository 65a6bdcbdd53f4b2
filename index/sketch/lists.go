package sketch

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/semcached/semcached/index/vec"
)

// Above some ten thousand vectors even one word each is much to look at. The codes are
// then kept in lists, each of the vectors nearest to one of a thousand centroids, and a
// search looks only into the lists whose centroids are about as near to the question as
// the nearest one is.
//
// How near is measured, not assumed: when the lists are made, vectors of the data are
// moved to a cosine of calibrateAt in two ways (anywhere, and towards others), and the
// margin is taken with which the lists of all but one in a thousand are found. So a pair
// at that cosine is missed once more in a thousand. On data in groups few lists remain.
// Where too many would, there are no lists, and the scan stays flat.
const (
	// calibrateAt is the cosine for which margins are measured; for others they
	// are scaled by the tangent of the angle.
	calibrateAt = 0.92
	// calibrations is how many vectors are moved; missList is the share of
	// them whose lists may be missed.
	calibrations, missList = 4000, 0.001
	// worthwhile is the share of the vectors that a search may still look at
	// for lists to be kept.
	worthwhile = 0.4
	// centroids is the number of lists; fewer only where vectors are few. They
	// are found by so many iterations of Lloyd's algorithm on sampleRows
	// vectors for each.
	centroids              = 1024
	iterations, sampleRows = 4, 32
)

// defaultListsFrom is the number of vectors from which lists are tried.
const defaultListsFrom = 32 << 10

// partition is a set of centroids.
type partition struct {
	dims, stride int
	bytes        []int8 // centroids in 8 bits
	scales       []float32
	margin       float64 // at calibrateAt
}

func (p *partition) len() int { return len(p.scales) }

// scores writes the similarity of v to every centroid and returns the nearest one.
func (p *partition) scores(dst []float32, code []int8, v []float32) (nearest int) {
	scale := vec.Quantize(code, v)
	best := float32(math.Inf(-1))
	for i := range dst {
		dst[i] = float32(vec.DotInt8(code, p.bytes[i*p.stride:(i+1)*p.stride])) * scale * p.scales[i]
		if dst[i] > best {
			best, nearest = dst[i], i
		}
	}
	return nearest
}

// width is how much less near than the nearest centroid that of a vector at the
// threshold may be.
func (p *partition) width(threshold float32) float32 {
	t := float64(threshold)
	if t <= 0 {
		return float32(math.Inf(1))
	}
	return float32(p.margin * math.Sqrt(max(0, 1-t*t)) / t * calibrateAt / math.Sqrt(1-calibrateAt*calibrateAt))
}

// newPartition finds count centroids by spherical k-means on a sample of rows, and its
// margin. Unless always is set it returns nil if that would not save a search most of
// its work.
func newPartition(rows [][]float32, dims, count int, always bool) *partition {
	means := make([][]float32, count)
	for i, at := range rand.Perm(len(rows))[:count] {
		means[i] = slices.Clone(rows[at])
	}
	p := &partition{dims: dims, stride: (dims + 31) &^ 31, scales: make([]float32, count)}
	p.bytes = make([]int8, count*p.stride)
	code, scores := make([]int8, p.stride), make([]float32, count)
	for range iterations {
		p.set(means)
		sums := make([][]float64, count)
		for _, v := range rows {
			i := p.scores(scores, code, v)
			if sums[i] == nil {
				sums[i] = make([]float64, dims)
			}
			for j, x := range v {
				sums[i][j] += float64(x)
			}
		}
		for i, sum := range sums {
			if sum == nil { // an empty list: begin again somewhere
				means[i] = slices.Clone(rows[rand.IntN(len(rows))])
				continue
			}
			for j, x := range sum {
				means[i][j] = float32(x)
			}
			if n := vec.Norm(means[i]); n > 0 {
				vec.Scale(means[i], means[i], 1/n)
			}
		}
	}
	p.set(means)
	if !p.calibrate(rows, code, scores) && !always {
		return nil
	}
	return p
}

func (p *partition) set(means [][]float32) {
	for i, c := range means {
		p.scales[i] = vec.Quantize(p.bytes[i*p.stride:(i+1)*p.stride], c)
	}
}

// calibrate measures the margin and reports whether lists are worth their while.
func (p *partition) calibrate(rows [][]float32, code []int8, scores []float32) bool {
	size := make([]int, p.len())
	for _, v := range rows {
		size[p.scores(scores, code, v)]++
	}
	type moved struct {
		scores  []float32
		nearest int
	}
	var all []moved
	margins := make([]float64, 0, calibrations)
	for i := range calibrations {
		x := rows[rand.IntN(len(rows))]
		home := p.scores(scores, code, x)
		q := movedTo(x, rows[rand.IntN(len(rows))], i%2 == 0)
		nearest := p.scores(scores, code, q)
		margins = append(margins, float64(scores[nearest]-scores[home]))
		if len(all) < 200 {
			all = append(all, moved{slices.Clone(scores), nearest})
		}
	}
	slices.Sort(margins)
	p.margin = margins[len(margins)-1-int(missList*calibrations)]
	looked := 0
	for _, m := range all {
		for i, s := range m.scores {
			if s >= m.scores[m.nearest]-float32(p.margin) {
				looked += size[i]
			}
		}
	}
	return float64(looked) <= worthwhile*float64(len(rows)*len(all))
}

// movedTo returns the unit vector x at a cosine of calibrateAt to itself, towards
// another or anywhere.
func movedTo(x, other []float32, anywhere bool) []float32 {
	d := slices.Clone(other)
	if anywhere {
		for i := range d {
			d[i] = float32(rand.NormFloat64())
		}
	}
	along := vec.Dot(d, x)
	for i := range d {
		d[i] -= along * x[i]
	}
	n := vec.Norm(d)
	if n < 1e-6 {
		return x
	}
	out := make([]float32, len(x))
	across := float32(math.Sqrt(1-calibrateAt*calibrateAt) / n)
	for i := range out {
		out[i] = calibrateAt*x[i] + across*d[i]
	}
	return out
}

// lists are the codes of an index's rows, by centroid.
type lists struct {
	p    *partition
	list []list
	of   []uint16 // list of a row
	pos  []uint32 // its place there
}

// list is the codes of some rows.
type list struct {
	rows  []uint32
	first []uint64
	rest  []uint64
}

// add puts the code of a row into a list. Rows are added in ascending order.
func (l *lists) add(row int, to uint16, code *[maxWords]uint64, words int) {
	in := &l.list[to]
	if row == len(l.of) {
		l.of, l.pos = append(l.of, 0), append(l.pos, 0)
	}
	l.of[row], l.pos[row] = to, uint32(len(in.rows))
	in.rows = append(in.rows, uint32(row))
	in.first = append(in.first, code[0])
	in.rest = append(in.rest, code[1:words]...)
}

// take removes the code of a row; the last of its list takes its place.
func (l *lists) take(row, words int) {
	in, at := &l.list[l.of[row]], int(l.pos[row])
	last, w := len(in.rows)-1, words-1
	in.rows[at], in.first[at] = in.rows[last], in.first[last]
	copy(in.rest[at*w:(at+1)*w], in.rest[last*w:])
	l.pos[in.rows[at]] = uint32(at)
	in.rows, in.first, in.rest = in.rows[:last], in.first[:last], in.rest[:last*w]
}

// rename gives the last row the number of another, whose code has been taken.
func (l *lists) rename(last, row int) {
	if last != row {
		l.of[row], l.pos[row] = l.of[last], l.pos[last]
		l.list[l.of[row]].rows[l.pos[row]] = uint32(row)
	}
	l.of, l.pos = l.of[:last], l.pos[:last]
}

// bytes is the memory held.
func (l *lists) bytes() (n int64) {
	for _, in := range l.list {
		n += int64(4*cap(in.rows) + 8*cap(in.first) + 8*cap(in.rest) + 72)
	}
	return n + int64(2*cap(l.of)+4*cap(l.pos)+len(l.p.bytes)+4*len(l.p.scales))
}

// build is the making of lists in the background.
type build struct {
	dirty map[uint32]struct{} // rows that have changed since it began
}

// maybeBuild begins to make lists when there are enough vectors. The caller holds mu
// for writing.
func (ix *Index) maybeBuild() {
	if ix.building != nil || ix.codes == nil || len(ix.ids) < ix.nextLists {
		return
	}
	ix.nextLists = 4 * len(ix.ids)
	ix.building = &build{dirty: make(map[uint32]struct{})}
	n := len(ix.ids)
	count := min(centroids, max(2, n/16))
	sample := make([][]float32, 0, min(n, sampleRows*count))
	for _, i := range rand.Perm(n)[:cap(sample)] {
		sample = append(sample, slices.Clone(ix.row(uint32(i))))
	}
	go ix.build(sample, count)
}

// build makes lists while searches and changes go on, and puts them in force at the
// end.
func (ix *Index) build(sample [][]float32, count int) {
	p := newPartition(sample, ix.dims, count, ix.always)
	if p == nil {
		ix.mu.Lock()
		ix.building = nil
		ix.mu.Unlock()
		return
	}
	code, scores := make([]int8, p.stride), make([]float32, count)
	var of []uint16
	const chunk = 512
	for done := false; !done; {
		ix.mu.RLock()
		end := min(len(of)+chunk, len(ix.ids))
		for row := len(of); row < end; row++ {
			of = append(of, uint16(p.scores(scores, code, ix.row(uint32(row)))))
		}
		done = len(of) >= len(ix.ids)
		ix.mu.RUnlock()
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	dirty := ix.building.dirty
	ix.building = nil
	if ix.codes == nil {
		return // almost everything has been removed meanwhile
	}
	l := &lists{p: p, list: make([]list, count)}
	c := ix.codes
	var word [maxWords]uint64
	for row := range ix.ids {
		if row == len(of) {
			of = append(of, 0)
			dirty[uint32(row)] = struct{}{}
		}
		if _, changed := dirty[uint32(row)]; changed {
			of[row] = uint16(p.scores(scores, code, ix.row(uint32(row))))
		}
		c.get(row, &word)
		l.add(row, of[row], &word, c.words)
	}
	c.lists, c.first, c.rest = l, nil, nil
}

// get reads the code of a row.
func (c *codes) get(row int, out *[maxWords]uint64) {
	w := c.words - 1
	if c.lists == nil {
		out[0] = c.first[row]
		copy(out[1:], c.rest[row*w:row*w+w])
		return
	}
	in, at := &c.lists.list[c.lists.of[row]], int(c.lists.pos[row])
	out[0] = in.first[at]
	copy(out[1:], in.rest[at*w:at*w+w])
}
