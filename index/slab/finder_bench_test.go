package slab

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkFinder sets the finder beside Go's map: filling as the loading of a snapshot does,
// finding and not finding, and removing one and adding another. bytes/id is the memory without
// the IDs themselves.
func BenchmarkFinder(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		ids := table(n)
		for i := range n {
			ids.Row(i)[0] = rng.Uint64()
		}
		order := rng.Perm(n)
		name := func(impl, op string) string { return fmt.Sprintf("n=%d/op=%s/impl=%s", n, op, impl) }

		b.Run(name("finder", "fill"), func(b *testing.B) {
			for range b.N {
				f := NewFinder(&ids)
				f.Reserve(n)
				for i := range n {
					f.Add(ids.Row(i)[0], uint32(i))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/id")
		})
		b.Run(name("map", "fill"), func(b *testing.B) {
			for range b.N {
				m := make(map[uint64]uint32, n)
				for i := range n {
					m[ids.Row(i)[0]] = uint32(i)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/id")
		})

		f, m := NewFinder(&ids), make(map[uint64]uint32)
		for i := range n {
			f.Add(ids.Row(i)[0], uint32(i))
			m[ids.Row(i)[0]] = uint32(i)
		}
		for _, absent := range []uint64{0, 1} {
			op := []string{"hit", "miss"}[absent]
			b.Run(name("finder", op), func(b *testing.B) {
				for i := range b.N {
					f.Find(ids.Row(order[i%n])[0] ^ absent)
				}
				b.ReportMetric(float64(f.Bytes())/float64(n), "bytes/id")
			})
			b.Run(name("map", op), func(b *testing.B) {
				var sum uint32
				for i := range b.N {
					sum += m[ids.Row(order[i%n])[0]^absent]
				}
				sink = sum
			})
		}
		b.Run(name("finder", "swap"), func(b *testing.B) {
			for i := range b.N {
				row := order[i%n]
				id := &ids.Row(row)[0]
				f.Remove(*id)
				*id = rng.Uint64()
				f.Add(*id, uint32(row))
			}
			b.ReportMetric(float64(f.Bytes())/float64(n), "bytes/id")
		})
		// The map's IDs are those of before; it is asked for others of its own.
		b.Run(name("map", "swap"), func(b *testing.B) {
			all := make([]uint64, 0, n)
			for id := range m {
				all = append(all, id)
			}
			b.ResetTimer()
			for i := range b.N {
				id := &all[order[i%n]]
				delete(m, *id)
				*id = rng.Uint64()
				m[*id] = uint32(i)
			}
		})
	}
}

var sink uint32

func table(n int) Of[uint64] {
	ids := Sized[uint64](1, 1<<14)
	ids.Grow(n)
	return ids
}
