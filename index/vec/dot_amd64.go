//go:build !purego

package vec

import "golang.org/x/sys/cpu"

// useAVX2 is decided once, by what the processor can do.
var useAVX2 = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// dotAVX2 is the dot product of n components; n is a positive multiple of 32.
//
//go:noescape
func dotAVX2(a, b *float32, n int) float32

// dot takes slices of equal length.
func dot(a, b []float32) float32 {
	n := len(a) &^ 31
	if !useAVX2 || n == 0 {
		return dotGo(a, b)
	}
	s := dotAVX2(&a[0], &b[0], n)
	if n < len(a) {
		s += dotGo(a[n:], b[n:])
	}
	return s
}
