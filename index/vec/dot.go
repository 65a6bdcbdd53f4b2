// Package vec has the arithmetic of vectors: dot products, norms, distances of binary
// codes, and the Walsh-Hadamard transform.
//
// Dot has implementations in assembly for amd64 with AVX2 and FMA and for arm64 with
// NEON, the code scans one for amd64; they are chosen once
// at the start. Go does everything else, and all with -tags purego. One test
// holds all against the definition.
package vec

import "math"

// Dot returns the sum of a[i]*b[i] over the shorter length. It adds in several
// lanes, so its rounding differs from a plain loop in the last bits.
func Dot(a, b []float32) float32 {
	n := min(len(a), len(b))
	return dot(a[:n], b[:n])
}

// dotGo adds in eight lanes, which the processor works on side by side.
func dotGo(a, b []float32) float32 {
	n := len(a)
	b = b[:n]
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	i := 0
	for ; i+8 <= n; i += 8 {
		x, y := a[i:i+8:i+8], b[i:i+8:i+8]
		s0 += x[0] * y[0]
		s1 += x[1] * y[1]
		s2 += x[2] * y[2]
		s3 += x[3] * y[3]
		s4 += x[4] * y[4]
		s5 += x[5] * y[5]
		s6 += x[6] * y[6]
		s7 += x[7] * y[7]
	}
	for ; i < n; i++ {
		s0 += a[i] * b[i]
	}
	return (s0 + s4) + (s1 + s5) + ((s2 + s6) + (s3 + s7))
}

// Norm returns the Euclidean length of v, computed in float64 so that neither
// large nor small components are lost.
func Norm(v []float32) float64 {
	var s0, s1, s2, s3 float64
	for len(v) >= 4 {
		a, b, c, d := float64(v[0]), float64(v[1]), float64(v[2]), float64(v[3])
		s0, s1, s2, s3 = s0+a*a, s1+b*b, s2+c*c, s3+d*d
		v = v[4:]
	}
	for _, x := range v {
		s0 += float64(x) * float64(x)
	}
	return math.Sqrt((s0 + s1) + (s2 + s3))
}

// Scale writes v times f to dst, which must be as long.
func Scale(dst, v []float32, f float64) {
	dst = dst[:len(v)]
	for i, x := range v {
		dst[i] = float32(float64(x) * f)
	}
}
