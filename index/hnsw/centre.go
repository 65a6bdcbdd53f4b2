package hnsw

import (
	"math/rand/v2"

	"github.com/semcached/semcached/index/slab"
	"github.com/semcached/semcached/index/vec"
)

// Codes are of vectors seen from a centre, the mean of what was there when they were made:
// the error of a code is a share of its length, and embeddings have much of theirs in
// common. A similarity is put together again as
//
//	<q, x> = <q, c> + <x-c, c> + <q-c, x-c>
//
// of which only the last is of codes. Where all vectors have a cosine of 0.95 and more to
// each other, a fifth of them were not found by themselves without a centre.

const (
	// leastMean is how many vectors make a mean, mostMean how many are enough: the mean
	// of n has 1/n of the energy of one about it.
	leastMean, mostMean = 64, 1024
	// drift is how far the mean may lie from the centre, as a share of the energy of a
	// vector about the mean: codes made anew would have that much less energy.
	drift = 0.125
)

// recentre looks where the mean lies, each time that half as many vectors have been added as
// there are, and makes the codes anew if that is elsewhere than the centre. This takes some
// 2 µs for each vector (384 dimensions), once or twice in the life of most indexes; searches go
// on meanwhile, other changes wait. The caller holds writers.
func (ix *Index) recentre() {
	if n := len(ix.at); n < leastMean || ix.since < n/2 || ix.snapshots > 0 {
		return
	}
	ix.since = 0
	mean := ix.mean()
	square, away := vec.Dot(mean, mean), float32(0)
	for i, m := range mean {
		away += (m - ix.centre[i]) * (m - ix.centre[i])
	}
	if away <= drift*max(1-square, 1e-6) { // rounding is not drift
		return
	}
	codes, terms := slab.New[byte](ix.turn.size/2), make([]uint64, len(ix.terms))
	codes.Grow(len(terms))
	var q question
	for n := range uint32(ix.nodes) {
		if ix.live(n) {
			q.unit = ix.row(n)
			q.ask(ix, mean)
			terms[n] = uint64(q.encode(codes.Row(int(n))))
		}
	}
	ix.mu.Lock()
	ix.codes, ix.terms, ix.centre = codes, terms, mean
	ix.era++
	ix.mu.Unlock()
}

// mean returns the mean of some of the vectors. The caller holds writers.
func (ix *Index) mean() []float32 {
	mean, count := make([]float32, ix.dims), 0
	for n := range uint32(min(ix.nodes, mostMean)) {
		if ix.nodes > mostMean {
			n = rand.Uint32N(uint32(ix.nodes))
		}
		if ix.live(n) {
			for i, x := range ix.row(n) {
				mean[i] += x
			}
			count++
		}
	}
	vec.Scale(mean, mean, 1/float64(max(count, 1)))
	return mean
}
