package sketch

import (
	"math"
	"math/rand/v2"
	"sync"

	"github.com/semcached/semcached/index/vec"
)

// maxWords bounds the length of a code in 64-bit words.
const maxWords = 4

// rotation is a random rotation of vectors, scaled: the same for all indexes of one
// dimension in this process, and unknown outside, so that nobody can make vectors
// that it treats badly.
type rotation struct {
	size int // power of two, at least 64: vectors are filled up with zeros
	bits int // of a code: size, but no more than 64*maxWords
	// signs of the two rounds, 1 or -1
	signs [2][]float32
}

var rotations struct {
	mu     sync.Mutex // guards byDims
	byDims map[int]*rotation
}

func rotationOf(dims int) *rotation {
	rotations.mu.Lock()
	defer rotations.mu.Unlock()
	if r := rotations.byDims[dims]; r != nil {
		return r
	}
	r := newRotation(dims)
	if rotations.byDims == nil {
		rotations.byDims = make(map[int]*rotation)
	}
	rotations.byDims[dims] = r
	return r
}

func newRotation(dims int) *rotation {
	r := &rotation{size: 64}
	for r.size < dims {
		r.size *= 2
	}
	r.bits = min(r.size, 64*maxWords)
	for round := range r.signs {
		r.signs[round] = make([]float32, r.size)
		for i := range r.signs[round] {
			r.signs[round][i] = float32(1 - 2*rand.IntN(2))
		}
	}
	return r
}

// turn writes the rotated v to dst, which has r.size components.
func (r *rotation) turn(dst, v []float32) {
	signs := r.signs[0][:len(v)]
	for i, x := range v {
		dst[i] = x * signs[i]
	}
	clear(dst[len(v):])
	vec.WalshHadamard(dst)
	signs = r.signs[1][:len(dst)]
	for i := range dst {
		dst[i] *= signs[i]
	}
	vec.WalshHadamard(dst)
}

const (
	// steps is the resolution of the probability that a bit differs.
	steps = 1024
	// mostSteps is the probability, in steps, from which the codes of what is
	// sought and of anything else look alike.
	mostSteps = steps * 2 / 5
	// missFirst and missWhole are the probabilities with which the test of
	// the first word and that of the whole code may drop a vector at the
	// threshold.
	missFirst = 1.0 / 1250
	missWhole = 1.0 / 20_000
)

// Distances by probability in steps: of the first word, and of codes by their words.
var (
	firstTable  = table(64, missFirst)
	wholeTables = [maxWords + 1]func() []uint16{1: table(64, missWhole), 2: table(128, missWhole), 4: table(256, missWhole)}
)

func table(n int, miss float64) func() []uint16 {
	return sync.OnceValue(func() []uint16 {
		t := make([]uint16, mostSteps+1)
		for p := range t {
			t[p] = uint16(quantile(n, float64(p)/steps, miss))
		}
		return t
	})
}

// firstLimit and wholeLimit return the distance up to which codes are near, if a bit
// differs with a probability of p/steps.
func firstLimit(p int) int       { return int(firstTable()[p]) }
func wholeLimit(bits, p int) int { return int(wholeTables[bits/64]()[p]) }

// quantile returns the least x such that a binomial variable of n trials with
// probability p exceeds x with a probability of at most tail.
func quantile(n int, p, tail float64) int {
	if p <= 0 {
		return 0
	}
	above := 0.0
	for x := n; x > 0; x-- {
		if above += math.Exp(logChoose(n, x) + float64(x)*math.Log(p) + float64(n-x)*math.Log1p(-p)); above > tail {
			return x
		}
	}
	return 0
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

// floatPool and numberPool lend scratch space.
type floatPool struct{ p sync.Pool }

var floats = floatPool{sync.Pool{New: func() any { return new([]float32) }}}

func (f *floatPool) get(n int) *[]float32 {
	b := f.p.Get().(*[]float32)
	if cap(*b) < n {
		*b = make([]float32, n)
	}
	*b = (*b)[:n]
	return b
}

func (f *floatPool) put(b *[]float32) { f.p.Put(b) }

type bytePool struct{ p sync.Pool }

var byteScratch = bytePool{sync.Pool{New: func() any { return new([]int8) }}}

func (b *bytePool) get(n int) *[]int8 {
	s := b.p.Get().(*[]int8)
	if cap(*s) < n {
		*s = make([]int8, n)
	}
	*s = (*s)[:n]
	return s
}

func (b *bytePool) put(s *[]int8) { b.p.Put(s) }

type numberPool struct{ p sync.Pool }

var rowNumbers = numberPool{sync.Pool{New: func() any { return new([]uint32) }}}

func (n *numberPool) get() *[]uint32  { return n.p.Get().(*[]uint32) }
func (n *numberPool) put(b *[]uint32) { n.p.Put(b) }
