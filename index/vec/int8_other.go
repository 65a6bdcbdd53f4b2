//go:build (!amd64 && !arm64) || purego

package vec

// dotInt8 takes slices of equal length.
func dotInt8(a, b []int8) int32 { return dotInt8Go(a, b) }

func dotInt8Rows(out []int32, q, rows []int8, at []uint32) { dotInt8RowsGo(out, q, rows, at) }

func dotInt8All(out []int32, q, rows []int8) { dotInt8AllGo(out, q, rows) }

func most(v []float32) float32 { return mostGo(v) }

func round(dst []int8, v []float32, f float32) { roundGo(dst, v, f) }

func dotMixed(a []float32, b []int8) float32 { return dotMixedGo(a, b) }
