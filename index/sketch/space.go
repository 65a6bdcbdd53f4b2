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

// Two bytes are kept for a pair of lists: a lean in units of leanStep, and a slope by the
// number of its place among slopes, which grow from slopeFrom on by slopeRatio each.
const (
	leanStep              = 1.0 / 64
	slopeFrom, slopeRatio = 0.25, 1.03
)

var slopes = func() (all [256]float32) {
	for i := range all {
		all[i] = float32(slopeFrom * math.Pow(slopeRatio, float64(i)))
	}
	return all
}()

const (
	// leanTo is the part of the way from a centre to the border that counts, beside how far
	// beyond the border a question lies.
	leanTo = 0.15
	// leastSpread is added to the spread of a list in any direction, squared, and counts
	// for the spread of priorCount more vectors than there are.
	leastSpread = 0.03
	priorSpread = 0.1
	priorCount  = 8
)

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
	// slope and lean are, for each pair of lists, what far makes of scores: row by row of
	// the list that a question belongs to.
	slope, lean []uint8

	// margins are how far out of the list of a vector a question may lie, by the cosine
	// of the two; see far and calibrate.
	margins [marginCount]float32
}

// spot is where a vector belongs.
type spot struct {
	list int
	code [maxWords]uint64
	away uint8 // level of its distance from the centre
}

// newSpace returns the space of some centres, without pairs and margins.
func newSpace(r *rotation, dims, made int, centres [][]float32) *space {
	pairs := len(centres) * len(centres)
	s := &space{r: r, dims: dims, stride: (dims + 31) &^ 31, made: made, slope: make([]uint8, pairs), lean: make([]uint8, pairs)}
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
	s.half, s.turned = make([]float32, n), make([]float32, n*s.r.bits)
	centre, turned := make([]float32, s.dims), make([]float32, s.r.size)
	for i := range s.scales {
		s.centre(centre, i)
		length := vec.Norm(centre)
		s.half[i] = float32(length * length / 2)
		s.length = max(s.length, float32(length))
		s.r.turn(turned, centre)
		copy(s.turned[i*s.r.bits:(i+1)*s.r.bits], turned)
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
	unit   []float32 // v
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
	d.unit = v
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

// code writes the words from the from-th on of the code that d has in a list.
func (s *space) code(out []uint64, from int, d *sketched, list int) {
	at := list * s.r.bits
	vec.SignBits(out, d.turned[64*from:], s.turned[at+64*from:at+s.r.bits])
}

// atLeast2 returns a lower bound of the squared distance of d from a centre.
func (s *space) atLeast2(d *sketched, list int) float64 {
	return 1 - 2*float64(d.scores[list]) - 2*float64(d.err)
}

// away2 returns the squared distance of d from a centre.
func (s *space) away2(d *sketched, list int) float64 {
	along := vec.DotMixed(d.unit, s.bytes[list*s.stride:list*s.stride+s.dims])
	return 1 + 2*float64(s.half[list]) - 2*float64(along)*float64(s.scales[list])
}

// spot returns where d belongs.
func (s *space) spot(d *sketched) spot {
	at := spot{list: d.nearest, away: levelOf(s.away2(d, d.nearest))}
	s.code(at.code[:s.r.words()], 0, d, at.list)
	return at
}

// margin returns how far out of a list a question may lie if a vector of it is at a cosine
// of t to it: any distance for a t for which that has not been measured.
func (s *space) margin(t float32) float32 {
	if t < marginFrom {
		return math.MaxFloat32
	}
	return s.margins[min(int((t-marginFrom)/marginStep), marginCount-1)]
}

// far returns how far d lies out of a list, seen from the list it belongs to: on the
// straight line through both centres, in standard deviations of the list's vectors there.
// On the plane in the middle of the two centres the scores are equal; d's distance beyond
// it counts, and a part of the way from the centre to it.
func (s *space) far(d *sketched, list int) float32 {
	at := d.nearest*s.len() + list
	return farOf(d.scores[d.nearest]-d.scores[list], s.slope[at], s.lean[at])
}

// farOf is far by the difference of the scores and what is known of the pair.
func farOf(less float32, slope, lean uint8) float32 {
	return less*slopes[slope] + leanStep*float32(lean)
}

// bytesHeld is the memory of a space.
func (s *space) bytesHeld() int64 {
	return int64(len(s.bytes) + 4*(len(s.scales)+len(s.half)+len(s.turned)) + len(s.slope) + len(s.lean))
}

// resize returns a slice of n elements, b itself if it has room.
func resize[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
