package vec

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// nearReference is Near as the definition has it.
func nearReference(codes []uint64, q uint64, limit int) (out []uint32) {
	for i, c := range codes {
		distance := 0
		for b := range 64 {
			if c>>b&1 != q>>b&1 {
				distance++
			}
		}
		if distance <= limit {
			out = append(out, uint32(i))
		}
	}
	return out
}

func sameNear(t *testing.T, codes []uint64, q uint64, limit int) {
	t.Helper()
	want := nearReference(codes, q, limit)
	if got := Near(nil, codes, q, limit); !slices.Equal(got, want) {
		t.Fatalf("%d codes, limit %d: %v, want %v", len(codes), limit, got, want)
	}
	for name, f := range map[string]func([]uint32, []uint64, uint64, int) int{"go": nearGo, "chosen": near} {
		if len(codes) > nearBlock {
			break
		}
		out := make([]uint32, len(codes))
		if n := f(out, codes, q, limit); !slices.Equal(out[:n], want) {
			t.Fatalf("%s: %d codes, limit %d: %v, want %v", name, len(codes), limit, out[:n], want)
		}
	}
}

func TestNear(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := make([]uint64, 1100)
	for n := range 70 {
		for offset := range 5 { // of the start, so that loads are not aligned
			codes := all[offset : offset+n]
			for i := range codes {
				codes[i] = rng.Uint64()
			}
			for _, limit := range []int{-1, 0, 20, 32, 63, 64} {
				q := rng.Uint64()
				if n > 0 && limit >= 0 {
					codes[rng.IntN(n)] = q
				}
				sameNear(t, codes, q, limit)
			}
		}
	}
	for i := range all {
		all[i] = rng.Uint64()
	}
	for _, n := range []int{511, 512, 513, 1023, 1024, 1025, 1100} {
		sameNear(t, all[:n], all[n-1], 30)
	}
	dst := Near([]uint32{7}, all, all[3], 0)
	if len(dst) != 2 || dst[0] != 7 || dst[1] != 3 {
		t.Errorf("appending to a slice: %v", dst)
	}
}

func TestHamming(t *testing.T) {
	a, b := []uint64{0, ^uint64(0), 5}, []uint64{0, 0, 6}
	if d := Hamming(a, b); d != 64+2 {
		t.Errorf("%d", d)
	}
	if Hamming(nil, nil) != 0 {
		t.Error("nothing differs from nothing")
	}
}

func TestWalshHadamard(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := 1; n <= 1024; n *= 2 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		got := slices.Clone(v)
		WalshHadamard(got)
		for i := range got {
			var want float64
			for j, x := range v {
				if bits.OnesCount(uint(i&j))%2 == 1 {
					x = -x
				}
				want += float64(x)
			}
			if math.Abs(want-float64(got[i])) > 1e-4*math.Sqrt(float64(n)) {
				t.Fatalf("length %d, component %d: %v, want %v", n, i, got[i], want)
			}
		}
	}
}

func FuzzNear(f *testing.F) {
	f.Add(uint64(1), 17, 20)
	f.Fuzz(func(t *testing.T, seed uint64, n, limit int) {
		rng := rand.New(rand.NewPCG(seed, 0))
		codes := make([]uint64, max(0, n%600))
		for i := range codes {
			codes[i] = rng.Uint64() & rng.Uint64()
		}
		sameNear(t, codes, rng.Uint64(), max(-2, min(limit, 66)))
	})
}

func BenchmarkNear(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	codes := make([]uint64, 10_000)
	for i := range codes {
		codes[i] = rng.Uint64()
	}
	dst := make([]uint32, 0, len(codes))
	for name, f := range map[string]func([]uint32, []uint64, uint64, int) int{"impl=chosen": near, "impl=go": nearGo} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(8 * len(codes)))
			for b.Loop() {
				f(dst[:len(codes)], codes, codes[5], 18)
			}
		})
	}
}

func BenchmarkWalshHadamard(b *testing.B) {
	v := make([]float32, 512)
	v[3] = 1
	for b.Loop() {
		WalshHadamard(v)
		v[0], v[511] = 1, -1
	}
}
