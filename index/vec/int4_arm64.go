//go:build !purego

package vec

// dotInt4NEON is dotInt4Go for n components, a positive multiple of 64.
//
//go:noescape
func dotInt4NEON(q *int8, row *byte, n int) int32

func dotInt4Rows(out []int32, q []int8, chunks [][]byte, shift uint, at []uint32) {
	if len(q) == 0 || len(q)%Int4Block != 0 {
		dotInt4RowsGo(out, q, chunks, shift, at)
		return
	}
	width := len(q) / 2
	for j, i := range at {
		from := int(i) & (1<<shift - 1) * width
		row := chunks[i>>shift][from : from+width]
		out[j] = dotInt4NEON(&q[0], &row[0], len(q))
	}
}

// fetch prefetches the cache lines from p on.
//
//go:noescape
func fetch(p *uint32, bytes int)
