//go:build !amd64 || purego

package vec

// near takes slices of equal length. Compilers turn its population counts into
// vector instructions on arm64.
func near(out []uint32, codes []uint64, q uint64, limit int) int {
	return nearGo(out, codes, q, limit)
}

func butterflies(a, b []float32) { butterfliesGo(a, b) }
