//go:build !purego

package vec

import "golang.org/x/sys/cpu"

// useVNNI is decided once: VNNI multiplies and adds bytes in one instruction.
var useVNNI = useAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VNNI

// dotInt8AVX2 is dotInt8Go for n components, a positive multiple of 32.
//
//go:noescape
func dotInt8AVX2(a, b *int8, n int) int32

// dotInt8RowsAVX2 is dotInt8RowsGo for count > 0 rows of n components, a positive
// multiple of 32.
//
//go:noescape
func dotInt8RowsAVX2(out *int32, q *int8, n int, rows *int8, at *uint32, count int)

// dotInt8AllAVX2 is dotInt8AllGo for count > 0 rows of n components, a positive multiple
// of 32.
//
//go:noescape
func dotInt8AllAVX2(out *int32, q *int8, n int, rows *int8, count int)

// dotInt8AllVNNI is dotInt8AllAVX2 with the instructions of AVX-512 VNNI.
//
//go:noescape
func dotInt8AllVNNI(out *int32, q *int8, n int, rows *int8, count int)

// dotMixedAVX2 is dotMixedGo for n components, a positive multiple of 32.
//
//go:noescape
func dotMixedAVX2(a *float32, b *int8, n int) float32

// mostAVX2 is mostGo for n components, a positive multiple of 16.
//
//go:noescape
func mostAVX2(v *float32, n int) float32

// roundAVX2 is roundGo for n components, a positive multiple of 32.
//
//go:noescape
func roundAVX2(dst *int8, v *float32, n int, f float32)

// dotMixed takes slices of equal length.
func dotMixed(a []float32, b []int8) float32 {
	n := len(a) &^ 31
	if !useAVX2 || n == 0 {
		return dotMixedGo(a, b)
	}
	s := dotMixedAVX2(&a[0], &b[0], n)
	if n < len(a) {
		s += dotMixedGo(a[n:], b[n:])
	}
	return s
}

// dotInt8 takes slices of equal length.
func dotInt8(a, b []int8) int32 {
	n := len(a) &^ 31
	if !useAVX2 || n == 0 {
		return dotInt8Go(a, b)
	}
	s := dotInt8AVX2(&a[0], &b[0], n)
	if n < len(a) {
		s += dotInt8Go(a[n:], b[n:])
	}
	return s
}

func dotInt8Rows(out []int32, q, rows []int8, at []uint32) {
	if !useAVX2 || len(at) == 0 || len(q) == 0 || len(q)%32 != 0 {
		dotInt8RowsGo(out, q, rows, at)
		return
	}
	dotInt8RowsAVX2(&out[0], &q[0], len(q), &rows[0], &at[0], len(at))
}

func dotInt8All(out []int32, q, rows []int8) {
	if useVNNI && len(q)%32 == 0 {
		dotInt8AllVNNI(&out[0], &q[0], len(q), &rows[0], len(out))
		return
	}
	dotInt8All2(out, q, rows)
}

// dotInt8All2 is dotInt8All without VNNI.
func dotInt8All2(out []int32, q, rows []int8) {
	if !useAVX2 || len(q)%32 != 0 {
		dotInt8AllGo(out, q, rows)
		return
	}
	dotInt8AllAVX2(&out[0], &q[0], len(q), &rows[0], len(out))
}

func most(v []float32) float32 {
	n := len(v) &^ 15
	if !useAVX2 || n == 0 {
		return mostGo(v)
	}
	return max(mostAVX2(&v[0], n), mostGo(v[n:]))
}

func round(dst []int8, v []float32, f float32) {
	n := len(v) &^ 31
	if useAVX2 && n > 0 {
		roundAVX2(&dst[0], &v[0], n, f)
		dst, v = dst[n:], v[n:]
	}
	roundGo(dst, v, f)
}
