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
// It is rounds of random signs and a Walsh-Hadamard transform. This takes powers of two:
// where the size is none, the first components and the last are mixed in turn, and the
// two parts overlap.
type rotation struct {
	seed  uint64
	size  int // a multiple of vec.Int4Block: vectors are filled up with zeros
	part  int // the largest power of two up to size
	signs [][]float32
}

func newRotation(dims int, seed uint64) rotation {
	r := rotation{seed: seed, size: (dims + vec.Int4Block - 1) / vec.Int4Block * vec.Int4Block}
	r.part = 1 << (bits.Len(uint(r.size)) - 1)
	rounds := 2
	if r.part < r.size {
		rounds = 4
	}
	rng := rand.New(rand.NewPCG(seed, uint64(dims)))
	for range rounds {
		signs := make([]float32, r.size)
		for i := range signs {
			signs[i] = float32(1 - 2*rng.IntN(2))
		}
		r.signs = append(r.signs, signs)
	}
	return r
}

// turn rotates dst, which has size components.
func (r *rotation) turn(dst []float32) {
	norm := float32(1 / math.Sqrt(float64(r.part)))
	for round, signs := range r.signs {
		for i, s := range signs[:len(dst)] {
			dst[i] *= s
		}
		part := dst[:r.part]
		if round%2 == 1 {
			part = dst[r.size-r.part:]
		}
		vec.WalshHadamard(part)
		for i := range part {
			part[i] *= norm
		}
	}
}
