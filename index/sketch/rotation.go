package sketch

import (
	"math/rand/v2"
	"sync"

	"github.com/semcached/semcached/index/vec"
)

// maxWords bounds the length of a code in 64-bit words.
const maxWords = 6

// seed is what the signs of a rotation are drawn from.
type seed [2]uint64

// rotation is a random rotation of vectors, scaled. It is immutable.
type rotation struct {
	seed seed
	size int // power of two, at least 64: vectors are filled up with zeros
	bits int // of a code: size, but no more than 64*maxWords
	// signs of the two rounds, 1 or -1
	signs [2][]float32
}

// rotations are the rotations of this process by their dimensions, one for all indexes:
// a hundred thousand small ones must not have one each. Their seeds are unknown outside,
// so that nobody can make vectors that they treat badly.
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
	r := newRotation(dims, seed{rand.Uint64(), rand.Uint64()})
	if rotations.byDims == nil {
		rotations.byDims = make(map[int]*rotation)
	}
	rotations.byDims[dims] = r
	return r
}

// newRotation returns the rotation of a seed, which is the same in every process.
func newRotation(dims int, from seed) *rotation {
	r := &rotation{seed: from, size: 64}
	for r.size < dims {
		r.size *= 2
	}
	r.bits = min(r.size, 64*maxWords)
	rng := rand.New(rand.NewPCG(from[0], from[1]))
	for round := range r.signs {
		r.signs[round] = make([]float32, r.size)
		for i := range r.signs[round] {
			r.signs[round][i] = float32(1 - 2*int(rng.Uint64()>>63))
		}
	}
	return r
}

// words returns the number of 64-bit words of a code.
func (r *rotation) words() int { return r.bits / 64 }

// turn writes the rotated v to dst, which has r.size components.
func (r *rotation) turn(dst, v []float32) {
	clear(dst[copy(dst, v):])
	vec.SignedWalshHadamard(dst, r.signs[0])
	vec.SignedWalshHadamard(dst, r.signs[1])
}
