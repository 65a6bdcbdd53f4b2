package bolt

import (
	"os"

	"golang.org/x/sys/unix"
)

// fetch has a piece of a file read into the page cache, without waiting for it unless
// the disk's queue is full.
func fetch(f *os.File, at, size int64) {
	unix.Fadvise(int(f.Fd()), at, size, unix.FADV_WILLNEED)
}
