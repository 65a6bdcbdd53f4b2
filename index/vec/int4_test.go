package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// int4Table makes a table of count random rows of n components in chunks of 1<<shift.
func int4Table(rng *rand.Rand, n, count int, shift uint) (chunks [][]byte) {
	for left := count; left > 0; left -= 1 << shift {
		chunk := make([]byte, min(left, 1<<shift)*n/2)
		for i := range chunk {
			chunk[i] = byte(rng.Uint32())
		}
		chunks = append(chunks, chunk)
	}
	return chunks
}

// sameInt4 holds every implementation against the definition.
func sameInt4(t *testing.T, q []int8, chunks [][]byte, shift uint, at []uint32) {
	t.Helper()
	got, plain, want := make([]int32, len(at)), make([]int32, len(at)), make([]int32, len(at))
	for j, i := range at {
		row := chunks[i>>shift][int(i)&(1<<shift-1)*len(q)/2:][:len(q)/2]
		for c, x := range q {
			half := row[c/64*32+c%32]
			if c%64 >= 32 {
				half >>= 4
			}
			want[j] += int32(x) * int32(half&15)
		}
	}
	DotInt4Rows(got, q, chunks, shift, at)
	dotInt4RowsGo(plain, q, chunks, shift, at)
	if !slices.Equal(got, want) || !slices.Equal(plain, want) {
		t.Fatalf("%d rows of %d: %v, in Go %v, want %v", len(at), len(q), got, plain, want)
	}
}

func TestDotInt4Rows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 4))
	for _, n := range []int{64, 128, 384, 448, 512, 576, 768, 1024, 1088} {
		q := make([]int8, n+1)
		for i := range q {
			q[i] = int8(rng.Uint32())
		}
		for _, shift := range []uint{0, 3, 6} {
			chunks := int4Table(rng, n, 50, shift)
			for count := range 12 {
				at := make([]uint32, count)
				for i := range at {
					at[i] = uint32(rng.IntN(50))
				}
				sameInt4(t, q[:n], chunks, shift, at)
				sameInt4(t, q[1:], chunks, shift, at) // not aligned
			}
		}
		for _, x := range []int8{-128, 127} { // the largest sums
			for i := range q {
				q[i] = x
			}
			full := slices.Repeat([]byte{0xff}, n/2)
			sameInt4(t, q[:n], [][]byte{full}, 0, []uint32{0, 0, 0})
		}
	}
}

func TestRowsThatAreNotThereAreNotRead(t *testing.T) {
	chunks := [][]byte{make([]byte, 64), make([]byte, 32)} // three rows
	for _, row := range []uint32{3, 4, math.MaxUint32} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("row %d of 3 is read", row)
				}
			}()
			DotInt4Rows(make([]int32, 1), make([]int8, 64), chunks, 1, []uint32{row})
		}()
	}
}

func FuzzDotInt4Rows(f *testing.F) {
	f.Add([]byte("some question, repeated"), []byte{1, 200, 3}, uint64(7))
	f.Fuzz(func(t *testing.T, question, row []byte, seed uint64) {
		if len(question) == 0 || len(row) == 0 {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		q := make([]int8, 64*(1+rng.IntN(20)))
		for i := range q {
			q[i] = int8(question[i%len(question)])
		}
		shift := uint(rng.IntN(4))
		chunks := int4Table(rng, len(q), 9, shift)
		for i := range chunks[0] {
			chunks[0][i] = row[i%len(row)]
		}
		at := make([]uint32, rng.IntN(40))
		for i := range at {
			at[i] = uint32(rng.IntN(9))
		}
		sameInt4(t, q, chunks, shift, at)
	})
}

func TestInt4StandsForTheVector(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 4))
	const n = 384
	draw := func() []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		Scale(v, v, 1/Norm(v))
		return v
	}
	var square float64
	const pairs = 500
	for range pairs {
		a, b := draw(), draw()
		code := make([]byte, n/2)
		scale := QuantizeInt4(code, a)
		estimate := func(q []float32) (s float64) {
			for i, x := range q {
				level := code[i/64*32+i%32]
				if i%64 >= 32 {
					level >>= 4
				}
				s += float64(x) * (float64(level&15) - 7.5)
			}
			return s * float64(scale)
		}
		if self := estimate(a); math.Abs(self-1) > 1e-4 {
			t.Fatalf("a vector's product with its own code is %v", self)
		}
		d := estimate(b) - float64(Dot(a, b))
		square += d * d

	}
	// The error has 0.0115 of the energy, spread over all directions.
	if sigma := math.Sqrt(square / pairs * n); sigma > 0.12 || sigma < 0.09 {
		t.Errorf("the error is %v of a component, want 0.107", sigma)
	}
	if QuantizeInt4(make([]byte, 32), make([]float32, 64)) != 0 {
		t.Error("the zero vector has a scale")
	}
}

func BenchmarkDotInt4Rows(b *testing.B) {
	rng := rand.New(rand.NewPCG(3, 4))
	q, out := make([]int8, 384), make([]int32, 32)
	for _, rows := range []int{64, 1 << 18} { // in the first cache, and far apart
		chunks := int4Table(rng, 384, rows, 14)
		at := make([]uint32, rows)
		for i, n := range rng.Perm(rows) {
			at[i] = uint32(n)
		}
		for _, impl := range []struct {
			name string
			f    func([]int32, []int8, [][]byte, uint, []uint32)
		}{{"chosen", dotInt4Rows}, {"go", dotInt4RowsGo}} {
			b.Run(fmt.Sprintf("rows=%d/impl=%s", rows, impl.name), func(b *testing.B) {
				next := 0
				for b.Loop() {
					impl.f(out, q, chunks, 14, at[next:next+32])
					next = (next + 32) % rows
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/row")
			})
		}
	}
}
