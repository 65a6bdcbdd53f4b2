//go:build !purego

package vec

// dotInt8AVX2 is dotInt8Go for n components, a positive multiple of 32.
//
//go:noescape
func dotInt8AVX2(a, b *int8, n int) int32

// dotInt8RowsAVX2 is dotInt8RowsGo for count > 0 rows of n components, a positive
// multiple of 32.
//
//go:noescape
func dotInt8RowsAVX2(out *int32, q *int8, n int, rows *int8, at *uint32, count int)

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
