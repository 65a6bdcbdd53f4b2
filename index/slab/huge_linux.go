package slab

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// advise asks for huge pages for the part of a chunk that fills them. It is a hint: an
// error means that the kernel has none.
func advise[T any](chunk []T) {
	var t T
	start := uintptr(unsafe.Pointer(unsafe.SliceData(chunk)))
	skip := -start & (hugePage - 1)
	size := uintptr(len(chunk)) * unsafe.Sizeof(t)
	if size < skip+hugePage {
		return
	}
	size = (size - skip) &^ (hugePage - 1)
	unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(chunk)), skip)), size), unix.MADV_HUGEPAGE)
}
