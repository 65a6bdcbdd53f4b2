// Package slab keeps rows of equal length in chunks of memory that never move: a row
// that is there stays where it is while others come, and growing copies nothing but
// the first, small chunk. A Finder finds the row that holds an ID.
//
// On Linux large chunks are given to the kernel to be mapped by huge pages: an index
// reads rows far apart, and most of the time of such a read is the page table's.
package slab

import (
	"math/bits"
	"unsafe"
)

// chunkBytes is about the size of a chunk: a few huge pages.
const chunkBytes = 4 << 20

// Of is a table of rows of T. The zero value is not usable; see New. It has no lock:
// rows may be read while nobody calls Grow or Clear.
type Of[T any] struct {
	width  int
	shift  uint // a chunk has 1<<shift rows
	chunks [][]T
}

// New returns an empty table for rows of width elements; width < 1 is a programmer's
// mistake and panics.
func New[T any](width int) Of[T] {
	if width < 1 {
		panic("slab: width must be positive")
	}
	var t T
	return Sized[T](width, max(1, chunkBytes/(width*int(unsafe.Sizeof(t)))))
}

// Sized is New with chunks of at most rows rows, a power of two: small ones for tables
// of which there are many, or whose growth must never copy much. rows < 1 panics.
func Sized[T any](width, rows int) Of[T] {
	if width < 1 || rows < 1 {
		panic("slab: width and rows must be positive")
	}
	return Of[T]{width: width, shift: uint(bits.Len(uint(rows)) - 1)}
}

// Row returns row i, which Grow has made room for. It is valid until Clear, and row of
// the first chunk until Grow.
func (s *Of[T]) Row(i int) []T {
	chunk, at := s.chunks[i>>s.shift], (i&(1<<s.shift-1))*s.width
	return chunk[at : at+s.width : at+s.width]
}

// Shift returns the binary logarithm of the number of rows in a chunk.
func (s *Of[T]) Shift() uint { return s.shift }

// Chunks returns the chunks, each but the first of 1<<Shift rows, for code that reads
// many rows at once. They must not be changed.
func (s *Of[T]) Chunks() [][]T { return s.chunks }

// Grow makes room for n rows in all. The first chunk grows by an eighth at a time,
// and row by row while it is small: hundreds of thousands of small tables must not hold
// spare rows.
func (s *Of[T]) Grow(n int) {
	full := 1 << s.shift
	if n > 0 && (len(s.chunks) == 0 || len(s.chunks[0]) < min(n, full)*s.width) {
		have := 0
		if len(s.chunks) > 0 {
			have = len(s.chunks[0]) / s.width
		} else {
			s.chunks = make([][]T, 1)
		}
		first := make([]T, min(full, max(n, have+max(1, have/8)))*s.width)
		if len(first) == full*s.width {
			advise(first)
		}
		copy(first, s.chunks[0])
		s.chunks[0] = first
	}
	for len(s.chunks)<<s.shift < n {
		chunk := make([]T, full*s.width)
		advise(chunk)
		s.chunks = append(s.chunks, chunk)
	}
}

// Shrink gives back the chunks that n rows do not need, but for one: a table that
// shrinks and grows by turns does not pay for it each time.
func (s *Of[T]) Shrink(n int) {
	keep := (n+1<<s.shift-1)>>s.shift + 1
	if keep < len(s.chunks) {
		clear(s.chunks[keep:])
		s.chunks = s.chunks[:keep]
	}
}

// Clear gives the memory back.
func (s *Of[T]) Clear() { s.chunks = nil }

// Bytes returns the memory held.
func (s *Of[T]) Bytes() (n int64) {
	var t T
	for _, c := range s.chunks {
		n += int64(len(c)) * int64(unsafe.Sizeof(t))
	}
	return n + int64(cap(s.chunks))*int64(unsafe.Sizeof(s.chunks))
}
