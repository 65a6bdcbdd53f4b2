//go:build !purego

package vec

// dotNEON is the dot product of n components; n is a positive multiple of 16. Every
// arm64 processor has NEON.
//
//go:noescape
func dotNEON(a, b *float32, n int) float32

// dot takes slices of equal length.
func dot(a, b []float32) float32 {
	n := len(a) &^ 15
	if n == 0 {
		return dotGo(a, b)
	}
	s := dotNEON(&a[0], &b[0], n)
	if n < len(a) {
		s += dotGo(a[n:], b[n:])
	}
	return s
}
