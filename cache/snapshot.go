package cache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/semcached/semcached/cache/admission"
	"github.com/semcached/semcached/index"
)

// A snapshot is what a start needs: the entries without their answers, and the indexes
// with their vectors. With it a start reads one file from end to end, makes no index
// anew, and then asks the store for the few changes since.
//
// Integers are little-endian, a text is a uvarint length and that many bytes. A name is
// the uvarint number of a text in the table of names, which begins empty; the number
// after the last is followed by a text, which joins the table.
//
//	8 bytes  "semceng" and the version, 1
//	u64      highest ID given to an entry so far
//	u64      number of entries, about
//	blocks of entries: u32 length, 0 after the last block, and that many bytes of
//	  u64      ID
//	  32 bytes key
//	  u64      Created, Expires (Unix milliseconds)
//	  u8       recent use, 0 to 15
//	  u8       flags: 1 = the vector is the caller's own
//	  uvarint  cost (nanoseconds), input tokens, output tokens, bytes of the answer
//	  uvarint  0: no vector, else 1 + the number of the partition
//	  names    tenant, namespace, operation, model, digest, provider
//	  uvarint  number of tags, each a name
//	  text     canonical request, prompt
//	u32      number of partitions; for each
//	  32 bytes ID
//	  u32      dimensions
//	  chunks   index.Snapshot: u32 length, 0 after the last chunk, and that many bytes
//	u32      number of loose vectors; for each
//	  u32      number of the partition
//	  u64      ID
//
// The store checks the bytes: this format has no checksums of its own. A reader refuses
// other versions and whatever does not add up, and the entries are loaded from the
// store then.
//
// It covers the changes of the store up to a number n, in this sense: loading it and
// making the changes after n gives what the store holds. Lookups and stores go on
// while it is written, so it may contain later changes as well; making them once more
// does no harm. A loose vector is one that came or went meanwhile: its index may have it
// although no entry does.
const (
	snapshotMagic = "semceng\x01"
	callersVector = 1

	// snapshotBlock is the size from which a block of entries is written.
	snapshotBlock = 64 << 10
	// snapshotSlice is how many entries are looked at under the lock at a time.
	snapshotSlice = 256
	// snapshotBuffer is what the indexes' own writers ask for, so that they use this
	// one, and readBuffer what the reader of package sketch does.
	snapshotBuffer = 1 << 20
	readBuffer     = 64 << 10
)

// When a snapshot is made while the engine runs: once so many changes have come since
// the last one, and not more often than that. Replaying a change takes about as long as
// storing it.
const (
	snapshotChanges = 10_000
	snapshotShare   = 5 // or a fifth of the entries
	snapshotPause   = 5 * time.Minute
)

// errUnsaved: the store lacks something that memory has, or has something that memory
// lacks.
var errUnsaved = errors.New("cache: writes have failed; no snapshot until the disk has caught up")

// loose is a vector that came or went while a snapshot was written.
type loose struct {
	part Key
	id   uint64
}

// Snapshot writes a snapshot to the store, so that the next start is fast. It does
// nothing without Options.LoadIndex. Errors: those of the store, ctx's; the last
// snapshot stays then.
func (e *Engine) Snapshot(ctx context.Context) error {
	if e.o.LoadIndex == nil || !e.Ready() {
		return nil
	}
	e.saving.Lock()
	defer e.saving.Unlock()
	s := e.capture()
	defer e.release()
	// What has been captured must be on disk before a start may believe in it.
	if err := e.committed(ctx); err != nil {
		return err
	}
	err := e.o.Store.SaveSnapshot(s.seq, func(w io.Writer) error {
		if err := s.write(ctx, w); err != nil {
			return err
		}
		// The indexes were written later: what they have seen go must be gone from
		// disk, what they have seen come must be there.
		return e.committed(ctx)
	})
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	e.covered.Store(s.seq)
	return nil
}

// committed waits until all queued writes are on disk.
func (e *Engine) committed(ctx context.Context) error {
	if err := e.o.Store.Sync(ctx); err != nil {
		return err
	}
	if n, diverged := e.unsaved.len(); n > 0 || diverged {
		return errUnsaved
	}
	return nil
}

// SnapshotWorthwhile reports whether a start would have to replay more changes than a
// hundredth of the entries, and more than a hundred. Queued changes do not count yet.
func (e *Engine) SnapshotWorthwhile() bool {
	return e.changed() > max(100, e.entries()/100)
}

// changed returns how many changes the last snapshot does not cover.
func (e *Engine) changed() uint64 {
	seq, covered := e.o.Store.Seq(), e.covered.Load()
	return seq - min(covered, seq)
}

func (e *Engine) entries() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return uint64(len(e.byID))
}

// snapshots makes snapshots in the background until ctx ends.
func (e *Engine) snapshots(ctx context.Context) {
	last := e.o.Now()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := e.o.Now()
		if !e.Ready() || now.Sub(last) < snapshotPause || e.changed() < max(snapshotChanges, e.entries()/snapshotShare) {
			continue
		}
		last = now
		if err := e.Snapshot(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.Warn("no snapshot", "error", err)
		}
	}
}

// capture is what a snapshot is made of.
type capture struct {
	e      *Engine
	seq    uint64
	lastID uint64
	items  []*admission.Item[*entry]
	parts  []*partition
	number map[Key]int // of parts
	names  map[string]int
	strays []loose
}

// capture takes the list of entries. Every change up to seq is in it: the maps change
// before a write is queued, and the gate waits for vectors on their way to an index.
func (e *Engine) capture() *capture {
	seq := e.o.Store.Seq()
	e.gate.Lock()
	defer e.gate.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loose, e.loosening = nil, true
	items := e.policy.Items()
	return &capture{
		e: e, seq: seq, lastID: e.lastID.Load(), items: append(make([]*admission.Item[*entry], 0, len(items)), items...),
		number: make(map[Key]int), names: make(map[string]int),
	}
}

