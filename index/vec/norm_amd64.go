//go:build !purego

package vec

import "unsafe"

// squaresAVX2 is squaresGo for n components, a positive multiple of 16.
//
//go:noescape
func squaresAVX2(v *float32, n int) float64

// scaleAVX2 is scaleGo for n components, a positive multiple of 8.
//
//go:noescape
func scaleAVX2(dst, v *float32, n int, f float64)

// prefetchLines fetches n cache lines from v on.
//
//go:noescape
func prefetchLines(v unsafe.Pointer, n int)

func squares(v []float32) float64 {
	n := len(v) &^ 15
	if !useAVX2 || n == 0 {
		return squaresGo(v)
	}
	return squaresAVX2(&v[0], n) + squaresGo(v[n:])
}

// scale takes slices of equal length.
func scale(dst, v []float32, f float64) {
	n := len(v) &^ 7
	if !useAVX2 || n == 0 {
		scaleGo(dst, v, f)
		return
	}
	scaleAVX2(&dst[0], &v[0], n, f)
	scaleGo(dst[n:], v[n:], f)
}

func prefetch(v unsafe.Pointer, bytes int) { prefetchLines(v, (bytes+63)/64) }
