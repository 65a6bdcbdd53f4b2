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

// nearBoths, nearers and addHammings are the implementations that this machine can run.
var (
	nearBoths = map[string]func([]uint32, []uint64, []uint64, uint64, uint64, int, int) int{
		"go": nearBothGo, "chosen": nearBoth,
	}
	nearers = map[string]func([]uint32, []uint16, []uint64, []uint64, uint64, uint64, int) int{
		"go": nearerGo, "chosen": nearer,
	}
	addHammings = map[string]func([]uint16, []uint32, []uint64, []uint64){"go": addHammingGo, "chosen": AddHamming}
)

// sameNearBoth holds the implementations of NearBoth, and of its parts, against the
// definition.
func sameNearBoth(t *testing.T, a, b []uint64, first, both int) {
	t.Helper()
	qa, qb := uint64(0x0f0f), uint64(0x3333)
	var want []uint32
	var distances []uint16
	near := nearReference(a, qa, first)
	for _, i := range near {
		if d := Hamming([]uint64{a[i], b[i]}, []uint64{qa, qb}); d <= both {
			want, distances = append(want, i), append(distances, uint16(d))
		}
	}
	got, distance := NearBoth([]uint32{7}, make([]uint16, 3), a, b, qa, qb, first, both)
	if got[0] != 7 || !slices.Equal(got[1:], want) || !slices.Equal(distance, distances) {
		t.Fatalf("%d codes, limits %d and %d: %v, want %v", len(a), first, both, got[1:], want)
	}
	if len(a) > nearBlock {
		return
	}
	for name, f := range nearBoths {
		out := make([]uint32, len(a)+nearSpare)
		out = out[:f(out, a, b, qa, qb, first, both)]
		for _, i := range want {
			if !slices.Contains(out, i) {
				t.Fatalf("%s: %d codes, limits %d and %d: %d is left out", name, len(a), first, both, i)
			}
		}
		for _, i := range out {
			if !slices.Contains(near, i) {
				t.Fatalf("%s: %d codes, limits %d and %d: %d is not near", name, len(a), first, both, i)
			}
		}
	}
	if len(near) == 0 {
		return
	}
	for name, f := range nearers {
		at, distance := slices.Clone(near), make([]uint16, len(near))
		n := f(at, distance, a, b, qa, qb, both)
		if !slices.Equal(at[:n], want) || !slices.Equal(distance[:n], distances) {
			t.Fatalf("%s: limit %d: %v, want %v", name, both, at[:n], want)
		}
	}
}

// sameAddHamming holds those of AddHamming against it.
func sameAddHamming(t *testing.T, at []uint32, codes, q []uint64) {
	t.Helper()
	for name, f := range addHammings {
		distance := make([]uint16, len(at))
		for i := range distance {
			distance[i] = uint16(i)
		}
		f(distance, at, codes, q)
		for i, d := range distance {
			row := codes[int(at[i])*len(q) : (int(at[i])+1)*len(q)]
			if want := i + Hamming(q, row); int(d) != want {
				t.Fatalf("%s: %d words: %d is %d away, want %d", name, len(q), at[i], d, want)
			}
		}
	}
}

// random returns words of which three bits in four are zero.
func random(rng *rand.Rand, n int) []uint64 {
	words := make([]uint64, n)
	for i := range words {
		words[i] = rng.Uint64() & rng.Uint64()
	}
	return words
}

func TestNearBoth(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	a, b := random(rng, 8200), random(rng, 8200)
	for _, first := range []int{-1, 0, 18, 21, 22, 23, 64} {
		for _, both := range []int{-1, 0, 42, 44, 128} {
			for n := range 70 {
				for offset := range 3 {
					sameNearBoth(t, a[offset:offset+n], b[1:1+n], first, both)
				}
			}
		}
		for _, n := range []int{4095, 4096, 4097, 4112, 8200} {
			sameNearBoth(t, a[:n], b[:n], first, 2*first)
		}
	}
}

func TestAddHamming(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 2))
	for _, every := range []int{1, 2, 7, 400} {
		var at []uint32
		for i := 0; i < 300; i += every {
			at = append(at, uint32(i))
		}
		for words := 1; words <= 5; words++ {
			sameAddHamming(t, at, random(rng, 300*words), random(rng, words))
		}
	}
	AddHamming(nil, nil, nil, []uint64{1})
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

func FuzzNearBoth(f *testing.F) {
	f.Add(uint64(1), 17, 22, 44)
	f.Fuzz(func(t *testing.T, seed uint64, n, first, both int) {
		rng := rand.New(rand.NewPCG(seed, 0))
		n = max(0, n%600)
		sameNearBoth(t, random(rng, n), random(rng, n), max(-2, min(first, 66)), max(-2, min(both, 130)))
		var at []uint32
		for i := range n {
			if rng.IntN(3) > 0 {
				at = append(at, uint32(i))
			}
		}
		sameAddHamming(t, at, random(rng, 4*n), random(rng, 4))
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

func BenchmarkNearBoth(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	one, two := make([]uint64, 1024), make([]uint64, 1024)
	for i := range one {
		one[i], two[i] = rng.Uint64(), rng.Uint64()
	}
	out, distance := make([]uint32, 1024+nearSpare), make([]uint16, 1024)
	for _, first := range []int{18, 20, 21, 22, 23, 24, 26} {
		b.Run(fmt.Sprintf("limit=%d/order=together", first), func(b *testing.B) {
			for b.Loop() {
				NearBoth(out[:0], distance, one, two, one[0], two[0], max(first, bothFrom), 40)
			}
		})
		b.Run(fmt.Sprintf("limit=%d/order=one-by-one", first), func(b *testing.B) {
			for b.Loop() {
				n := near(out, one, one[0], first)
				nearer(out[:n], distance, one, two, one[0], two[0], 40)
			}
		})
	}
}

func BenchmarkAddHamming(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	codes := random(rng, 4*4096)
	at, distance := make([]uint32, 200), make([]uint16, 200)
	for i := range at {
		at[i] = uint32(i * 20)
	}
	for name, f := range addHammings {
		b.Run("impl="+name, func(b *testing.B) {
			for b.Loop() {
				f(distance, at, codes, codes[:4])
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
