package sketch

import (
	"math"

	"github.com/semcached/semcached/index/vec"
)

// margins are known for cosines from marginFrom on, in steps of marginStep.
const (
	marginFrom, marginStep = 0.70, 0.02
	marginCount            = 15
)

// apartStep is the unit of one over a distance. Distances are taken for longer than 1/16.
const apartStep = 16.0 / math.MaxUint16

// space says which list a vector belongs to, and how it becomes a code there: the signs of
// the rotated difference from the list's centre. It is immutable.
//
// Centres are kept in 8 bits: those are the centres, not an approximation of them.
type space struct {
	r      *rotation
	dims   int
	stride int // bytes of a centre: dims, filled up to a multiple of 32
	made   int // for how many vectors

	bytes  []int8    // centres
	scales []float32 // that turn them back
	half   []float32 // |c|^2/2
	turned []float32 // R(c), r.bits components each
	length float32   // of the longest centre
	// apart is, for each pair of centres, one over their distance in units of
	// apartStep, rounded down, row by row.
	apart []uint16

	// margins are how far a question may lie beyond the border of the list of a vector,
	// by the cosine of the two; see calibrate.
	margins [marginCount]float32
}

// spot is where a vector belongs.
type spot struct {
	list        int
	code        [maxWords]uint64
	least, most float32 // bounds of its distance from the centre
}

// newSpace returns the space of some centres, without margins.
func newSpace(r *rotation, dims, made int, centres [][]float32) *space {
	s := &space{r: r, dims: dims, stride: (dims + 31) &^ 31, made: made}
	s.bytes = make([]int8, len(centres)*s.stride)
	s.scales = make([]float32, len(centres))
	for i, c := range centres {
		s.scales[i] = vec.Quantize(s.bytes[i*s.stride:(i+1)*s.stride], c)
	}
	s.derive()
	return s
}

// derive computes what follows from bytes and scales.
func (s *space) derive() {
	n := len(s.scales)
	s.half, s.turned, s.apart = make([]float32, n), make([]float32, n*s.r.bits), make([]uint16, n*n)
	centre, turned := make([]float32, s.dims), make([]float32, s.r.size)
	dots := make([]int32, n)
	for i := range s.scales {
		s.centre(centre, i)
		length := vec.Norm(centre)
		s.half[i] = float32(length * length / 2)
		s.length = max(s.length, float32(length))
		s.r.turn(turned, centre)
		copy(s.turned[i*s.r.bits:(i+1)*s.r.bits], turned)
	}
	for i := range s.scales {
		vec.DotInt8All(dots, s.bytes[i*s.stride:(i+1)*s.stride], s.bytes)
		for j, dot := range dots {
			d2 := 2*s.half[i] + 2*s.half[j] - 2*float32(dot)*s.scales[i]*s.scales[j]
			s.apart[i*n+j] = uint16(1 / math.Sqrt(max(float64(d2), 1.0/256)) / apartStep)
		}
	}
}

// centre writes a centre to dst.
func (s *space) centre(dst []float32, i int) {
	for j := range dst {
		dst[j] = float32(s.bytes[i*s.stride+j]) * s.scales[i]
	}
}

// len returns the number of lists.
func (s *space) len() int { return len(s.scales) }

// sketched is a unit vector as a space sees it.
type sketched struct {
	turned []float32 // R(v)
	bytes  []int8
	dots   []int32
	// scores are v·c - |c|^2/2 of each centre c: the larger, the nearer. They are off by
	// at most err.
	scores  []float32
	err     float32
	nearest int
}

// sketch prepares v for s. Buffers of d are used again.
func (s *space) sketch(d *sketched, v []float32) {
	d.turned, d.bytes = resize(d.turned, s.r.size), resize(d.bytes, s.stride)
	d.dots, d.scores = resize(d.dots, s.len()), resize(d.scores, s.len())
	s.r.turn(d.turned, v)
	s.score(d, v)
}

// score is sketch without the rotation.
func (s *space) score(d *sketched, v []float32) {
	scale := vec.Quantize(d.bytes, v)
	vec.DotInt8All(d.dots, d.bytes, s.bytes)
	best := float32(math.Inf(-1))
	half, scales, scores := s.half, s.scales, d.scores
	for i, dot := range d.dots {
		score := float32(dot)*scale*scales[i] - half[i]
		if scores[i] = score; score > best {
			best, d.nearest = score, i
		}
	}
	// Each component of v is off by half a step at most: Cauchy and Schwarz. The rest is
	// for the rounding of float32.
	d.err = scale/2*float32(math.Sqrt(float64(s.dims)))*s.length + 1e-5
}

// codeFrom writes the words from..len(out) of the code that d has in a list.
func (s *space) code(out []uint64, d *sketched, list int) {
	vec.SignBits(out, d.turned, s.turned[list*s.r.bits:(list+1)*s.r.bits])
}

// away2 returns a lower bound of the squared distance of d from a centre.
func (s *space) away2(d *sketched, list int) float64 {
	return 1 - 2*float64(d.scores[list]) - 2*float64(d.err)
}

// spot returns where d belongs.
func (s *space) spot(d *sketched) spot {
	at := spot{list: d.nearest}
	s.code(at.code[:s.r.words()], d, at.list)
	u2 := s.away2(d, at.list)
	at.least = float32(math.Sqrt(max(0, u2)))
	at.most = float32(math.Sqrt(max(0, u2+4*float64(d.err))))
	return at
}

// margin returns how far a question may lie beyond the border of a list in which there is
// a vector at a cosine of t to it. It cannot lie farther than the two are apart.
func (s *space) margin(t float32) float32 {
	const slack = 1e-4 // for rounding
	if r := float32(math.Sqrt(float64(max(0, 2-2*t)))) + slack; t < marginFrom {
		return r
	} else {
		return min(r, s.margins[min(int((t-marginFrom)/marginStep), marginCount-1)])
	}
}

// beyond returns how far d lies beyond the border between the list of the nearest centre
// and another: on the plane in the middle of two centres the scores are equal.
func (s *space) beyond(d *sketched, list int) float32 {
	return (d.scores[d.nearest] - d.scores[list]) * apartStep * float32(s.apart[d.nearest*s.len()+list])
}

// bytesHeld is the memory of a space.
func (s *space) bytesHeld() int64 {
	return int64(len(s.bytes) + 4*(len(s.scales)+len(s.half)+len(s.turned)) + 2*len(s.apart))
}

// resize returns a slice of n elements, b itself if it has room.
func resize[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
