// Package vec has the arithmetic of vectors: dot products, norms, distances of binary
// codes, and the Walsh-Hadamard transform.
//
// Everything has an implementation in Go. Assembly for amd64 (AVX2 with FMA; AVX-512
// where it is there and gains something) does all of it as well, assembly for arm64
// (NEON) the dot products; on arm64 Go serves for the rest. They are chosen once at the
// start by what the processor can do, and -tags purego leaves all assembly out. One test
// for each holds every implementation against the definition.
package vec

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
