//go:build !amd64 || purego

package vec

// Compilers turn population counts into vector instructions on arm64.
func near(out []uint32, codes []uint64, q uint64, limit int) int {
	return nearGo(out, codes, q, limit)
}

func nearBoth(out []uint32, a, b []uint64, qa, qb uint64, first, both int) int {
	return nearBothGo(out, a, b, qa, qb, first, both)
}

func nearer(at []uint32, distance []uint16, a, b []uint64, qa, qb uint64, limit int) int {
	return nearerGo(at, distance, a, b, qa, qb, limit)
}

func addHamming(distance []uint16, at []uint32, codes, q []uint64) {
	addHammingGo(distance, at, codes, q)
}

func signBits(dst []uint64, a, b []float32) { signBitsGo(dst, a, b) }
