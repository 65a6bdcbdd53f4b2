package hnsw

import (
	"math"
	"math/bits"
	"math/rand/v2"

	"github.com/semcached/semcached/index/vec"
)

// rotation turns vectors at random, so that the components of any of them are about
// normally distributed, as 4-bit vectors need it: one large component, or many that are
// zero, would else leave the others no levels. Dot products stay as they are.
//
// It is two rounds of random signs and Walsh-Hadamard transforms. These take powers of
// two: where the size is none, one transform mixes the first components and another the
// last, and the two overlap.
type rotation struct {
	seed  uint64
	size  int // a multiple of vec.Int4Block: vectors are filled up with zeros
	part  int // the largest power of two up to size
	signs [2][]float32
}

func newRotation(dims int, seed uint64) rotation {
	r := rotation{seed: seed, size: (dims + vec.Int4Block - 1) / vec.Int4Block * vec.Int4Block}
	r.part = 1 << (bits.Len(uint(r.size)) - 1)
	rng := rand.New(rand.NewPCG(seed, uint64(dims)))
	for round := range r.signs {
		r.signs[round] = make([]float32, r.size)
		for i := range r.signs[round] {
			r.signs[round][i] = float32(1 - 2*rng.IntN(2))
		}
	}
	return r
}

// turn writes the rotated v to dst, which has size components.
func (r *rotation) turn(dst, v []float32) {
	clear(dst[copy(dst, v):])
	norm := float32(1 / math.Sqrt(float64(r.part)))
	for _, signs := range r.signs {
		for i, s := range signs[:len(dst)] {
			dst[i] *= s
		}
		mix(dst[:r.part], norm)
		if r.part < r.size {
			mix(dst[r.size-r.part:], norm)
		}
	}
}

func mix(v []float32, norm float32) {
	vec.WalshHadamard(v)
	for i := range v {
		v[i] *= norm
	}
}
