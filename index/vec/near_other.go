//go:build !amd64 || purego

package vec

// Compilers turn population counts into vector instructions on arm64.
func near(out []uint32, codes []uint64, q uint64, limit int) int {
	return nearGo(out, codes, q, limit)
}

func closer(at []uint32, distance []uint16, codes, q []uint64, limit int) int {
	return closerGo(at, distance, codes, q, limit)
}

func signBits(dst []uint64, a, b []float32) { signBitsGo(dst, a, b) }
