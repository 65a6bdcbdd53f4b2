//go:build !linux

package bolt

import "os"

// fetch reads a piece of a file, and so has it in the page cache.
func fetch(f *os.File, at, size int64) { f.ReadAt(make([]byte, size), at) }
