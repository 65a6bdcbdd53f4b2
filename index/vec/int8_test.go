package vec

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sameInt8 holds every implementation against the definition.
func sameInt8(t *testing.T, a, b []int8) {
	t.Helper()
	var want int32
	for i := range min(len(a), len(b)) {
		want += int32(a[i]) * int32(b[i])
	}
	if got := DotInt8(a, b); got != want {
		t.Fatalf("lengths %d and %d: %d, want %d", len(a), len(b), got, want)
	}
	if n := min(len(a), len(b)); dotInt8Go(a[:n], b[:n]) != want {
		t.Fatalf("go: length %d: %d, want %d", n, dotInt8Go(a[:n], b[:n]), want)
	}
}

func TestDotInt8(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	a, b := make([]int8, 900), make([]int8, 900)
	for i := range a {
		a[i], b[i] = int8(rng.Uint32()), int8(rng.Uint32())
	}
	for n := range 140 {
		for offset := range 5 {
			sameInt8(t, a[offset:offset+n], b[3:3+n])
		}
	}
	sameInt8(t, a[:800], b)
	for i := range a { // the largest products
		a[i], b[i] = -128, -128
	}
	sameInt8(t, a, b)
	sameInt8(t, nil, b)
}

// sameMixed holds the implementations of DotMixed against a sum in float64.
func sameMixed(t *testing.T, a []float32, b []int8) {
	t.Helper()
	want, size := 0.0, 0.0
	for i := range min(len(a), len(b)) {
		p := float64(a[i]) * float64(b[i])
		want, size = want+p, size+math.Abs(p)
	}
	n := min(len(a), len(b))
	for name, got := range map[string]float32{"chosen": DotMixed(a, b), "go": dotMixedGo(a[:n], b[:n])} {
		if math.Abs(float64(got)-want) > 1e-6*size {
			t.Fatalf("%s: %d components: %v, want %v", name, n, got, want)
		}
	}
}

func TestDotMixed(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	a, b := make([]float32, 900), make([]int8, 900)
	for i := range a {
		a[i], b[i] = float32(rng.NormFloat64()), int8(rng.Uint32())
	}
	for n := range 140 {
		for offset := range 5 {
			sameMixed(t, a[offset:offset+n], b[3:3+n])
			sameMixed(t, a[:n], b[offset:])
		}
	}
	sameMixed(t, a[:800], b)
	sameMixed(t, nil, b)
}

func FuzzDotMixed(f *testing.F) {
	f.Add(uint64(1), 384)
	f.Fuzz(func(t *testing.T, seed uint64, n int) {
		rng := rand.New(rand.NewPCG(seed, 0))
		a, b := make([]float32, max(0, n%2000)), make([]int8, max(0, n%2000))
		for i := range a {
			a[i], b[i] = float32(rng.NormFloat64()), int8(rng.Uint32())
		}
		sameMixed(t, a, b)
	})
}

func BenchmarkDotMixed(b *testing.B) {
	x, y := make([]float32, 384), make([]int8, 384)
	for name, f := range map[string]func([]float32, []int8) float32{"chosen": DotMixed, "go": dotMixedGo} {
		b.Run("impl="+name, func(b *testing.B) {
			for b.Loop() {
				f(x, y)
			}
		})
	}
}

func TestDotInt8Rows(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for _, n := range []int{32, 64, 384} {
		rows := make([]int8, 50*n)
		for i := range rows {
			rows[i] = int8(rng.Uint32())
		}
		q := rows[7*n : 8*n]
		for count := range 9 {
			at := make([]uint32, count)
			for i := range at {
				at[i] = uint32(rng.IntN(50))
			}
			out, want := make([]int32, count), make([]int32, count)
			DotInt8Rows(out, q, rows, at)
			for j, i := range at {
				want[j] = dotInt8Go(q, rows[int(i)*n:int(i)*n+n])
			}
			if !slices.Equal(out, want) {
				t.Fatalf("%d rows of %d: %v, want %v", count, n, out, want)
			}
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a row beyond the end is read")
		}
	}()
	DotInt8Rows(make([]int32, 1), make([]int8, 32), make([]int8, 64), []uint32{2})
}

// int8Alls are the implementations that this machine can run.
var int8Alls = map[string]func(out []int32, q, rows []int8){"go": dotInt8AllGo, "chosen": dotInt8All}

