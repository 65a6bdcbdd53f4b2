package vec

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestWalshHadamard(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := 1; n <= 1024; n *= 2 {
		v, signs, product := make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range v {
			v[i], signs[i] = float32(rng.NormFloat64()), float32(1-2*rng.IntN(2))
			product[i] = v[i] * signs[i]
		}
		plain, signed, pure := slices.Clone(v), slices.Clone(v), slices.Clone(v)
		WalshHadamard(plain)
		SignedWalshHadamard(signed, signs)
		walshGo(pure, signs)
		sameWalsh(t, "plain", plain, v)
		sameWalsh(t, "signed", signed, product)
		sameWalsh(t, "go", pure, product)
	}
}

// sameWalsh checks that got is the transform of v as the definition has it.
func sameWalsh(t *testing.T, name string, got, v []float32) {
	t.Helper()
	for i := range got {
		var want float64
		for j, x := range v {
			if bits.OnesCount(uint(i&j))%2 == 1 {
				x = -x
			}
			want += float64(x)
		}
		if math.Abs(want-float64(got[i])) > 1e-4*math.Sqrt(float64(len(v))) {
			t.Fatalf("%s: length %d, component %d: %v, want %v", name, len(v), i, got[i], want)
		}
	}
}

func FuzzWalshHadamard(f *testing.F) {
	f.Add(uint64(1), uint8(9))
	f.Fuzz(func(t *testing.T, seed uint64, size uint8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		v, signs := make([]float32, 1<<(size%11)), make([]float32, 1<<(size%11))
		for i := range v { // small integers: every order of adding gives the same
			v[i], signs[i] = float32(rng.IntN(200)-100), float32(1-2*rng.IntN(2))
		}
		want := slices.Clone(v)
		walshGo(want, signs)
		if SignedWalshHadamard(v, signs); !slices.Equal(v, want) {
			t.Fatalf("length %d: %v, want %v", len(v), v, want)
		}
	})
}

func BenchmarkWalshHadamard(b *testing.B) {
	v, signs := make([]float32, 512), make([]float32, 512)
	for name, f := range map[string]func(v, signs []float32){"impl=chosen": walsh, "impl=go": walshGo} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f(v, signs)
			}
		})
	}
}
