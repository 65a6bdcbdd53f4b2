package vectors

import (
	"cmp"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/semcached/semcached/index/vec"
)

const (
	// Threshold is the cosine from which a vector answers: hits are above, misses below.
	Threshold = 0.92
	// LeastHit and MostHit bound the cosine of a hit to the vector that it was made of.
	LeastHit, MostHit = 0.93, 0.99
	// Nearest is how many true answers each question has.
	Nearest = 10

	// hitsFrom is the number of vectors, from the first, that hits are made of: a cache is
	// asked for some of its entries more than for others.
	hitsFrom = 10_000
	// missesAt is the number of the first miss, far from all that are stored.
	missesAt = 1 << 40
)

// Near is a stored vector and its cosine to a question.
type Near struct {
	Row   int
	Score float32
}

// Questions are of one kind, with the nearest rows of each, best first.
type Questions struct {
	Vectors [][]float32
	Truth   [][]Near
}

// Set is stored vectors with questions.
type Set struct {
	Shape   Shape
	N, Dims int
	Hits    Questions // a stored vector, moved to a cosine of LeastHit to MostHit
	Misses  Questions // a fresh vector, with nothing at Threshold or above
	source  *Source
	rows    []float32
}

// New makes n vectors and as many hits and misses as asked for, on all processors:
// seconds for 100,000 of 384 dimensions.
func New(shape Shape, n, dims, questions int, seed uint64) *Set {
	s := &Set{Shape: shape, N: n, Dims: dims, source: NewSource(shape, dims, seed), rows: make([]float32, n*dims)}
	parallel((n+1023)/1024, func(block int) {
		for i := block * 1024; i < min(n, block*1024+1024); i++ {
			s.source.Vector(s.Row(i), uint64(i))
		}
	})
	s.Hits = s.ask(questions, s.hit)
	s.Misses = s.misses(questions)
	return s
}

// Row returns stored vector i, of unit length.
func (s *Set) Row(i int) []float32 {
	at := i * s.Dims
	return s.rows[at : at+s.Dims : at+s.Dims]
}

// Fresh returns the i-th vector beyond those that are stored, to be added to them.
func (s *Set) Fresh(i int) []float32 {
	v := make([]float32, s.Dims)
	s.source.Vector(v, uint64(s.N+i))
	return v
}

// Rows returns all stored vectors, one after the other.
func (s *Set) Rows() []float32 { return s.rows }

func (s *Set) ask(count int, question func(i int) []float32) Questions {
	q := Questions{Vectors: make([][]float32, count)}
	for i := range count {
		q.Vectors[i] = question(i)
	}
	q.Truth = s.nearest(q.Vectors)
	return q
}

// misses asks for vectors that nothing is near to; those that something is near to are left
// out, and others taken in their place.
func (s *Set) misses(count int) (q Questions) {
	for next := missesAt; len(q.Vectors) < count; {
		more := s.ask(count-len(q.Vectors), func(i int) []float32 {
			v := make([]float32, s.Dims)
			s.source.Vector(v, uint64(next+i))
			return v
		})
		next += len(more.Vectors)
		for i, truth := range more.Truth {
			if len(truth) == 0 || truth[0].Score < Threshold {
				q.Vectors, q.Truth = append(q.Vectors, more.Vectors[i]), append(q.Truth, truth)
			}
		}
	}
	return q
}

// hit moves a stored vector: as members of its group differ, anywhere, both, and towards
// another stored vector, in turn.
func (s *Set) hit(i int) []float32 {
	rng := rand.New(rand.NewPCG(s.source.seed, missesAt-1-uint64(i)))
	row := rng.IntN(min(s.N, hitsFrom))
	x := s.Row(row)
	d := make([]float32, s.Dims)
	kind := i % 4
	if kind == 0 || kind == 2 {
		s.source.within(d, s.source.groupOf(uint64(row)), rng)
		unit(d)
	}
	if kind == 1 || kind == 2 {
		add(d, scaled(normals(rng, s.Dims), 1))
	}
	if kind == 3 {
		copy(d, s.Row(rng.IntN(s.N)))
	}
	return moved(x, d, LeastHit+(MostHit-LeastHit)*rng.Float64(), rng)
}

// moved returns a vector at a cosine of t to x in the direction of d, or any if d is x.
func moved(x, d []float32, t float64, rng *rand.Rand) []float32 {
	for {
		along := vec.Dot(d, x)
		for i := range d {
			d[i] -= along * x[i]
		}
		if vec.Norm(d) > 1e-3 {
			break
		}
		d = normals(rng, len(x))
	}
	scaled(d, 1-t*t)
	for i := range d {
		d[i] += float32(t) * x[i]
	}
	unit(d)
	return d
}

// nearest compares every question with every row, rows in blocks that stay in the
// processor's cache.
func (s *Set) nearest(questions [][]float32) [][]Near {
	truth := make([][]Near, len(questions))
	rows := max(1, 256<<10/(4*s.Dims))
	workers := runtime.GOMAXPROCS(0)
	parallel(workers, func(worker int) {
		for from := 0; from < s.N; from += rows {
			for i := worker; i < len(questions); i += workers {
				for row := from; row < min(s.N, from+rows); row++ {
					truth[i] = offer(truth[i], Near{row, vec.Dot(questions[i], s.Row(row))})
				}
			}
		}
	})
	return truth
}

// offer keeps the best of what it is given, best first.
func offer(best []Near, n Near) []Near {
	if len(best) == Nearest && n.Score <= best[Nearest-1].Score {
		return best
	}
	at, _ := slices.BinarySearchFunc(best, n, func(a, b Near) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Row, b.Row))
	})
	return slices.Insert(best, at, n)[:min(len(best)+1, Nearest)]
}

// Recall returns the share of the k nearest rows of question i that got has: a row counts
// when it is as near as the k-th, up to rounding.
func (s *Set) Recall(q *Questions, i, k int, got []int) float64 {
	truth := q.Truth[i][:min(k, len(q.Truth[i]))]
	if len(truth) == 0 {
		return 1
	}
	least, found := truth[len(truth)-1].Score-rounding, 0
	for at, row := range got {
		if row >= 0 && row < s.N && !slices.Contains(got[:at], row) && vec.Dot(q.Vectors[i], s.Row(row)) >= least {
			found++
		}
	}
	return math.Min(1, float64(found)/float64(len(truth)))
}

// rounding is how far two float32 sums of the same cosine may lie apart.
const rounding = 2e-6

// parallel calls f for 0 to n-1 on all processors.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
