//go:build !purego

package vec

// nearAVX2 is nearGo for n codes; n is a positive multiple of 16, and out has room
// for all.
//
//go:noescape
func nearAVX2(out *uint32, codes *uint64, n int, q uint64, limit int) int

// butterfliesAVX2 is butterfliesGo for n components; n is a positive multiple of 8.
//
//go:noescape
func butterfliesAVX2(a, b *float32, n int)

// near takes slices of equal length.
func near(out []uint32, codes []uint64, q uint64, limit int) int {
	n := len(codes) &^ 15
	if !useAVX2 || n == 0 {
		return nearGo(out, codes, q, limit)
	}
	found := nearAVX2(&out[0], &codes[0], n, q, limit)
	if n < len(codes) {
		rest := out[found:]
		more := nearGo(rest, codes[n:], q, limit)
		for i := range rest[:more] {
			rest[i] += uint32(n)
		}
		found += more
	}
	return found
}

// butterflies takes slices of equal length.
func butterflies(a, b []float32) {
	if !useAVX2 || len(a) < 8 || len(a)%8 != 0 {
		butterfliesGo(a, b)
		return
	}
	butterfliesAVX2(&a[0], &b[0], len(a))
}