func (e *Engine) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loose, e.loosening = nil, false
}

func (s *capture) write(ctx context.Context, out io.Writer) error {
	w := bufio.NewWriterSize(endingWriter{ctx, out}, snapshotBuffer)
	head := binary.LittleEndian.AppendUint64([]byte(snapshotMagic), s.lastID)
	w.Write(binary.LittleEndian.AppendUint64(head, uint64(len(s.items)))) // a bufio.Writer's error is told by Flush
	s.writeEntries(w)
	if err := s.writeIndexes(w); err != nil {
		return err
	}
	s.e.mu.Lock()
	rest := s.e.loose
	s.e.mu.Unlock()
	s.writeLoose(w, rest)
	return w.Flush()
}

// endingWriter writes until ctx ends.
type endingWriter struct {
	ctx context.Context
	w   io.Writer
}

func (e endingWriter) Write(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.w.Write(p)
}

func (s *capture) writeEntries(w *bufio.Writer) {
	var block []byte
	flush := func() {
		w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(block))))
		w.Write(block)
		block = block[:0]
	}
	for items := s.items; len(items) > 0; {
		n := min(len(items), snapshotSlice)
		s.e.mu.RLock()
		for _, it := range items[:n] {
			if en := it.Value; !en.removed && !en.refused.Load() { // else its removal follows, or the store has no record
				block = s.appendEntry(block, en)
			} else if en.part != nil {
				s.strayLocked(en)
			}
		}
		s.e.mu.RUnlock()
		items = items[n:]
		if len(block) >= snapshotBlock {
			flush()
		}
	}
	if len(block) > 0 {
		flush()
	}
	flush()
}

// strayLocked notes that the index has the vector of an entry that is left out.
func (s *capture) strayLocked(en *entry) { s.strays = append(s.strays, loose{en.part.id, en.id}) }

func (s *capture) appendEntry(b []byte, en *entry) []byte {
	b = binary.LittleEndian.AppendUint64(b, en.id)
	b = append(b, en.key[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(en.created.UnixMilli()))
	b = binary.LittleEndian.AppendUint64(b, uint64(en.Expires.UnixMilli()))
	flags := byte(0)
	if en.callers {
		flags = callersVector
	}
	b = append(b, byte(s.e.policy.Sketch().Estimate(en.Hash)), flags)
	for _, n := range [...]int{int(en.Cost), en.input, en.output, en.answerBytes} {
		b = binary.AppendUvarint(b, uint64(max(n, 0)))
	}
	part := 0
	if en.part != nil {
		part = 1 + s.numberOf(en.part)
	}
	b = binary.AppendUvarint(b, uint64(part))
	for _, name := range [...]string{en.tenant, en.namespace, en.op, en.model, en.digest, en.provider} {
		b = s.appendName(b, name)
	}
	b = binary.AppendUvarint(b, uint64(len(en.tags)))
	for _, tag := range en.tags {
		b = s.appendName(b, tag)
	}
	b = binary.AppendUvarint(b, uint64(len(en.canonical)))
	b = append(b, en.canonical...)
	b = binary.AppendUvarint(b, uint64(len(en.prompt)))
	return append(b, en.prompt...)
}

// numberOf returns the number of p. A partition may have been given up and made anew
// meanwhile: either will do, for the changes since are made once more at the start.
func (s *capture) numberOf(p *partition) int {
	n, ok := s.number[p.id]
	if !ok {
		n = len(s.parts)
		s.number[p.id] = n
		s.parts = append(s.parts, p)
	}
	return n
}

func (s *capture) appendName(b []byte, name string) []byte {
	n, ok := s.names[name]
	if !ok {
		n = len(s.names)
		s.names[name] = n
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendUvarint(b, uint64(len(name)))
		return append(b, name...)
	}
	return binary.AppendUvarint(b, uint64(n))
}

func (s *capture) writeIndexes(w *bufio.Writer) error {
	w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s.parts))))
	chunked := bufio.NewWriterSize(nil, snapshotBuffer)
	for _, p := range s.parts {
		w.Write(p.id[:])
		w.Write(binary.LittleEndian.AppendUint32(nil, uint32(p.index.Dims())))
		chunked.Reset(chunkWriter{w})
		if err := p.index.Snapshot(chunked); err != nil {
			return err
		}
		if err := chunked.Flush(); err != nil {
			return err
		}
		w.Write(make([]byte, 4))
	}
	return nil
}

func (s *capture) writeLoose(w *bufio.Writer, rest []loose) {
	var b []byte
	count := uint32(0)
	for _, l := range append(s.strays, rest...) {
		if n, ok := s.number[l.part]; ok {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
			b = binary.LittleEndian.AppendUint64(b, l.id)
			count++
		}
	}
	w.Write(binary.LittleEndian.AppendUint32(nil, count))
	w.Write(b)
}

// chunkWriter writes each piece after its length.
type chunkWriter struct{ w io.Writer }

func (c chunkWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(len(p)))
	if _, err := c.w.Write(size[:]); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// chunkReader reads what a chunkWriter wrote, up to the chunk of length 0.
type chunkReader struct {
	r    io.Reader
	left int
	over bool
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.left == 0 && !c.over {
		var size [4]byte
		if _, err := io.ReadFull(c.r, size[:]); err != nil {
			return 0, index.CutShort(err)
		}
		c.left = int(binary.LittleEndian.Uint32(size[:]))
		c.over = c.left == 0
	}
	if c.over {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	if err == io.EOF && n > 0 {
		err = nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
