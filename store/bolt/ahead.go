package bolt

import (
	"context"
	"encoding/binary"
	"os"

	"go.etcd.io/bbolt"
)

// A page of bbolt (v1.5, internal/common/page.go), little-endian on the platforms we
// build for: number u64, flags u16, count u16, further pages u32. On branch pages,
// flags 1, count elements follow, each position u32, key length u32, page u64. On leaf
// pages, flags 2, keys and values follow.
const (
	branchPage    = 1
	branchElement = 16
)

const (
	// gapPages is how far apart two leaf pages may lie to be read in one go. A leaf
	// has further pages behind it, which its branch does not tell.
	gapPages = 64
	// aheadBytes is the most that is read in one go.
	aheadBytes = 4 << 20
)

// readAhead brings the pages of entries into the page cache, in the order in which Load
// reads them, and leaves out answers. It is a hint: errors end it, no more.
func (s *Store) readAhead(ctx context.Context) {
	f, err := os.Open(s.o.Path)
	if err != nil {
		return
	}
	defer f.Close()
	var root uint64
	var size int64
	err = s.view(func(tx *bbolt.Tx) error {
		root, size = uint64(tx.Bucket(bucketEntry).Root()), tx.Size()
		return nil
	})
	if err != nil || root == 0 {
		return
	}
	a := ahead{ctx: ctx, f: f, page: int64(os.Getpagesize()), size: size}
	if a.walk(int64(root), 0) {
		a.flush()
	}
}

// ahead reads ranges of pages, merged while they are near each other.
type ahead struct {
	ctx        context.Context
	f          *os.File
	page, size int64
	from, to   int64 // pages not read yet
}

// walk goes through the branch pages below page n and reports whether to go on. Pages
// may have been written anew meanwhile, so nothing is taken for granted.
func (a *ahead) walk(n int64, depth int) bool {
	const maxDepth = 12 // a tree of bbolt has no more
	if depth > maxDepth || n*a.page >= a.size || a.ctx.Err() != nil {
		return false
	}
	b := make([]byte, a.page)
	if _, err := a.f.ReadAt(b, n*a.page); err != nil {
		return false
	}
	if binary.LittleEndian.Uint64(b) != uint64(n) || binary.LittleEndian.Uint16(b[8:]) != branchPage {
		a.add(n)
		return true
	}
	count, further := int(binary.LittleEndian.Uint16(b[10:])), int64(binary.LittleEndian.Uint32(b[12:]))
	if further > 0 && (n+1+further)*a.page <= a.size {
		more := make([]byte, further*a.page)
		if _, err := a.f.ReadAt(more, (n+1)*a.page); err != nil {
			return false
		}
		b = append(b, more...)
	}
	var below []int64
	for i := range count {
		at := pageHeader + branchElement*i
		if at+branchElement > len(b) {
			return false
		}
		below = append(below, int64(binary.LittleEndian.Uint64(b[at+8:])))
	}
	if len(below) == 0 {
		return false
	}
	// All children are of one kind: one look at the first tells which.
	if !a.branch(below[0]) {
		for _, n := range below {
			a.add(n)
		}
		return a.ctx.Err() == nil
	}
	for _, n := range below {
		if !a.walk(n, depth+1) {
			return false
		}
	}
	return true
}

func (a *ahead) branch(n int64) bool {
	var head [pageHeader]byte
	if n < 0 || n*a.page >= a.size {
		return false
	}
	_, err := a.f.ReadAt(head[:], n*a.page)
	return err == nil && binary.LittleEndian.Uint16(head[8:]) == branchPage
}

// add has a leaf page read, sooner or later.
func (a *ahead) add(n int64) {
	if n < 0 || n*a.page >= a.size {
		return
	}
	if n < a.from || n > a.to+gapPages || (n-a.from)*a.page > aheadBytes {
		a.flush()
		a.from = n
	}
	a.to = n + leafPages
}

// leafPages is how many pages a leaf is taken to have: one entry of 384 dimensions has
// half a page, and a leaf at least two of them.
const leafPages = 4

func (a *ahead) flush() {
	for at, end := a.from*a.page, min(a.to*a.page, a.size); at < end && a.ctx.Err() == nil; at += aheadPiece {
		fetch(a.f, at, min(aheadPiece, end-at))
	}
}

// aheadPiece is what is asked for in one call: the kernel cuts longer ones short.
const aheadPiece = 256 << 10
