package vec

import (
	"bytes"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestNormAndScale(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	all := make([]float32, 900)
	for i := range all {
		all[i] = float32(rng.NormFloat64())
	}
	for n := range 140 {
		for offset := range 5 {
			sameNorm(t, all[offset:offset+n])
		}
	}
	sameNorm(t, all)
	sameNorm(t, []float32{1e-30, 1e30, 3e38, -3e38}) // squares beyond float32
	for i := range all {
		all[i] *= 1e-25 // and below it
	}
	sameNorm(t, all)
	all[700] = float32(math.NaN())
	if !math.IsNaN(Norm(all)) {
		t.Error("a component that is no number has a length")
	}
	all[700] = float32(math.Inf(-1))
	if !math.IsInf(Norm(all), 1) {
		t.Error("an infinite component has a length")
	}
	Prefetch(all)
	Prefetch[float32](nil)
}

func sameNorm(t *testing.T, v []float32) {
	t.Helper()
	var want float64
	for _, x := range v {
		want += float64(x) * float64(x)
	}
	want = math.Sqrt(want)
	for name, got := range map[string]float64{"chosen": Norm(v), "go": math.Sqrt(squaresGo(v))} {
		if math.Abs(got-want) > 1e-12*want {
			t.Fatalf("%s: the length of %d components: %v, want %v", name, len(v), got, want)
		}
	}
	f := 1 / (want + 1)
	got, pure := make([]float32, len(v)), make([]float32, len(v))
	Scale(got, v, f)
	scaleGo(pure, v, f)
	if !slices.Equal(got, pure) {
		t.Fatalf("%d components times %v: %v, want %v", len(v), f, got, pure)
	}
	for i, x := range v {
		if pure[i] != float32(float64(x)*f) {
			t.Fatalf("component %d: %v", i, pure[i])
		}
	}
}

func FuzzNorm(f *testing.F) {
	f.Add(uint64(1), 17, 1.0)
	f.Fuzz(func(t *testing.T, seed uint64, n int, size float64) {
		if !(math.Abs(size) < 1e30) {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		v := make([]float32, max(0, n%600))
		for i := range v {
			v[i] = float32(rng.NormFloat64() * size)
		}
		sameNorm(t, v)
	})
}

func BenchmarkNormAndScale(b *testing.B) {
	v, dst := make([]float32, 384), make([]float32, 384)
	v[5] = 2
	for b.Loop() {
		Scale(dst, v, 1/Norm(v))
	}
}

func TestSame(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		a, b []float32
		want bool
	}{
		{nil, nil, true}, {nil, []float32{}, true}, {[]float32{1, 2, nan}, []float32{1, 2, nan}, true},
		{[]float32{1, 2}, []float32{1, 3}, false}, {[]float32{1, 2}, []float32{1}, false}, {[]float32{0}, []float32{float32(math.Copysign(0, -1))}, false},
	} {
		if Same(c.a, c.b) != c.want {
			t.Errorf("%v and %v: not %v", c.a, c.b, c.want)
		}
	}
}

func TestBytesOfFloats(t *testing.T) {
	v, back := []float32{1, -2.5, float32(math.Inf(1)), 1e-40}, make([]float32, 4)
	b := make([]byte, 17)
	PutBytes(b, v)
	for i, x := range v {
		if got := math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24); got != x {
			t.Errorf("%v became %v", x, got)
		}
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum, err := ReadBytes(bytes.NewReader(b), back, 0, table)
	if err != nil || !Same(v, back) || b[16] != 0 || sum != crc32.Checksum(b[:16], table) {
		t.Errorf("%v became %v: %v", v, back, err)
	}
	if _, err := ReadBytes(bytes.NewReader(b[:15]), back, 0, table); err != io.ErrUnexpectedEOF {
		t.Errorf("cut short: %v", err)
	}
}
