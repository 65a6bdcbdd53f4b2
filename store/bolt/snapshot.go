package bolt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/semcached/semcached/store"
)

// The snapshot lies beside the data file, under its name and ".snapshot". All
// integers are little-endian.
//
//	8 bytes  "semsnap\n"
//	u32      version, 1
//	u64      last change that the snapshot covers
//	u64      name of the life of the data file in which that was (format.go)
//	i64      when it was made (Unix milliseconds)
//	u32      CRC-32C of the bytes before
//
//	then blocks, and after them one of length 0, which is the end of the file:
//	u32      length of the content, at most 4 MiB
//	u32      CRC-32C of the block's number from 0 (u64), the length (u32), the content
//	bytes    content
//
// It is written under another name, made durable and then renamed, so there is never
// half of one. Example: the content "hi" is 02 00 00 00, a checksum, 68 69, and
// 00 00 00 00 with the checksum of block 1.
const (
	snapshotMagic   = "semsnap\n"
	snapshotVersion = 1
	snapshotHeader  = 40
	maxBlock        = 4 << 20
	blockHeader     = 8
)

// snapshotHead is what a snapshot says about itself.
type snapshotHead struct {
	seq, life uint64
	at        time.Time
}

func (h snapshotHead) bytes() []byte {
	b := binary.LittleEndian.AppendUint32([]byte(snapshotMagic), snapshotVersion)
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = binary.LittleEndian.AppendUint64(b, h.life)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at.UnixMilli()))
	return seal(nil, b)
}

func readHead(r io.Reader) (h snapshotHead, err error) {
	var b [snapshotHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, fmt.Errorf("%w: snapshot: %v", store.ErrCorrupt, err)
	}
	body := unseal(nil, b[:])
	if body == nil || string(body[:8]) != snapshotMagic {
		return h, fmt.Errorf("%w: snapshot header", store.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(body[8:]); v != snapshotVersion {
		return h, fmt.Errorf("%w: snapshot version %d", store.ErrVersion, v)
	}
	h.seq, h.life = binary.LittleEndian.Uint64(body[12:]), binary.LittleEndian.Uint64(body[20:])
	h.at = time.UnixMilli(int64(binary.LittleEndian.Uint64(body[28:])))
	return h, nil
}

func blockSum(number uint64, content []byte) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], number)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(content)))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, content)
}

// blockWriter cuts what is written to it into blocks.
type blockWriter struct {
	w      io.Writer
	buf    []byte // capacity maxBlock
	number uint64
}

func (w *blockWriter) Write(p []byte) (n int, err error) {
	for n = 0; n < len(p); {
		take := min(len(p)-n, maxBlock-len(w.buf))
		w.buf = append(w.buf, p[n:n+take]...)
		n += take
		if len(w.buf) == maxBlock {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush writes a block. An empty one is the end.
func (w *blockWriter) flush() error {
	var head [blockHeader]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(w.buf)))
	binary.LittleEndian.PutUint32(head[4:], blockSum(w.number, w.buf))
	if _, err := w.w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.w.Write(w.buf)
	w.buf, w.number = w.buf[:0], w.number+1
	return err
}

func (w *blockWriter) end() error {
	if len(w.buf) > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.flush()
}

// blockReader returns sound bytes only.
type blockReader struct {
	r      io.Reader
	buf    []byte // as large as the largest block so far
	rest   []byte // of buf
	number uint64
	err    error
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next reads a block: io.EOF after the last, store.ErrCorrupt.
func (r *blockReader) next() error {
	var head [blockHeader]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return fmt.Errorf("%w: snapshot is cut short: %v", store.ErrCorrupt, err)
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n > maxBlock {
		return fmt.Errorf("%w: snapshot block of %d bytes", store.ErrCorrupt, n)
	}
	if n > cap(r.buf) {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return fmt.Errorf("%w: snapshot is cut short: %v", store.ErrCorrupt, err)
	}
	if blockSum(r.number, r.buf) != binary.LittleEndian.Uint32(head[4:]) {
		return fmt.Errorf("%w: snapshot block %d", store.ErrCorrupt, r.number)
	}
	if n == 0 {
		return io.EOF
	}
	r.rest, r.number = r.buf, r.number+1
	return nil
}

func (s *Store) snapshotPath() string { return s.o.Path + snapshotSuffix }

const snapshotSuffix = ".snapshot"

// SaveSnapshot implements store.Store.
func (s *Store) SaveSnapshot(seq uint64, write func(io.Writer) error) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	head, err := s.snapshotHead(seq)
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	temp := s.snapshotPath() + ".tmp"
	err = writeSnapshot(temp, head, write)
	if err == nil {
		err = s.placeSnapshot(temp, head)
	}
	if err != nil {
		os.Remove(temp)
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

func (s *Store) snapshotHead(seq uint64) (snapshotHead, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return snapshotHead{}, store.ErrClosed
	case seq > s.state.seq:
		return snapshotHead{}, fmt.Errorf("change %d has not happened, the last is %d", seq, s.state.seq)
	}
	h := snapshotHead{seq: seq, at: time.Now()}
	if n := len(s.state.lives); n > 0 {
		h.life = s.state.lives[n-1].name
	}
	return h, nil
}

// placeSnapshot renames a snapshot to its place, if it still belongs to the file.
func (s *Store) placeSnapshot(temp string, head snapshotHead) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	fits := s.state.fits(head)
	s.mu.Unlock()
	if !fits {
		return errors.New("the data file has been replaced meanwhile")
	}
	if err := os.Rename(temp, s.snapshotPath()); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.o.Path)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.SnapshotSeq, s.stats.SnapshotAt = head.seq, head.at
	if !s.closed {
		s.enqueueLocked(op{kind: opTrim})
	}
	return nil
}

