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

// Closer keeps of the ascending positions in at those of codes whose Hamming distance from q is
// at most limit, in their order, writes the distances to distance, which must be as long
// as at, and returns their number. A code has len(q) words; codes holds them one after
// the other.
func Closer(at []uint32, distance []uint16, codes, q []uint64, limit int) int {
	if len(at) == 0 {
		return 0
	}
	_, _ = distance[len(at)-1], codes[(int(at[len(at)-1])+1)*len(q)-1]
	return closer(at, distance, codes, q, limit)
}

func closerGo(at []uint32, distance []uint16, codes, q []uint64, limit int) int {
	n := 0
	for _, i := range at {
		d := Hamming(q, codes[int(i)*len(q):(int(i)+1)*len(q)])
		at[n], distance[n] = i, uint16(d)
		if d <= limit {
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
