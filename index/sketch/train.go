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
	// heldOut is how many vectors are kept from the making of lists, to measure what
	// becomes of others in them: those that centres are made of lie nearer to them.
	heldOut = 8000
)

// work is what a search has done.
type work struct {
	lists int // looked into
	codes int // whose first words were compared
	whole int // that were compared as a whole
	rows  int // compared exactly
}

// What parts of that cost, in nanoseconds (go run ./bench/index on a Sapphire Rapids
// virtual machine); only their ratios matter.
const (
	costComponent = 8.0 / 384.0 // of a centre
	costList      = 115
	costCode      = 0.25
	costWhole     = 10
	costRow       = 100
	// worthwhile is the part of the cost of one list for all that several must not exceed.
	worthwhile = 0.8
)

// mostLists bounds the lists, and with them the memory of what is kept of their pairs.
const mostLists = 4096

// listsFor returns how many lists n vectors are kept in. Fewer make the usual question
// faster, for each centre is compared; more make the slowest faster, which look into
// many lists: with 2, 3 and 4 times the root of 100,000 vectors p50 was 13.2, 11.3 and
// 15.0 µs, p99 42, 22 and 32 (in a noisy hour of a Xeon virtual machine). Of a million, 3
// times the root took half as much again as 2 for the usual question and gained nothing.
func listsFor(n int) int {
	root := math.Sqrt(float64(n))
	return min(mostLists, max(2, int(min(3*root, max(1000, 2*root)))))
}

// sampleSize returns how many of n vectors a space is found from.
func (o *options) sampleSize(n int) int {
	if n < o.listsFrom {
		return min(n, flatSample)
	}
	return min(n, heldOut+perList*listsFor(n))
}

// suited returns the space for n vectors of which there is a sample: cur if that does as
// well.
func (ix *Index) suited(cur *space, sample [][]float32, n int) *space {
	one := ix.suitedOne(cur, sample, n)
	if n < ix.o.listsFrom {
		return one
	}
	apart := min(heldOut, len(sample)/2)
	lists := newLists(cur.r, ix.dims, n, min(listsFor(n), len(sample)-apart), sample[apart:])
	lists.calibrate(sample[:apart], sample, ix.o.moved)
	asked, stored := sample[:apart/20], sample[apart/20:]
	if ix.o.always || lists.cost(stored, asked, n) < worthwhile*one.cost(stored, asked, n) {
		return lists
	}
	return one
}

