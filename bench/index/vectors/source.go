// Package vectors makes the data that indexes are measured on: seeded, in three shapes,
// with questions whose true answers are found by comparing everything.
//
// The shapes are stand-ins for what embedders give. Clustered data has a common mean with
// 0.30 of the energy, 200 topics, 4000 groups of uneven size in them, and a subspace of 48
// directions in which the members of a group differ; two vectors picked at random have a
// cosine of about 0.30. Mean-heavy data has 0.62 of the energy in its mean, and some
// coordinates are much stronger than others. Data of shape None is one cloud around a mean,
// without any groups.
//
// Everything follows from the seed, up to the rounding of dot products: vector i is the same
// however many there are, so a small set is the beginning of a large one.
package vectors

import (
	"math"
	"math/rand/v2"
	"sort"

	"github.com/semcached/semcached/index/vec"
)

// Shape names a kind of data.
type Shape string

// The shapes, see the package comment.
const (
	Clustered Shape = "clustered"
	MeanHeavy Shape = "mean-heavy"
	None      Shape = "none"
)

const (
	topics, groups = 200, 4000
	// spaces is how many subspaces the groups share, each of inner directions.
	spaces, inner = 96, 48
	// zipf: the weight of the group of rank r is r^-zipf.
	zipf = 0.85
)

// energy is how the squared length of a vector is made up; the sum is 1. Clustered data gets
// groups that overlap: of 100,000 vectors the nearest to a fresh one has a cosine of 0.76 in
// the median, the tenth 0.68. Groups further apart would be hard for graphs, which is not
// what is to be measured.
type energy struct{ mean, topic, group, inner, noise float64 }

func energyOf(shape Shape) energy {
	e := energy{mean: 0.30, topic: 0.16, group: 0.12, inner: 0.36, noise: 0.06}
	switch shape {
	case MeanHeavy:
		f := (1 - 0.62) / (1 - e.mean)
		e = energy{mean: 0.62, topic: f * e.topic, group: f * e.group, inner: f * e.inner, noise: f * e.noise}
	case None:
		e = energy{mean: 0.30, inner: 0.70}
	}
	return e
}

// Source draws vectors of unit length. It is safe for concurrent use.
type Source struct {
	dims    int
	seed    uint64
	centres [][]float32 // of the groups: mean, topic and group
	upTo    []float64   // summed weights of the groups, up to 1
	spaces  []space
	noise   float64 // standard deviation of each component
}

// space turns inner coordinates into a vector: row j of a matrix gives component j.
type space struct {
	width int
	rows  []float32
}

// NewSource returns a source of one shape; dims < 1 or an unknown shape panics.
func NewSource(shape Shape, dims int, seed uint64) *Source {
	if dims < 1 || shape != Clustered && shape != MeanHeavy && shape != None {
		panic("vectors: no such data")
	}
	rng := rand.New(rand.NewPCG(seed, uint64(dims)))
	e := energyOf(shape)
	s := &Source{dims: dims, seed: seed, noise: math.Sqrt(e.noise / float64(dims))}
	if shape == None {
		s.centres, s.upTo = [][]float32{scaled(normals(rng, dims), e.mean)}, []float64{1}
		s.spaces = []space{newSpace(dims, dims, e.inner, 0.5, func() []float32 { return normals(rng, dims) })}
		return s
	}
	draw := axes(shape, dims, rng)
	mean := scaled(draw(), e.mean)
	var topic [topics][]float32
	for i := range topic {
		topic[i] = scaled(draw(), e.topic)
	}
	sum := 0.0
	for i := range groups {
		centre := scaled(draw(), e.group)
		add(centre, mean)
		add(centre, topic[rng.IntN(topics)])
		s.centres = append(s.centres, centre)
		sum += math.Pow(float64(i+1), -zipf)
		s.upTo = append(s.upTo, sum)
	}
	for i := range s.upTo {
		s.upTo[i] /= sum
	}
	for range spaces {
		s.spaces = append(s.spaces, newSpace(dims, min(inner, dims), e.inner, 0.8, draw))
	}
	return s
}

// axes returns a generator of vectors whose variance decays along the axes. The axes are
// the coordinates themselves for mean-heavy data, random directions otherwise.
func axes(shape Shape, dims int, rng *rand.Rand) func() []float32 {
	decay := make([]float32, dims)
	for i := range decay {
		decay[i] = float32(math.Pow(float64(i+1), -0.2))
	}
	if shape == MeanHeavy {
		rng.Shuffle(dims, func(i, j int) { decay[i], decay[j] = decay[j], decay[i] })
	}
	turn := space{width: dims, rows: normals(rng, dims*dims)}
	return func() []float32 {
		v := normals(rng, dims)
		for i, d := range decay {
			v[i] *= d
		}
		if shape == MeanHeavy {
			return v
		}
		out := make([]float32, dims)
		turn.add(out, v)
		return out
	}
}

// newSpace makes a subspace of width directions, the variance along the j-th being
// (j+1)^-decay and all of them together energy.
func newSpace(dims, width int, energy, decay float64, draw func() []float32) space {
	sum := 0.0
	for j := range width {
		sum += math.Pow(float64(j+1), -decay)
	}
	s := space{width: width, rows: make([]float32, dims*width)}
	for j := range width {
		direction := scaled(draw(), energy*math.Pow(float64(j+1), -decay)/sum)
		for i, x := range direction {
			s.rows[i*width+j] = x
		}
	}
	return s
}

// add adds the vector with the inner coordinates z to v.
func (s space) add(v, z []float32) {
	for i := range v {
		v[i] += vec.Dot(s.rows[i*s.width:(i+1)*s.width], z)
	}
}

// Vector writes vector i to dst, which has as many elements as the source has dimensions.
func (s *Source) Vector(dst []float32, i uint64) {
	rng := rand.New(rand.NewPCG(s.seed, i))
	group := s.group(rng)
	copy(dst, s.centres[group])
	s.within(dst, group, rng)
	if s.noise > 0 {
		for j := range dst {
			dst[j] += float32(rng.NormFloat64() * s.noise)
		}
	}
	unit(dst)
}

// group draws a group by weight.
func (s *Source) group(rng *rand.Rand) int {
	return min(sort.SearchFloat64s(s.upTo, rng.Float64()), len(s.upTo)-1)
}

// groupOf returns the group of vector i.
func (s *Source) groupOf(i uint64) int { return s.group(rand.New(rand.NewPCG(s.seed, i))) }

// within adds what tells a member of a group from others.
func (s *Source) within(dst []float32, group int, rng *rand.Rand) {
	space := s.spaces[group%len(s.spaces)]
	space.add(dst, normals(rng, space.width))
}

func normals(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return v
}

func add(v, w []float32) {
	for i, x := range w {
		v[i] += x
	}
}

// scaled gives v a squared length of energy.
func scaled(v []float32, energy float64) []float32 {
	vec.Scale(v, v, math.Sqrt(energy)/vec.Norm(v))
	return v
}

func unit(v []float32) { vec.Scale(v, v, 1/vec.Norm(v)) }
