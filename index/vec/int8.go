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

// DotInt8All writes to out the dot products of q with len(out) rows, which lie one after
// the other in rows; len(q) must be a multiple of 32. No component may be -128.
func DotInt8All(out []int32, q, rows []int8) {
	if len(out) == 0 || len(q) == 0 {
		clear(out)
		return
	}
	dotInt8All(out, q, rows[:len(out)*len(q)])
}

func dotInt8AllGo(out []int32, q, rows []int8) {
	for i := range out {
		out[i] = dotInt8(q, rows[i*len(q):(i+1)*len(q)])
	}
}

// DotMixed returns the sum of a[i]*b[i] over the shorter length. It adds in several lanes,
// as Dot does.
func DotMixed(a []float32, b []int8) float32 {
	n := min(len(a), len(b))
	return dotMixed(a[:n], b[:n])
}

func dotMixedGo(a []float32, b []int8) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		x, y := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += x[0] * float32(y[0])
		s1 += x[1] * float32(y[1])
		s2 += x[2] * float32(y[2])
		s3 += x[3] * float32(y[3])
	}
	for ; i < len(a); i++ {
		s0 += a[i] * float32(b[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// Quantize writes v to dst as 8-bit integers from -127 to 127 and returns the factor
// that turns them back: v[i] is about dst[i]*scale. dst may be longer; the rest becomes
// zero.
func Quantize(dst []int8, v []float32) (scale float32) {
	m := most(v)
	if m == 0 {
		clear(dst)
		return 0
	}
	clear(dst[len(v):])
	round(dst[:len(v)], v, 127/m)
	return m / 127
}

// mostGo returns the largest magnitude.
func mostGo(v []float32) (m float32) {
	for _, x := range v {
		m = max(m, x, -x)
	}
	return m
}

// roundGo writes the integers nearest to v times f, ties away from zero.
func roundGo(dst []int8, v []float32, f float32) {
	for i, x := range v {
		y := x * f
		if y >= 0 {
			dst[i] = int8(y + 0.5)
		} else {
			dst[i] = int8(y - 0.5)
		}
	}
}