func TestDotInt8All(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for _, n := range []int{32, 64, 96, 384, 416} {
		rows := make([]int8, 9*n)
		for i := range rows {
			rows[i] = int8(rng.IntN(255) - 127)
		}
		copy(rows[n:2*n], slices.Repeat([]int8{127}, n))
		copy(rows[2*n:3*n], slices.Repeat([]int8{-127}, n))
		for count := 1; count < 9; count++ {
			for _, q := range [][]int8{rows[8*n:], rows[n : 2*n], rows[2*n : 3*n]} {
				sameAll(t, q, rows, count)
			}
		}
	}
	DotInt8All(nil, make([]int8, 32), nil)
}

func sameAll(t *testing.T, q, rows []int8, count int) {
	t.Helper()
	want := make([]int32, count)
	for j := range want {
		for i, x := range q {
			want[j] += int32(x) * int32(rows[j*len(q)+i])
		}
	}
	for name, f := range int8Alls {
		got := make([]int32, count)
		if f(got, q, rows); !slices.Equal(got, want) {
			t.Fatalf("%s: %d rows of %d: %v, want %v", name, count, len(q), got, want)
		}
	}
}

func FuzzDotInt8All(f *testing.F) {
	f.Add(uint64(1), uint8(12), uint8(3))
	f.Fuzz(func(t *testing.T, seed uint64, parts, count uint8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		q, rows := make([]int8, 32*(1+int(parts%30))), []int8(nil)
		for i := range q {
			q[i] = int8(rng.IntN(255) - 127)
		}
		for range (1 + int(count%20)) * len(q) {
			rows = append(rows, int8(rng.IntN(255)-127))
		}
		sameAll(t, q, rows, len(rows)/len(q))
	})
}

func TestQuantize(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	v := make([]float32, 100)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	dst := make([]int8, 128)
	dst[120] = 5
	scale := Quantize(dst, v)
	for i, x := range v {
		if math.Abs(float64(x-float32(dst[i])*scale)) > float64(scale)*0.51 {
			t.Fatalf("%v became %v", x, float32(dst[i])*scale)
		}
	}
	if !slices.Equal(dst[100:], make([]int8, 28)) || Quantize(dst, make([]float32, 5)) != 0 || dst[3] != 0 {
		t.Error("what is left over is not zero")
	}
}

func TestQuantizersAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 2))
	for n := 1; n < 140; n++ {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
			if rng.IntN(4) == 0 {
				v[i] = (float32(rng.IntN(20)) - 10) / 8 // ties
			}
		}
		v[rng.IntN(n)] = 127.0 / 16 // a factor of 16
		if m := mostGo(v); most(v) != m {
			t.Fatalf("%d components: %v is the largest, not %v", n, m, most(v))
		}
		got, want := make([]int8, n), make([]int8, n)
		round(got, v, 16)
		roundGo(want, v, 16)
		if !slices.Equal(got, want) {
			t.Fatalf("%v became %v, want %v", v, got, want)
		}
	}
}

func FuzzDotInt8(f *testing.F) {
	f.Add([]byte{1, 200, 3}, []byte{4, 5})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		a, b := make([]int8, len(x)), make([]int8, len(y))
		for i, v := range x {
			a[i] = int8(v)
		}
		for i, v := range y {
			b[i] = int8(v)
		}
		sameInt8(t, a, b)
	})
}

func BenchmarkDotInt8(b *testing.B) {
	v, w := make([]int8, 384), make([]int8, 384)
	for i := range v {
		v[i], w[i] = int8(i), int8(3*i)
	}
	b.Run("impl=chosen", func(b *testing.B) {
		for b.Loop() {
			DotInt8(v, w)
		}
	})
	b.Run("impl=go", func(b *testing.B) {
		for b.Loop() {
			dotInt8Go(v, w)
		}
	})
}

func BenchmarkDotInt8All(b *testing.B) {
	q, rows, out := make([]int8, 384), make([]int8, 384*300), make([]int32, 300)
	for i := range rows {
		rows[i] = int8(i%255 - 127)
	}
	for name, f := range int8Alls {
		b.Run("impl="+name, func(b *testing.B) {
			for b.Loop() {
				f(out, q, rows)
			}
		})
	}
}

func BenchmarkQuantize(b *testing.B) {
	v, dst := make([]float32, 384), make([]int8, 384)
	v[7] = 1
	for b.Loop() {
		Quantize(dst, v)
	}
}
