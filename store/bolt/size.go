package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"syscall"
	"time"

	"github.com/semcached/semcached/store"
)

// A meta page of bbolt (v1.5, internal/common/meta.go), little-endian on the
// platforms we build for: 16 bytes of page header, then magic u32, version u32,
// page size u32, flags u32, root page u64, root sequence u64, freelist u64,
// high water mark u64, transaction u64, and the FNV-1a sum of what precedes.
const (
	metaBytes  = 80 // with the page header
	metaMagic  = 0xED0CDAED
	pageHeader = 16
)

// checkSize looks at the two meta pages before the file is mapped: reading a page
// that the file has lost ends the process with SIGBUS. A file that another
// process holds is left to bbolt's own locking. Errors: store.ErrCorrupt, those
// of the file system.
func checkSize(path string, wait time.Duration) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if !lock(f, wait) {
		return store.ErrLocked
	}
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	need := highWater(f)
	switch {
	case need < 0:
		return nil // no valid meta page: bbolt says so itself
	case need > st.Size():
		return fmt.Errorf("%w: the file has %d bytes of at least %d", store.ErrCorrupt, st.Size(), need)
	}
	return nil
}

// lock takes the lock that bbolt uses, for a moment, so that the file is not
// judged while another process writes it. Closing f releases it.
func lock(f *os.File, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil {
			return true
		}
		if err != syscall.EWOULDBLOCK || time.Now().After(deadline) {
			return err != syscall.EWOULDBLOCK // no locks on this file system: bbolt judges
		}
		time.Sleep(20 * time.Millisecond) // flock has no wait with a deadline
	}
}

// highWater returns the bytes that the newest valid meta page says are in use,
// -1 if none is valid.
func highWater(f *os.File) int64 {
	newest, need := uint64(0), int64(-1)
	for _, at := range []int64{0, int64(os.Getpagesize()), 4096, 8192, 16384, 65536} {
		var page [metaBytes]byte
		if _, err := f.ReadAt(page[:], at); err != nil {
			continue
		}
		meta := page[pageHeader:]
		sum := fnv.New64a()
		sum.Write(meta[:56])
		if binary.LittleEndian.Uint32(meta) != metaMagic || sum.Sum64() != binary.LittleEndian.Uint64(meta[56:]) {
			continue
		}
		pageSize, pages, txid := binary.LittleEndian.Uint32(meta[8:]), binary.LittleEndian.Uint64(meta[40:]), binary.LittleEndian.Uint64(meta[48:])
		if at != 0 && at != int64(pageSize) {
			continue
		}
		if need < 0 || txid > newest {
			newest, need = txid, int64(pages)*int64(pageSize)
		}
	}
	return need
}
