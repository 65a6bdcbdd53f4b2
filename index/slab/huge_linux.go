package slab

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// advise asks for huge pages for all that a chunk touches, if it is as large as one. The
// pages at its ends it shares with its neighbours, most often other chunks; the heap
// comes in arenas of whole huge pages. It is a hint: an error means that the kernel has
// none.
func advise[T any](chunk []T) {
	var t T
	size := uintptr(len(chunk)) * unsafe.Sizeof(t)
	if size < hugePage {
		return
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(chunk)))
	from, to := start&^(hugePage-1), (start+size+hugePage-1)&^(hugePage-1)
	unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_HUGEPAGE)
}
