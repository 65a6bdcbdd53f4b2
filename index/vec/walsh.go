package vec

// WalshHadamard replaces v by its Walsh-Hadamard transform, not normalised: the
// length of the vector grows by the square root of len(v), which must be a power of
// two.
func WalshHadamard(v []float32) { walsh(v, nil) }

// SignedWalshHadamard is WalshHadamard of the products of v and signs, which must be as
// long: a round of a fast random rotation.
func SignedWalshHadamard(v, signs []float32) { walsh(v, signs[:len(v)]) }

// walshGo multiplies by signs unless they are nil.
func walshGo(v, signs []float32) {
	for i, s := range signs {
		v[i] *= s
	}
	n := len(v)
	h := 1
	if n >= 8 {
		for i := 0; i+8 <= n; i += 8 { // the first three steps at once, in registers
			x := v[i : i+8 : i+8]
			a0, a1, a2, a3, a4, a5, a6, a7 := x[0]+x[1], x[0]-x[1], x[2]+x[3], x[2]-x[3], x[4]+x[5], x[4]-x[5], x[6]+x[7], x[6]-x[7]
			b0, b1, b2, b3, b4, b5, b6, b7 := a0+a2, a1+a3, a0-a2, a1-a3, a4+a6, a5+a7, a4-a6, a5-a7
			x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7] = b0+b4, b1+b5, b2+b6, b3+b7, b0-b4, b1-b5, b2-b6, b3-b7
		}
		h = 8
	}
	for ; h < n; h *= 2 {
		for i := 0; i < n; i += 2 * h {
			a, b := v[i:i+h:i+h], v[i+h:i+2*h:i+2*h]
			for j, x := range a {
				y := b[j]
				a[j], b[j] = x+y, x-y
			}
		}
	}
}