// fits reports whether a snapshot belongs to the history of the file.
func (st *state) fits(h snapshotHead) bool {
	return st.had(h.life, h.seq) || h.seq == 0 && h.life == 0
}

func writeSnapshot(path string, head snapshotHead, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(head.bytes()); err != nil {
		return err
	}
	w := &blockWriter{w: f, buf: make([]byte, 0, maxBlock)}
	if err := write(w); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	return f.Sync()
}

// Snapshot implements store.Store.
func (s *Store) Snapshot() (uint64, io.ReadCloser, error) {
	head, r, err := s.openSnapshot()
	if err != nil {
		return 0, nil, err
	}
	return head.seq, r, nil
}

func (s *Store) openSnapshot() (snapshotHead, *snapshotReader, error) {
	s.mu.Lock()
	closed, st := s.closed, s.state
	s.mu.Unlock()
	if closed {
		return snapshotHead{}, nil, store.ErrClosed
	}
	f, err := os.Open(s.snapshotPath())
	if errors.Is(err, os.ErrNotExist) {
		return snapshotHead{}, nil, store.ErrNotFound
	}
	if err != nil {
		return snapshotHead{}, nil, fmt.Errorf("open snapshot: %w", err)
	}
	r := &snapshotReader{s: s, f: f, blockReader: blockReader{r: bufio.NewReader(f)}}
	head, err := readHead(r.r)
	if err == nil && !st.fits(head) {
		err = fmt.Errorf("%w: the snapshot is that of another file", store.ErrNotFound)
	}
	if err == nil {
		return head, r, nil
	}
	if !errors.Is(err, store.ErrVersion) {
		r.discard(err)
	}
	f.Close()
	return snapshotHead{}, nil, err
}

// snapshotReader puts a snapshot aside that turns out to be damaged.
type snapshotReader struct {
	blockReader
	s *Store
	f *os.File
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	known := r.err != nil
	n, err := r.blockReader.Read(p)
	if !known && errors.Is(err, store.ErrCorrupt) {
		r.discard(err)
	}
	return n, err
}

func (r *snapshotReader) Close() error { return r.f.Close() }

// discard puts the snapshot aside, in the place of the last that was, unless a new one
// has come meanwhile.
func (r *snapshotReader) discard(cause error) {
	path := r.s.snapshotPath()
	mine, err := r.f.Stat()
	there, err2 := os.Stat(path)
	if err != nil || err2 != nil || !os.SameFile(mine, there) {
		return
	}
	r.s.o.Log.Warn("putting the index snapshot aside", "path", path, "cause", cause)
	os.Rename(path, path+".corrupt")
	r.s.noteSnapshot(snapshotHead{})
}

// dropSnapshot removes the snapshot of a file that is being replaced.
func (s *Store) dropSnapshot() {
	os.Remove(s.snapshotPath())
	s.noteSnapshot(snapshotHead{})
}

// findSnapshot notes what the snapshot that is there covers. One that does not belong to
// the file is put aside at once: its place is needed by one that does.
func (s *Store) findSnapshot() {
	os.Remove(s.snapshotPath() + ".tmp")
	if head, r, err := s.openSnapshot(); err == nil {
		r.Close()
		s.noteSnapshot(head)
	}
}

func (s *Store) noteSnapshot(h snapshotHead) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.SnapshotSeq, s.stats.SnapshotAt = h.seq, h.at
}
