package vec

import "math"

// Int4Block is the number of components that 4-bit vectors are made of: their length is
// a multiple of it.
const Int4Block = 64

// int4Step is the distance of the 16 levels in units of the standard deviation: the
// uniform quantiser with the least error for normally distributed components (Max:
// "Quantizing for minimum distortion", 1960, table II; its error is 0.0115 of the energy).
const int4Step = 0.335

// QuantizeInt4 writes v to dst, two components per byte: a level n of 0 to 15 stands for
// n-7.5. In each block of 64 components the first 32 are the lower halves of 32 bytes,
// the others the upper. It returns the factor that makes dot products with v itself
// right (Gao and Long: "RaBitQ", 2024, section 3.2): the sum of q[i]*(n[i]-7.5), times
// scale, is about the dot product of q and v.
//
// len(v) must be a multiple of Int4Block, len(dst) half of it. Components should be
// normally distributed, as after a random rotation; others are cut off at 2.7 standard
// deviations.
func QuantizeInt4(dst []byte, v []float32) (scale float32) {
	var energy float32
	for _, x := range v {
		energy += x * x
	}
	if energy == 0 {
		clear(dst)
		return 0
	}
	f := float32(math.Sqrt(float64(len(v))/float64(energy)) / int4Step)
	var match float32
	for b := 0; b < len(v); b += Int4Block {
		lo, hi, out := v[b:b+32], v[b+32:b+64], dst[b/2:b/2+32]
		for i, x := range lo {
			y := hi[i]
			m := min(max(int32(x*f+8), 0), 15)
			n := min(max(int32(y*f+8), 0), 15)
			match += x*(float32(m)-7.5) + y*(float32(n)-7.5)
			out[i] = byte(m) | byte(n)<<4
		}
	}
	return energy / match
}

// DotInt4Rows writes to out the sums of q[j]*n[j] for some rows of a table of 4-bit
// vectors (see QuantizeInt4): chunks have 1<<shift rows each (the last may have fewer)
// of len(q)/2 bytes, and at names the rows wanted. len(q) must be a multiple of
// Int4Block, out as long as at. Rows that are not there panic. Rows are fetched ahead
// of their use, which is what it is for: they lie far apart in memory.
func DotInt4Rows(out []int32, q []int8, chunks [][]byte, shift uint, at []uint32) {
	out = out[:len(at)]
	width := len(q) / 2
	for _, i := range at {
		_ = chunks[i>>shift][(int(i)&(1<<shift-1)+1)*width-1]
	}
	dotInt4Rows(out, q, chunks, shift, at)
}

func dotInt4RowsGo(out []int32, q []int8, chunks [][]byte, shift uint, at []uint32) {
	width := len(q) / 2
	for j, i := range at {
		from := int(i) & (1<<shift - 1) * width
		out[j] = dotInt4Go(q, chunks[i>>shift][from:from+width])
	}
}

func dotInt4Go(q []int8, row []byte) (sum int32) {
	for b := 0; b < len(q); b += Int4Block {
		lo, hi := q[b:b+32], q[b+32:b+64]
		for i, c := range row[b/2 : b/2+32] {
			sum += int32(lo[i])*int32(c&15) + int32(hi[i])*int32(c>>4)
		}
	}
	return sum
}

// Fetch asks the processor for a list that will be read soon: a hint, which takes no time
// and may be ignored. l must not be empty.
func Fetch(l []uint32) { fetch(&l[0], 4*len(l)) }
