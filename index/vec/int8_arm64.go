//go:build !purego

package vec

// dotInt8NEON is dotInt8Go for n components, a positive multiple of 16.
//
//go:noescape
func dotInt8NEON(a, b *int8, n int) int32

// dotInt8 takes slices of equal length.
func dotInt8(a, b []int8) int32 {
	n := len(a) &^ 15
	if n == 0 {
		return dotInt8Go(a, b)
	}
	s := dotInt8NEON(&a[0], &b[0], n)
	if n < len(a) {
		s += dotInt8Go(a[n:], b[n:])
	}
	return s
}

func dotInt8Rows(out []int32, q, rows []int8, at []uint32) { dotInt8RowsGo(out, q, rows, at) }

func dotInt8All(out []int32, q, rows []int8) { dotInt8AllGo(out, q, rows) }

func most(v []float32) float32 { return mostGo(v) }

func round(dst []int8, v []float32, f float32) { roundGo(dst, v, f) }

func dotMixed(a []float32, b []int8) float32 { return dotMixedGo(a, b) }