// suitedOne returns the space of one list.
func (ix *Index) suitedOne(cur *space, sample [][]float32, n int) *space {
	centre := mean(sample)
	if cur.len() == 1 {
		moved := 0.0
		for i, x := range centre {
			d := float64(x - float32(cur.bytes[i])*cur.scales[0])
			moved += d * d
		}
		if moved < drift {
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

// newLists finds count centres by k-means on a sample.
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
	sp.relate(sample)
	return sp
}

// relate finds what far needs to know of each pair of lists: how far apart the centres are,
// and how the vectors of a sample that belong to one are spread towards the other.
func (s *space) relate(sample [][]float32) {
	n := s.len()
	apart2, squares, counts := s.distances(), make([]float32, n*n), make([]float32, n)
	var d sketched
	s.prepare(&d)
	for _, v := range sample {
		s.score(&d, v)
		home := d.nearest
		counts[home]++
		own, sums, apart2 := d.scores[home], squares[home*n:(home+1)*n], apart2[home*n:(home+1)*n]
		for i, score := range d.scores {
			// The distance from the border is (own-score)/apart, that from the centre
			// half of apart less: its square, times apart2, is this.
			t := apart2[i]/2 - own + score
			sums[i] += t * t / apart2[i]
		}
	}
	for from := range n {
		for to := range n {
			mean := (squares[to*n+from] + priorCount*priorSpread*priorSpread) / (counts[to] + priorCount)
			spread := math.Sqrt(float64(mean) + leastSpread*leastSpread)
			apart := math.Sqrt(float64(apart2[to*n+from]))
			s.slope[from*n+to] = uint8(min(math.MaxUint8, max(0, math.Log(1/(apart*spread*slopeFrom))/math.Log(slopeRatio))))
			s.lean[from*n+to] = uint8(min(math.MaxUint8, leanTo*apart/(2*spread*leanStep)))
		}
	}
}

// distances returns the squared distances of all pairs of centres, row by row; those of
// centres that are very near, and of each from itself, are taken for longer.
func (s *space) distances() []float32 {
	const least = 1.0 / 256
	n := s.len()
	all, dots := make([]float32, n*n), make([]int32, n)
	for i := range n {
		vec.DotInt8All(dots, s.bytes[i*s.stride:(i+1)*s.stride], s.bytes)
		for j, dot := range dots {
			all[i*n+j] = max(least, 2*s.half[i]+2*s.half[j]-2*float32(dot)*s.scales[i]*s.scales[j])
		}
	}
	return all
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

// cost estimates what a search among n vectors costs, by searches among some of them.
func (s *space) cost(stored, asked [][]float32, n int) float64 {
	const threshold = 0.92
	trial, l := newIndex(s.dims, &defaults), newLayout(s)
	trial.rows.Grow(len(stored))
	trial.ids.Grow(len(stored))
	q := borrow()
	defer q.release()
	for i, v := range stored {
		copy(trial.row(i), v)
		s.sketch(&q.sketched, v)
		at := s.spot(&q.sketched)
		l.put(i, &at)
	}
	q.ix, q.k, q.from, q.did = trial, 1, 0, work{}
	for _, v := range asked {
		q.unit, q.threshold, q.dst = append(q.unit[:0], v...), threshold, q.dst[:0]
		q.layout(l)
	}
	w, more := q.did, float64(n)/float64(len(stored))
	total := costList*float64(w.lists) + more*(costCode*float64(w.codes)+costWhole*float64(w.whole)+costRow*float64(w.rows))
	return total/float64(len(asked)) + costComponent*float64(s.dims*s.len())
}

const (
	// moves is in how many ways vectors are moved.
	moves = 5
	// safety widens what was measured, and roundoff is for the 8-bit scores of the
	// moved vector, which are here put together from those of two others.
	safety, roundoff = 1.05, 0.02
)

// calibrate measures the margins: how far a question may lie out of the list (see far) of a
// vector at a cosine of t to it.
//
// Vectors held apart from the making are moved to that cosine in five ways: anywhere;
// towards another vector of the sample; towards another one of their list; as two neighbours in their
// list differ; and as any two of it do. The margin is what was needed for all but the few
// farthest of the way that needs most, and a little more: of pairs moved so, no more than
// missList are expected to be missed, and of the other ways fewer.
func (s *space) calibrate(apart, sample [][]float32, count int) {
	members := make([][][]float32, s.len())
	s.divide(members, sample)
	var x, d sketched
	s.prepare(&x)
	s.prepare(&d)
	// All but so many of count must be found; a next one is missed with a probability of
	// (left+1)/(count+1).
	left := max(0, int(missList*float64(count+1))-1)
	var most [moves][marginCount][]float32 // the largest, in descending order
	for way := range most {
		for g := range most[way] {
			most[way][g] = make([]float32, left+1)
		}
	}
	for i := range count * moves {
		v := apart[rand.IntN(len(apart))]
		s.score(&x, v)
		towards := direction(v, sample, members[x.nearest], i%moves)
		if towards == nil {
			continue
		}
		s.score(&d, towards)
		s.along(&x, &d, func(g int, gap float32) {
			for rank, other := range most[i%moves][g] {
				if gap > other {
					most[i%moves][g][rank], gap = gap, other
				}
			}
		})
	}
	for g := range s.margins {
		for way := range most {
			s.margins[g] = max(s.margins[g], most[way][g][left])
		}
		s.margins[g] = s.margins[g]*safety + roundoff
	}
}

// along calls each with how far x lies out of its list when it is moved towards d, for the
// cosines of the margins, from the least on, until it lies in its list again: there it
// stays, since what is nearer to one centre than to all others is convex.
func (s *space) along(x, d *sketched, each func(g int, gap float32)) {
	home := x.nearest
	for g := range s.margins {
		t := float32(marginFrom + marginStep*float64(g))
		sine := float32(math.Sqrt(float64(1 - t*t)))
		score := func(i int) float32 { return t*(x.scores[i]+s.half[i]) + sine*(d.scores[i]+s.half[i]) - s.half[i] }
		nearest, best := home, score(home)
		from := best
		for i := range x.scores {
			if to := score(i); to > best {
				nearest, best = i, to
			}
		}
		if nearest == home {
			return
		}
		at := nearest*s.len() + home
		each(g, farOf(best-from, s.slope[at], s.lean[at]))
	}
}

// neighbour returns the vector of a list that is most similar to v, of those that are not
// the same.
func neighbour(v []float32, list [][]float32) []float32 {
	most, best := float32(-2), v
	for _, w := range list {
		if s := vec.Dot(v, w); s > most && s < nearIdentical {
			most, best = s, w
		}
	}
	return best
}

// direction returns a unit vector at a right angle to v, of one of the ways of calibrate;
// nil if there is none.
func direction(v []float32, sample, list [][]float32, way int) []float32 {
	d := make([]float32, len(v))
	switch way {
	case 0:
		for i := range d {
			d[i] = float32(rand.NormFloat64())
		}
	case 1:
		copy(d, sample[rand.IntN(len(sample))])
	case 2:
		copy(d, list[rand.IntN(len(list))])
	case 3:
		one := list[rand.IntN(len(list))]
		for i, x := range neighbour(one, list) {
			d[i] = x - one[i]
		}
	case 4:
		other := list[rand.IntN(len(list))]
		for i, x := range list[rand.IntN(len(list))] {
			d[i] = x - other[i]
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
