//go:build !purego

package vec

// dotInt4RowsAVX2 is dotInt4RowsGo for count > 0 rows of n components, a positive
// multiple of 64; chunks points to slice headers.
//
//go:noescape
func dotInt4RowsAVX2(out *int32, q *int8, n int, chunks *[]byte, shift uint, at *uint32, count int)

func dotInt4Rows(out []int32, q []int8, chunks [][]byte, shift uint, at []uint32) {
	if !useAVX2 || len(at) == 0 || len(q) == 0 || len(q)%Int4Block != 0 {
		dotInt4RowsGo(out, q, chunks, shift, at)
		return
	}
	dotInt4RowsAVX2(&out[0], &q[0], len(q), &chunks[0], shift, &at[0], len(at))
}

// fetch prefetches the cache lines from p on.
//
//go:noescape
func fetch(p *uint32, bytes int)
