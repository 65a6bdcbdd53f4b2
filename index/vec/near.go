package vec

import (
	"math/bits"
	"slices"
)

// nearBlock is how many codes are compared between two looks at dst's room.
const nearBlock = 512

// Near appends to dst the positions of the codes whose Hamming distance from q is at
// most limit, in ascending order.
func Near(dst []uint32, codes []uint64, q uint64, limit int) []uint32 {
	for base := 0; base < len(codes); base += nearBlock {
		block := codes[base:min(base+nearBlock, len(codes))]
		dst = slices.Grow(dst, len(block))
		n := len(dst)
		room := dst[n : n+len(block)]
		found := near(room, block, q, limit)
		for i := range room[:found] {
			room[i] += uint32(base)
		}
		dst = dst[:n+found]
	}
	return dst
}

// nearGo writes the positions to out, which is as long as codes, and returns their
// number.
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

// Hamming returns the number of bits in which a and b, of equal length, differ.
func Hamming(a, b []uint64) int {
	b = b[:len(a)]
	n := 0
	for i, x := range a {
		n += bits.OnesCount64(x ^ b[i])
	}
	return n
}

// WalshHadamard replaces v by its Walsh-Hadamard transform, not normalised: the
// length of the vector grows by the square root of len(v), which must be a power of
// two.
func WalshHadamard(v []float32) {
	n := len(v)
	h := 1
	if n >= 8 {
		for i := 0; i+8 <= n; i += 8 { // the first three steps at once, in registers
			x := v[i : i+8 : i+8]
			a0, a1, a2, a3, a4, a5, a6, a7 := x[0]+x[1], x[0]-x[1], x[2]+x[3], x[2]-x[3], x[4]+x[5], x[4]-x[5], x[6]+x[7], x[6]-x[7]
			b0, b1, b2, b3, b4, b5, b6, b7 := a0+a2, a1+a3, a0-a2, a1-a3, a4+a6, a5+a7, a4-a6, a5-a7
			x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7] = b0+b4, b1+b5, b2+b6, b3+b7, b0-b4, b1-b5, b2-b6, b3-b7
		}
		h = 8
	}
	for ; h < n; h *= 2 {
		for i := 0; i < n; i += 2 * h {
			butterflies(v[i:i+h:i+h], v[i+h:i+2*h:i+2*h])
		}
	}
}

// butterfliesGo replaces a and b, of equal length, by their sum and difference.
func butterfliesGo(a, b []float32) {
	b = b[:len(a)]
	for i, x := range a {
		y := b[i]
		a[i], b[i] = x+y, x-y
	}
}
