//go:build !purego

package vec

import (
	"math/bits"

	"golang.org/x/sys/cpu"
)

// useNear512 is decided once: AVX-512 counts the bits of eight codes at a time.
var useNear512 = cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VPOPCNTDQ && cpu.X86.HasPOPCNT

// usePOPCNT: every processor with AVX2 can count bits as well.
var usePOPCNT = cpu.X86.HasPOPCNT

// nearAVX2 is nearGo for n codes, a positive multiple of 16.
//
//go:noescape
func nearAVX2(out *uint32, codes *uint64, n int, q uint64, limit int, table *[256][8]uint8) int

// nearAVX512 is nearAVX2 without a table.
//
//go:noescape
func nearAVX512(out *uint32, codes *uint64, n int, q uint64, limit int) int

// nearBoth512 is nearBothGo for n codes, a positive multiple of 16.
//
//go:noescape
func nearBoth512(out *uint32, a, b *uint64, n int, qa, qb uint64, first, both int) int

// nearer2 is nearerGo for n > 0 positions.
//
//go:noescape
func nearer2(at *uint32, distance *uint16, n int, a, b *uint64, qa, qb uint64, limit int) int

// addHamming4 is addHammingGo for n > 0 codes of four words.
//
//go:noescape
func addHamming4(distance *uint16, at *uint32, n int, codes, q *uint64)

// signBits64 is signBitsGo for words > 0.
//
//go:noescape
func signBits64(dst *uint64, words int, a, b *float32)

// positions are those of the one bits of a byte, whose bits stand for the positions 0,
// 1, 4, 5, 2, 3, 6, 7: that is the order in which the masks of eight codes are joined.
var positions = func() (table [256][8]uint8) {
	place := [8]int{0, 1, 4, 5, 2, 3, 6, 7}
	for mask := range table {
		n := 0
		for position := range uint8(8) {
			if mask>>place[position]&1 == 1 {
				table[mask][n] = position
				n++
			}
		}
	}
	return table
}()

func near(out []uint32, codes []uint64, q uint64, limit int) int {
	n := len(codes) &^ 15
	if !useNear512 || n == 0 {
		return near2(out, codes, q, limit)
	}
	_ = out[n+nearSpare-1]
	return nearRest(out, codes, q, limit, n, nearAVX512(&out[0], &codes[0], n, q, limit))
}

// near2 is near without AVX-512.
func near2(out []uint32, codes []uint64, q uint64, limit int) int {
	n := len(codes) &^ 15
	if !useAVX2 || !usePOPCNT || n == 0 {
		return nearGo(out, codes, q, limit)
	}
	_ = out[n+nearSpare-1]
	return nearRest(out, codes, q, limit, n, nearAVX2(&out[0], &codes[0], n, q, limit, &positions))
}

func nearBoth(out []uint32, a, b []uint64, qa, qb uint64, first, both int) int {
	n := len(a) &^ 15
	if !useNear512 || n == 0 || first < bothFrom {
		return near(out, a, qa, first)
	}
	_ = out[n+nearSpare-1]
	found := nearBoth512(&out[0], &a[0], &b[0], n, qa, qb, first, both)
	return nearRest(out, a, qa, first, n, found)
}

// nearRest looks at the codes from the n-th on, after found among those before.
func nearRest(out []uint32, codes []uint64, q uint64, limit, n, found int) int {
	for i := n; i < len(codes); i++ {
		if bits.OnesCount64(codes[i]^q) <= limit {
			out[found] = uint32(i)
			found++
		}
	}
	return found
}

func nearer(at []uint32, distance []uint16, a, b []uint64, qa, qb uint64, limit int) int {
	if !usePOPCNT {
		return nearerGo(at, distance, a, b, qa, qb, limit)
	}
	return nearer2(&at[0], &distance[0], len(at), &a[0], &b[0], qa, qb, limit)
}

func addHamming(distance []uint16, at []uint32, codes, q []uint64) {
	if !usePOPCNT || len(q) != 4 {
		addHammingGo(distance, at, codes, q)
		return
	}
	addHamming4(&distance[0], &at[0], len(at), &codes[0], &q[0])
}

func signBits(dst []uint64, a, b []float32) {
	if !useAVX2 {
		signBitsGo(dst, a, b)
		return
	}
	signBits64(&dst[0], len(dst), &a[0], &b[0])
}
