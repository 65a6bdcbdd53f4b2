package vec

import (
	"fmt"
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

// nears are the implementations that this machine can run.
var nears = map[string]func([]uint32, []uint64, uint64, int) int{"go": nearGo, "chosen": near}

func sameNear(t *testing.T, codes []uint64, q uint64, limit int) {
	t.Helper()
	want := nearReference(codes, q, limit)
	if got := Near(nil, codes, q, limit); !slices.Equal(got, want) {
		t.Fatalf("%d codes, limit %d: %v, want %v", len(codes), limit, got, want)
	}
	for name, f := range nears {
		if len(codes) > nearBlock {
			break
		}
		out := make([]uint32, len(codes)+nearSpare)
		if n := f(out, codes, q, limit); !slices.Equal(out[:n], want) {
			t.Fatalf("%s: %d codes, limit %d: %v, want %v", name, len(codes), limit, out[:n], want)
		}
	}
}

func TestNear(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := make([]uint64, 8200)
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
	for _, n := range []int{511, 512, 513, 1023, 4095, 4096, 4097, 4112, 8191, 8192, 8200} {
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

func TestCloser(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	for _, words := range []int{1, 2, 3, 4, 5} {
		codes, q := make([]uint64, 300*words), make([]uint64, words)
		for i := range codes {
			codes[i] = rng.Uint64() & rng.Uint64()
		}
		for _, limit := range []int{-1, 0, 15 * words, 64 * words} {
			for _, every := range []int{1, 2, 7, 400} {
				var at, want []uint32
				var distances []uint16
				for i := 0; i < 300; i += every {
					at = append(at, uint32(i))
					if d := Hamming(q, codes[i*words:(i+1)*words]); d <= limit {
						want, distances = append(want, uint32(i)), append(distances, uint16(d))
					}
				}
				for name, f := range map[string]func([]uint32, []uint16, []uint64, []uint64, int) int{"chosen": Closer, "go": closerGo} {
					got, distance := slices.Clone(at), make([]uint16, len(at))
					n := f(got, distance, codes, q, limit)
					if !slices.Equal(got[:n], want) || !slices.Equal(distance[:n], distances) {
						t.Fatalf("%s: %d words, limit %d: %v, want %v", name, words, limit, got[:n], want)
					}
				}
			}
		}
	}
	if Closer(nil, nil, nil, []uint64{1}, 5) != 0 {
		t.Error("nothing is near")
	}
}

func TestSignBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	a, b := make([]float32, 64*5), make([]float32, 64*5)
	for i := range a {
		a[i], b[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
		if i%9 == 0 {
			b[i] = a[i] // no difference has no sign
		}
	}
	for words := range 6 {
		got, pure := make([]uint64, words), make([]uint64, words)
		SignBits(got, a, b)
		signBitsGo(pure, a, b)
		for j := range 64 * words {
			want := uint64(0)
			if a[j] < b[j] {
				want = 1
			}
			if got[j/64]>>(j%64)&1 != want || pure[j/64]>>(j%64)&1 != want {
				t.Fatalf("bit %d of %d words is not %d", j, words, want)
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

func FuzzCloser(f *testing.F) {
	f.Add(uint64(1), 17, 100)
	f.Fuzz(func(t *testing.T, seed uint64, n, limit int) {
		rng := rand.New(rand.NewPCG(seed, 0))
		codes, q := make([]uint64, 4*max(1, n%600)), make([]uint64, 4)
		var at []uint32
		for i := range codes {
			codes[i] = rng.Uint64() & rng.Uint64()
			if i%4 == 0 && rng.IntN(3) > 0 {
				at = append(at, uint32(i/4))
			}
		}
		got, want, d1, d2 := slices.Clone(at), slices.Clone(at), make([]uint16, len(at)), make([]uint16, len(at))
		m, k := Closer(got, d1, codes, q, limit), closerGo(want, d2, codes, q, limit)
		if !slices.Equal(got[:m], want[:k]) || !slices.Equal(d1[:m], d2[:k]) {
			t.Fatalf("%v, want %v", got[:m], want[:k])
		}
	})
}

func BenchmarkNear(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	codes := make([]uint64, 4096)
	for i := range codes {
		codes[i] = rng.Uint64()
	}
	dst := make([]uint32, len(codes)+nearSpare)
	for name, f := range nears {
		for _, limit := range []int{18, 25} {
			b.Run(fmt.Sprintf("impl=%s/limit=%d", name, limit), func(b *testing.B) {
				b.SetBytes(int64(8 * len(codes)))
				for b.Loop() {
					f(dst, codes, codes[5], limit)
				}
			})
		}
	}
}

func BenchmarkCloser(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	codes := make([]uint64, 4*4096)
	for i := range codes {
		codes[i] = rng.Uint64()
	}
	at, distance := make([]uint32, 200), make([]uint16, 200)
	for name, f := range map[string]func([]uint32, []uint16, []uint64, []uint64, int) int{"impl=chosen": Closer, "impl=go": closerGo} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for i := range at {
					at[i] = uint32(i * 20)
				}
				f(at, distance, codes, codes[:4], 80)
			}
		})
	}
}

func BenchmarkSignBits(b *testing.B) {
	x, y, dst := make([]float32, 256), make([]float32, 256), make([]uint64, 4)
	for b.Loop() {
		SignBits(dst, x, y)
	}
}
