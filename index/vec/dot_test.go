package vec

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// reference is the dot product as the definition has it.
func reference(a, b []float32) float64 {
	var s float64
	for i := range min(len(a), len(b)) {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

// implementations are all that this machine can run. Both take equal lengths.
var implementations = map[string]func(a, b []float32) float32{"go": dotGo, "chosen": dot}

// close32 holds every implementation against the definition.
func close32(t *testing.T, a, b []float32) {
	t.Helper()
	n := min(len(a), len(b))
	want := reference(a, b)
	var size float64
	for i := range n {
		size += math.Abs(float64(a[i]) * float64(b[i]))
	}
	// Each lane adds an eighth of the products, rounding each time.
	const epsilon = 1.0 / (1 << 23)
	tolerance := epsilon*float64(n/8+4)*size + 1e-30
	check := func(name string, got float32) {
		if math.Abs(float64(got)-want) > tolerance {
			t.Errorf("%s, %d components: %v, want %v", name, n, got, want)
		}
	}
	check("Dot", Dot(a, b))
	for name, f := range implementations {
		check(name, f(a[:n], b[:n]))
	}
}

func TestDotAtEveryLengthAndAlignment(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	buf := make([]float32, 800)
	for i := range buf {
		buf[i] = rng.Float32()*2 - 1
	}
	for n := range 140 {
		for off := range 9 {
			close32(t, buf[off:off+n], buf[100+off/2:100+off/2+n])
		}
	}
	close32(t, buf[:384], buf[400:784])
	close32(t, buf[:10], buf[400:784])
}

func FuzzDot(f *testing.F) {
	f.Add([]byte("some bytes that make numbers, enough for two lanes of them......"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v []float32
		for ; len(raw) >= 2; raw = raw[2:] {
			v = append(v, float32(int16(binary.LittleEndian.Uint16(raw)))/1000)
		}
		close32(t, v[:len(v)/2], v[len(v)/2:])
	})
}

func TestNormOfScaledIsOne(t *testing.T) {
	for _, v := range [][]float32{{3, 4}, {3e-30, 4e-30}, {3e30, 4e30}} {
		n := Norm(v)
		unit := make([]float32, 2)
		Scale(unit, v, 1/n)
		if math.Abs(Norm(unit)-1) > 1e-6 || math.Abs(float64(unit[0])-0.6) > 1e-6 {
			t.Errorf("%v: norm %v, unit %v", v, n, unit)
		}
	}
}

func BenchmarkDot(b *testing.B) {
	for _, n := range []int{384, 768} {
		x, y := make([]float32, n), make([]float32, n)
		for name, f := range implementations {
			b.Run(fmt.Sprintf("dims=%d/impl=%s", n, name), func(b *testing.B) {
				for b.Loop() {
					f(x, y)
				}
			})
		}
		b.Run(fmt.Sprintf("dims=%d/impl=reference", n), func(b *testing.B) {
			for b.Loop() {
				reference(x, y)
			}
		})
	}
}
