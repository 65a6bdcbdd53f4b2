package sketch

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/semcached/semcached/index/vec"
)

const (
	// iterations of Lloyd's algorithm are made on perList vectors for each list.
	iterations, perList = 4, 32
	// flatSample is how many vectors the centre of a single list is taken from.
	flatSample = 2048
)

// What parts of a search cost, in nanoseconds; only their ratios matter.
const (
	costCode      = 0.2         // looking at a code
	costList      = 60          // looking into a list
	costComponent = 6.0 / 384.0 // of a centre
	// worthwhile is the part of the cost of one list for all that several must not exceed.
	worthwhile = 0.7
)

// listsFor returns how many lists n vectors are kept in.
func listsFor(n int) int { return min(4096, max(2, int(math.Sqrt(float64(n))))) }

// sampleSize returns how many of n vectors a space is found from.
func sampleSize(n int) int { return max(flatSample, perList*listsFor(n)) }

// suited returns the space for n vectors of which there is a sample: cur if that does as
// well.
func (ix *Index) suited(cur *space, sample [][]float32, n int) *space {
	if n >= ix.o.listsFrom {
		sp := newLists(cur.r, ix.dims, n, listsFor(n), sample)
		if ix.o.always || sp.cost(sample, n) < worthwhile*costCode*float64(n) {
			return sp
		}
	}
	centre := mean(sample)
	if cur.len() == 1 {
		moved := 0.0
		for i, x := range centre {
			d := float64(x - float32(cur.bytes[i])*cur.scales[0])
			moved += d * d
		}
		if moved < drift && cur.made > 0 {
			return cur
		}
	}
	return newSpace(cur.r, ix.dims, n, [][]float32{centre})
}

// mean returns that of some vectors.
func mean(rows [][]float32) []float32 {
	sum := make([]float64, len(rows[0]))
	for _, v := range rows {
		for i, x := range v {
			sum[i] += float64(x)
		}
	}
	out := make([]float32, len(sum))
	for i, x := range sum {
		out[i] = float32(x / float64(len(rows)))
	}
	return out
}

// newLists finds count centres by k-means on a sample, and their margins.
func newLists(r *rotation, dims, n, count int, sample [][]float32) *space {
	centres := make([][]float32, count)
	for i, at := range rand.Perm(len(sample))[:count] {
		centres[i] = sample[at]
	}
	sp := newSpace(r, dims, n, centres)
	members := make([][][]float32, count)
	for range iterations {
		sp.divide(members, sample)
		for i, of := range members {
			if len(of) == 0 { // begin again somewhere
				of = [][]float32{sample[rand.IntN(len(sample))]}
			}
			centres[i] = mean(of)
		}
		sp = newSpace(r, dims, n, centres)
	}
	sp.divide(members, sample)
	sp.calibrate(sample, members)
	return sp
}

// divide sorts a sample by the nearest centre.
func (s *space) divide(members [][][]float32, sample [][]float32) {
	var d sketched
	s.prepare(&d)
	for i := range members {
		members[i] = members[i][:0]
	}
	for _, v := range sample {
		s.score(&d, v)
		members[d.nearest] = append(members[d.nearest], v)
	}
}

// prepare makes room for score.
func (s *space) prepare(d *sketched) {
	d.bytes, d.dots, d.scores = make([]int8, s.stride), make([]int32, s.len()), make([]float32, s.len())
}

// cost estimates what a search for a vector of the sample costs among n.
func (s *space) cost(sample [][]float32, n int) float64 {
	const asked, threshold = 300, 0.92
	var d sketched
	s.prepare(&d)
	size := make([]float64, s.len())
	for _, v := range sample {
		s.score(&d, v)
		size[d.nearest] += float64(n) / float64(len(sample))
	}
	total := 0.0
	for i := range asked {
		s.score(&d, sample[i*len(sample)/asked])
		total += costComponent * float64(s.dims*s.len())
		for j := range d.scores {
			if s.beyond(&d, j) <= s.margin(threshold) {
				total += costList + costCode*size[j]
			}
		}
	}
	return total / asked
}

const (
	// calibrations is how many vectors are moved in each of moves ways.
	calibrations, moves = 4000, 4
	// safety widens what was measured, and roundoff is for the 8-bit scores of the
	// moved vector, which are here put together from those of two others.
	safety, roundoff = 1.05, 0.002
)

// calibrate measures the margins: how far a question may lie beyond the border between
// the list of its nearest centre and that of a vector at a cosine of t to it.
//
// Vectors of the sample are moved to that cosine in four ways: anywhere; towards another
// vector of the sample; towards another one of their list; and along the difference of
// two of these. The margin is the largest that was needed. A pair moved in one of these
// ways is then missed with a probability of about 1/(calibrations+1), which is less than
// missList; that it is not more than 1/1300 can be said with a confidence of 95 %.
func (s *space) calibrate(sample [][]float32, members [][][]float32) {
	var x, d sketched
	s.prepare(&x)
	s.prepare(&d)
	for i := range calibrations * moves {
		v := sample[rand.IntN(len(sample))]
		s.score(&x, v)
		towards := direction(v, sample, members[x.nearest], i%moves)
		if towards == nil {
			continue
		}
		s.score(&d, towards)
		for g := range s.margins {
			t := marginFrom + marginStep*float64(g)
			s.margins[g] = max(s.margins[g], s.gap(&x, &d, float32(t), float32(math.Sqrt(1-t*t))))
		}
	}
	for g, m := range s.margins {
		s.margins[g] = m*safety + roundoff
	}
}

// gap returns how far t*x + sine*d lies beyond the border of the list of x.
func (s *space) gap(x, d *sketched, t, sine float32) float32 {
	best, home, nearest := float32(math.Inf(-1)), float32(0), 0
	for i, h := range s.half {
		score := t*(x.scores[i]+h) + sine*(d.scores[i]+h) - h
		if score > best {
			best, nearest = score, i
		}
		if i == x.nearest {
			home = score
		}
	}
	return (best - home) * s.apart[nearest*s.len()+x.nearest]
}

// direction returns a unit vector at a right angle to v, of one of the ways of calibrate;
// nil if there is none.
func direction(v []float32, sample, list [][]float32, way int) []float32 {
	d := make([]float32, len(v))
	pick := func(of [][]float32) []float32 {
		if len(of) == 0 {
			return v
		}
		return of[rand.IntN(len(of))]
	}
	switch way {
	case 0:
		for i := range d {
			d[i] = float32(rand.NormFloat64())
		}
	case 1:
		copy(d, pick(sample))
	case 2:
		copy(d, pick(list))
	case 3:
		copy(d, pick(list))
		for i, x := range pick(list) {
			d[i] -= x
		}
	}
	along := vec.Dot(d, v)
	for i, x := range v {
		d[i] -= along * x
	}
	n := vec.Norm(d)
	if n < 1e-6 {
		return nil
	}
	vec.Scale(d, d, 1/n)
	return slices.Clip(d)
}
