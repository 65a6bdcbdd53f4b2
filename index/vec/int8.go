package vec

// DotInt8 returns the sum of a[i]*b[i] over the shorter length. Up to 130,000
// components of any size it cannot overflow.
func DotInt8(a, b []int8) int32 {
	n := min(len(a), len(b))
	return dotInt8(a[:n], b[:n])
}

func dotInt8Go(a, b []int8) int32 {
	b = b[:len(a)]
	var s0, s1 int32
	i := 0
	for ; i+2 <= len(a); i += 2 {
		s0 += int32(a[i]) * int32(b[i])
		s1 += int32(a[i+1]) * int32(b[i+1])
	}
	if i < len(a) {
		s0 += int32(a[i]) * int32(b[i])
	}
	return s0 + s1
}

// DotInt8Rows writes to out the dot products of q with some rows of a matrix: rows
// holds vectors of len(q) components, one after the other, and at names those wanted.
// len(q) must be a multiple of 32, out as long as at. Rows are fetched ahead of their
// use, which is what it is for: they lie far apart in memory.
func DotInt8Rows(out []int32, q, rows []int8, at []uint32) {
	out = out[:len(at)]
	for _, i := range at {
		_ = rows[(int(i)+1)*len(q)-1]
	}
	dotInt8Rows(out, q, rows, at)
}

func dotInt8RowsGo(out []int32, q, rows []int8, at []uint32) {
	n := len(q)
	for j, i := range at {
		out[j] = dotInt8(q, rows[int(i)*n:int(i)*n+n])
	}
}

// Quantize writes v to dst as 8-bit integers and returns the factor that turns them
// back: v[i] is about dst[i]*scale. dst may be longer; the rest becomes zero.
func Quantize(dst []int8, v []float32) (scale float32) {
	var most float32
	for _, x := range v {
		most = max(most, x, -x)
	}
	clear(dst[len(v):])
	if most == 0 {
		clear(dst)
		return 0
	}
	f := 127 / most
	for i, x := range v {
		y := x * f
		if y >= 0 {
			dst[i] = int8(y + 0.5)
		} else {
			dst[i] = int8(y - 0.5)
		}
	}
	return most / 127
}
