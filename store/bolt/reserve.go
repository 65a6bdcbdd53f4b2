package bolt

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/semcached/semcached/store"
)

// The reserve is a file beside the data file, under its name and ".reserve", that holds
// room on the disk and nothing else. bbolt writes changed pages anew before it frees the
// old ones, so on a disk that is full even a delete fails, and nothing would ever make
// room. Then the reserve is removed, which lets some deletes through, and they free
// pages for more. It is made again once the disk has room. Until then puts may use only
// pages that are free within the file, and leave as many as the reserve has bytes.
const (
	reserveSuffix = ".reserve"
	reserveBytes  = 1 << 20

	// squeezeOps is how many deletes a full disk is given at once: the pages that they
	// change must fit into the reserve.
	squeezeOps = 16
)

// hasReserve reports whether the reserve is there, from before a restart.
func (s *Store) hasReserve() bool {
	info, err := os.Stat(s.o.Path + reserveSuffix)
	return err == nil && info.Size() == reserveBytes
}

// ensureReserve makes the reserve if it is missing and the disk has room for twice as
// much. The caller holds writing.
func (s *Store) ensureReserve() {
	if s.reserved {
		return
	}
	path := s.o.Path + reserveSuffix
	var disk syscall.Statfs_t
	if syscall.Statfs(filepath.Dir(path), &disk) == nil && int64(disk.Bavail)*int64(disk.Bsize) < 2*reserveBytes {
		return
	}
	b := make([]byte, reserveBytes)
	rand.Read(b) // zeros may take no room
	if err := os.WriteFile(path, b, 0o600); err != nil {
		s.o.Log.Warn("no room is kept for deletes on a full disk", "path", path, "error", err)
		os.Remove(path)
		return
	}
	s.reserved = true
}

// useReserve gives the room to the next commits, and reports whether there was any.
func (s *Store) useReserve() bool {
	if !s.reserved {
		return false
	}
	s.reserved = false
	err := os.Remove(s.o.Path + reserveSuffix)
	s.o.Log.Warn("the disk is full: the room that was kept for deletes is used", "error", err)
	return err == nil
}

// squeeze commits what makes room, after a commit of batch has failed because the disk
// is full. Puts are refused. The caller holds writing.
func (s *Store) squeeze(batch []op, err error) {
	s.recover(batch, err)
	puts, rest := split(batch)
	if len(puts) > 0 {
		s.noteFailure(puts, err)
		finish(puts, fmt.Errorf("%w: %w", store.ErrFull, err))
	}
	failed := len(puts) > 0
	for few := range slices.Chunk(rest, squeezeOps) {
		err := s.commit(few)
		if full(err) && s.useReserve() {
			s.recover(few, err)
			err = s.commit(few)
		}
		if err != nil {
			failed = true
			s.recover(few, err)
			s.noteFailure(few, err)
		}
		finish(few, err)
	}
	if !failed {
		s.noteSuccess()
	}
}
