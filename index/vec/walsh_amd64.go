//go:build !purego

package vec

// walshEights does the first three steps of walshGo on n components, a positive multiple
// of 8; signs may be nil.
//
//go:noescape
func walshEights(v, signs *float32, n int)

// walshFours does the steps of widths h and 2h on n components, a multiple of 4h; h is a
// multiple of 8.
//
//go:noescape
func walshFours(v *float32, n, h int)

// walshTwos does the step of width h on n components, a multiple of 2h; h is a multiple
// of 8.
//
//go:noescape
func walshTwos(v *float32, n, h int)

func walsh(v, signs []float32) {
	n := len(v)
	if !useAVX2 || n < 8 {
		walshGo(v, signs)
		return
	}
	var first *float32
	if signs != nil {
		first = &signs[0]
	}
	walshEights(&v[0], first, n)
	h := 8
	for ; 4*h <= n; h *= 4 {
		walshFours(&v[0], n, h)
	}
	if h < n {
		walshTwos(&v[0], n, h)
	}
}
