package vec

import (
	"math"
	"math/bits"
	"slices"
)

// nearBlock is how many codes are compared between two looks at dst's room, nearSpare
// how much more room implementations may write to than they use.
const (
	nearBlock = 4096
	nearSpare = 16
)

// Near appends to dst the positions of the codes whose Hamming distance from q is at
// most limit, in ascending order.
func Near(dst []uint32, codes []uint64, q uint64, limit int) []uint32 {
	for base := 0; base < len(codes); base += nearBlock {
		block := codes[base:min(base+nearBlock, len(codes))]
		n := len(dst)
		dst = slices.Grow(dst, len(block)+nearSpare)
		room := dst[n : n+len(block)+nearSpare]
		found := near(room, block, q, limit)
		if base > 0 {
			for i := range room[:found] {
				room[i] += uint32(base)
			}
		}
		dst = dst[:n+found]
	}
	return dst
}

// nearGo writes the positions to out, which is longer than codes by nearSpare, and
// returns their number.
func nearGo(out []uint32, codes []uint64, q uint64, limit int) int {
	n := 0
	for i, c := range codes {
		if bits.OnesCount64(c^q) <= limit {
			out[n] = uint32(i)
			n++
		}
	}
	return n
}

// bothFrom is the limit of the first word from which so many pass that it takes less time
// to read all second words in passing (BenchmarkNearBoth).
const bothFrom = 22

// NearBoth appends to dst the positions where the word of a differs from qa in at most first
// bits, and the words of a and b from qa and qb in at most both together, in ascending
// order. distance becomes those sums, in room of its own where that suffices. b is as long
// as a.
func NearBoth(dst []uint32, distance []uint16, a, b []uint64, qa, qb uint64, first, both int) ([]uint32, []uint16) {
	b, from := b[:len(a)], len(dst)
	for base := 0; base < len(a); base += nearBlock {
		end := min(base+nearBlock, len(a))
		n := len(dst)
		dst = slices.Grow(dst, end-base+nearSpare)
		room := dst[n : n+end-base+nearSpare]
		found := nearBoth(room, a[base:end], b[base:end], qa, qb, first, both)
		if base > 0 {
			for i := range room[:found] {
				room[i] += uint32(base)
			}
		}
		dst = dst[:n+found]
	}
	distance = slices.Grow(distance[:0], len(dst)-from)[:len(dst)-from]
	if len(distance) > 0 {
		n := nearer(dst[from:], distance, a, b, qa, qb, both)
		dst, distance = dst[:from+n], distance[:n]
	}
	return dst, distance
}

// nearBothGo writes to out, as nearGo does, positions that are near by first, and may leave
// out those that are not by both.
func nearBothGo(out []uint32, a, b []uint64, qa, qb uint64, first, both int) int {
	n := 0
	for i, c := range a {
		if d := bits.OnesCount64(c ^ qa); d <= first && d+bits.OnesCount64(b[i]^qb) <= both {
			out[n] = uint32(i)
			n++
		}
	}
	return n
}

// nearerGo keeps of the positions in at, of which there are some, those that are near by
// both words, and writes the distances.
func nearerGo(at []uint32, distance []uint16, a, b []uint64, qa, qb uint64, limit int) int {
	n := 0
	for _, i := range at {
		d := bits.OnesCount64(a[i]^qa) + bits.OnesCount64(b[i]^qb)
		at[n], distance[n] = i, uint16(d)
		if d <= limit {
			n++
		}
	}
	return n
}

// AddHamming adds to distance the Hamming distances from q of the codes at some ascending
// positions. A code has len(q) words; codes holds them one after the other.
func AddHamming(distance []uint16, at []uint32, codes, q []uint64) {
	if len(at) == 0 {
		return
	}
	_, _ = distance[len(at)-1], codes[(int(at[len(at)-1])+1)*len(q)-1]
	addHamming(distance, at, codes, q)
}

func addHammingGo(distance []uint16, at []uint32, codes, q []uint64) {
	for j, i := range at {
		distance[j] += uint16(Hamming(q, codes[int(i)*len(q):(int(i)+1)*len(q)]))
	}
}

// Hamming returns the number of bits in which a and b, of equal length, differ.
func Hamming(a, b []uint64) int {
	b = b[:len(a)]
	n := 0
	for i, x := range a {
		n += bits.OnesCount64(x ^ b[i])
	}
	return n
}

// SignBits writes to bit j of word w of dst whether a[64*w+j]-b[64*w+j] is negative; a
// and b must have 64 components for each word.
func SignBits(dst []uint64, a, b []float32) {
	if len(dst) == 0 {
		return
	}
	signBits(dst, a[:64*len(dst)], b[:64*len(dst)])
}

func signBitsGo(dst []uint64, a, b []float32) {
	for w := range dst {
		var word uint64
		x, y := a[64*w:64*w+64], b[64*w:64*w+64]
		for j := range x {
			word |= uint64(math.Float32bits(x[j]-y[j])>>31) << j
		}
		dst[w] = word
	}
}
