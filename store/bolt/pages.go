package bolt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// pageWalk looks at every page of a tree before bbolt's own check does: that check walks
// in a goroutine of its own, where a fault or a panic over a damaged page ends the
// process. Nothing is taken for granted here. ahead.go tells what a page looks like; an
// element of a leaf is flags u32 (1: the value is a bucket), position u32, key length
// u32, value length u32. A bucket is its root page u64 and a sequence u64, and where
// the root is 0, a page of its own behind them.
type pageWalk struct {
	f        io.ReaderAt
	pageSize int64
	pages    uint64 // high water mark: there are none from here on
	seen     map[uint64]bool
	problem  func(format string, args ...any)
}

const (
	leafPage    = 2
	leafElement = 16
	bucketHead  = 16
	bucketLeaf  = 1
)

// walk looks at page n and all below it, and reports whether all are sound.
func (w *pageWalk) walk(n uint64) bool {
	b, err := w.read(n)
	if err == nil {
		var below []uint64
		if below, err = w.elements(b); err == nil {
			sound := true
			for _, n := range below {
				sound = w.walk(n) && sound
			}
			return sound
		}
	}
	w.problem("page %d: %v", n, err)
	return false
}

// read returns a page with those that belong to it.
func (w *pageWalk) read(n uint64) ([]byte, error) {
	if n < 2 || n >= w.pages {
		return nil, fmt.Errorf("there are %d pages", w.pages)
	}
	var head [pageHeader]byte
	if _, err := w.f.ReadAt(head[:], int64(n)*w.pageSize); err != nil {
		return nil, err
	}
	further := uint64(binary.LittleEndian.Uint32(head[12:]))
	if got := binary.LittleEndian.Uint64(head[:]); got != n {
		return nil, fmt.Errorf("is numbered %d", got)
	}
	if n+further >= w.pages {
		return nil, fmt.Errorf("has %d further pages, of %d", further, w.pages)
	}
	for i := n; i <= n+further; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	b := make([]byte, int64(1+further)*w.pageSize)
	_, err := w.f.ReadAt(b, int64(n)*w.pageSize)
	return b, err
}

// elements returns the pages to which page b points.
func (w *pageWalk) elements(b []byte) (below []uint64, err error) {
	if len(b) < pageHeader {
		return nil, fmt.Errorf("%d bytes are no page", len(b))
	}
	u32 := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(b[at:])) }
	flags, count := binary.LittleEndian.Uint16(b[8:]), int(binary.LittleEndian.Uint16(b[10:]))
	if flags != branchPage && flags != leafPage {
		return nil, fmt.Errorf("is of no known kind: %#x", flags)
	}
	if pageHeader+leafElement*count > len(b) || flags == branchPage && count == 0 {
		return nil, fmt.Errorf("cannot have %d elements", count)
	}
	for i := range count {
		at := pageHeader + leafElement*i
		bad := fmt.Errorf("element %d lies outside", i)
		if flags == branchPage {
			if uint64(at)+u32(at)+u32(at+4) > uint64(len(b)) {
				return nil, bad
			}
			below = append(below, binary.LittleEndian.Uint64(b[at+8:]))
			continue
		}
		from := uint64(at) + u32(at+4) + u32(at+8)
		to := from + u32(at+12)
		if to > uint64(len(b)) {
			return nil, bad
		}
		if u32(at)&bucketLeaf == 0 {
			continue
		}
		root, err := w.bucket(b[from:to])
		if err != nil {
			return nil, fmt.Errorf("bucket %d: %w", i, err)
		}
		below = append(below, root...)
	}
	return below, nil
}

// bucket returns the pages to which a bucket points.
func (w *pageWalk) bucket(v []byte) ([]uint64, error) {
	if len(v) < bucketHead {
		return nil, fmt.Errorf("has %d bytes", len(v))
	}
	if root := binary.LittleEndian.Uint64(v); root != 0 {
		return []uint64{root}, nil
	}
	return w.elements(v[bucketHead:])
}
