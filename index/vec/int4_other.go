//go:build (!amd64 && !arm64) || purego

package vec

func dotInt4Rows(out []int32, q []int8, chunks [][]byte, shift uint, at []uint32) {
	dotInt4RowsGo(out, q, chunks, shift, at)
}

func fetch(*uint32, int) {}
