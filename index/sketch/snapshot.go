package sketch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/slab"
	"github.com/semcached/semcached/index/vec"
)

// A snapshot, little-endian. It holds the codes as well as the vectors, so that loading
// it encodes nothing and makes no lists.
//
//	head, 44 bytes:
//	  8 bytes  "semcskt" and the version, 3
//	  u32      dims
//	  u64      number of rows
//	  2 x u64  seed of the rotation
//	  u32      number of lists; 0: there are no codes
//	  u32      CRC-32C of the 40 bytes before
//	lists, unless there are none:
//	  centres  dims int8 components each
//	  f32 each: what turns a centre's components back
//	  15 f32   margins
//	  u8 each: slope of all pairs of lists
//	  u8 each: lean of all pairs
//	  u64      for how many vectors the lists were made
//	  u32      CRC-32C of the lists so far
//	blocks of at most 256 rows:
//	  u32      rows in this block
//	  u64 each: IDs
//	  u32 each: the row's list, if there are lists
//	  codes    of 1, 2, 4 or 6 u64 each (64, 128 or 256 bits, the power of two from dims
//	           on, or 384), if there are lists
//	  u8 each: the level of the row's distance from the centre, if there are lists
//	  vectors  dims float32 components of unit length each
//	  u32      CRC-32C of the block so far
//
// Nothing follows the last block. A reader refuses later versions (index.ErrVersion) and
// anything that does not check (index.ErrCorrupt); it allocates as it reads, so a forged
// count costs nothing. Version 1 is the snapshot of package index, vectors only, which
// begins otherwise; it is read as well.
const (
	snapshotMagic   = "semcskt"
	snapshotVersion = 3
	headBytes       = 40
	blockRows       = 256
	maxDims         = 1 << 16
	maxLists        = mostLists

	// readBytes is read in one go: what is copied on to the rows is still in the
	// processor's cache then.
	readBytes = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// kept is a row as it was when a snapshot began.
type kept struct {
	id   uint64
	unit []float32
	spot spot
}

// saving is a snapshot under way. It is guarded by the index's mu.
type saving struct {
	l        *layout // of the moment it began; nil without codes
	from, to int     // the rows that are still to be written
	kept     map[int]kept
}

// keep remembers a row that is about to change for the snapshot under way, if that has not
// written it yet. The caller holds mu for writing.
func (ix *Index) keep(row int) {
	s := ix.saving
	if s == nil || row < s.from || row >= s.to {
		return
	}
	if _, ok := s.kept[row]; ok {
		return
	}
	k := kept{id: ix.id(row), unit: append([]float32(nil), ix.row(row)...)}
	if s.l != nil {
		k.spot = s.l.spotOf(row)
	}
	s.kept[row] = k
}

// Snapshot implements index.Index. Neither searches nor changes wait for it: a row that
// changes before it is written is kept as it was. Only one snapshot is written at a time.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.mu.Lock()
	for ix.saving != nil {
		done := ix.saved
		ix.mu.Unlock()
		<-done
		ix.mu.Lock()
	}
	s := &saving{to: ix.n, kept: make(map[int]kept)}
	done := make(chan struct{})
	ix.saving, ix.saved = s, done
	head, lists := ix.heads(s)
	ix.mu.Unlock()
	defer func() {
		ix.mu.Lock()
		ix.saving = nil
		ix.mu.Unlock()
		close(done)
	}()

	bw := bufio.NewWriterSize(w, 1<<20)
	for _, part := range [][]byte{head, lists} {
		if _, err := bw.Write(part); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	var block []byte
	for s.from < s.to {
		block = ix.block(block[:0], s)
		if _, err := bw.Write(block); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// heads returns the head and the lists of a snapshot that begins. The caller holds mu.
func (ix *Index) heads(s *saving) (head, lists []byte) {
	var from seed
	count := 0
	if ix.tier != nil {
		s.l = ix.tier.cur
		from, count = s.l.r.seed, s.l.len()
	}
	le := binary.LittleEndian
	head = append(head, snapshotMagic...)
	head = append(head, snapshotVersion)
	head = le.AppendUint32(head, uint32(ix.dims))
	head = le.AppendUint64(head, uint64(ix.n))
	head = le.AppendUint64(le.AppendUint64(head, from[0]), from[1])
	head = le.AppendUint32(head, uint32(count))
	head = le.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if count == 0 {
		return head, nil
	}
	sp := s.l.space
	for i := range count {
		for _, x := range sp.bytes[i*sp.stride : i*sp.stride+sp.dims] {
			lists = append(lists, byte(x))
		}
	}
	lists = appendFloats(lists, sp.scales)
	lists = appendFloats(lists, sp.margins[:])
	lists = append(append(lists, sp.slope...), sp.lean...)
	lists = le.AppendUint64(lists, uint64(sp.made))
	return head, le.AppendUint32(lists, crc32.Checksum(lists, castagnoli))
}

// block appends the next block of rows. It holds the lock of readers for a few rows at a
// time, so that writers need not wait long.
func (ix *Index) block(b []byte, s *saving) []byte {
	le := binary.LittleEndian
	n := min(blockRows, s.to-s.from)
	words := 0
	if s.l != nil {
		words = s.l.r.words()
	}
	begin := len(b)
	ids := begin + 4
	lists := ids + 8*n
	codes, away, vectors := lists, lists, lists
	if words > 0 {
		codes = lists + 4*n
		away = codes + 8*words*n
		vectors = away + n
	}
	end := vectors + 4*ix.dims*n
	b = resizeKeep(b, end+4)
	le.PutUint32(b[begin:], uint32(n))
	for i := 0; i < n; {
		ix.mu.RLock()
		for stop := min(n, i+slice); i < stop; i++ {
			row := s.from + i
			k, ok := s.kept[row]
			unit := k.unit
			if !ok {
				k.id, unit = ix.id(row), ix.row(row)
				if words > 0 {
					k.spot = s.l.spotOf(row)
				}
			}
			le.PutUint64(b[ids+8*i:], k.id)
			vec.PutBytes(b[vectors+4*ix.dims*i:], unit)
			if words > 0 {
				le.PutUint32(b[lists+4*i:], uint32(k.spot.list))
				for w, x := range k.spot.code[:words] {
					le.PutUint64(b[codes+8*(words*i+w):], x)
				}
				b[away+i] = k.spot.away
			}
		}
		ix.mu.RUnlock()
	}
	ix.mu.Lock()
	for range n {
		delete(s.kept, s.from)
		s.from++
	}
	ix.mu.Unlock()
	le.PutUint32(b[end:], crc32.Checksum(b[begin:end], castagnoli))
	return b
}

func appendFloats(b []byte, v []float32) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// resizeKeep is resize for a slice whose contents stay.
func resizeKeep(b []byte, n int) []byte {
	if cap(b) < n {
		return append(b, make([]byte, n-len(b))...)
	}
	return b[:n]
}

// Load reads an index that Snapshot wrote. Errors: index.ErrCorrupt,
// index.ErrVersion, those of r.
func Load(r io.Reader) (*Index, error) { return load(r, &defaults) }

func load(r io.Reader, o *options) (*Index, error) {
	br := bufio.NewReaderSize(r, readBytes)
	begin, err := br.Peek(len(snapshotMagic) + 1)
	if err != nil {
		return nil, index.CutShort(err)
	}
	if !bytes.HasPrefix(begin, []byte(snapshotMagic)) {
		return loadVectors(br, o)
	}
	if begin[len(snapshotMagic)] != snapshotVersion {
		return nil, fmt.Errorf("%w: %d", index.ErrVersion, begin[len(snapshotMagic)])
	}
	return loadAll(br, o)
}

// loadVectors reads version 1.
func loadVectors(r io.Reader, o *options) (*Index, error) {
	var ix *Index
	err := index.ReadSnapshot(r, func(dims int) { ix = newIndex(dims, o) }, func(id uint64, v []float32) error { return ix.Add(id, v) })
	if err != nil {
		return nil, err
	}
	return ix, nil
}

// loader is a snapshot being read.
type loader struct {
	r     io.Reader
	ix    *Index
	l     *layout // nil without codes
	left  int     // rows to come
	words int     // of a code; 0 without codes
	buf   []byte

	// The rows' lists and codes. They are put into the lists last, when it is known how
	// long each becomes.
	lengths []int // of the lists
	in      slab.Of[uint32]
	codes   slab.Of[uint64]
	away    slab.Of[uint8]
}

func loadAll(r io.Reader, o *options) (*Index, error) {
	head, err := section(r, headBytes)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	dims, n, count := le.Uint32(head[8:]), le.Uint64(head[12:]), le.Uint32(head[36:])
	if dims == 0 || dims > maxDims || n > math.MaxUint32 || count > maxLists || count > 0 && n == 0 {
		return nil, fmt.Errorf("%w: %d rows of %d dimensions in %d lists", index.ErrCorrupt, n, dims, count)
	}
	d := &loader{r: r, ix: newIndex(int(dims), o), left: int(n)}
	if count > 0 {
		if err := d.lists(newRotation(int(dims), seed{le.Uint64(head[20:]), le.Uint64(head[28:])}), int(count)); err != nil {
			return nil, err
		}
	}
	for d.left > 0 {
		if err := d.block(); err != nil {
			return nil, err
		}
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the last block", index.ErrCorrupt)
	}
	return d.finish()
}

// section reads n bytes and their checksum.
func section(r io.Reader, n int) ([]byte, error) {
	b, err := index.ReadGrowing(r, n+4)
	if err != nil {
		return nil, index.CutShort(err)
	}
	if crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%w: checksum", index.ErrCorrupt)
	}
	return b[:n], nil
}

// lists reads what there is of the lists before the rows.
func (d *loader) lists(r *rotation, count int) error {
	dims := d.ix.dims
	b, err := section(d.r, count*(dims+4)+4*marginCount+2*count*count+8)
	if err != nil {
		return err
	}
	sp := &space{r: r, dims: dims, stride: (dims + 31) &^ 31}
	sp.bytes, sp.scales = make([]int8, count*sp.stride), make([]float32, count)
	for i := range count {
		for j, x := range b[i*dims : (i+1)*dims] {
			if sp.bytes[i*sp.stride+j] = int8(x); x == 0x80 {
				return fmt.Errorf("%w: a centre", index.ErrCorrupt)
			}
		}
	}
	b = b[count*dims:]
	for _, v := range [][]float32{sp.scales, sp.margins[:]} {
		for i := range v {
			if v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])); !(v[i] >= 0 && v[i] <= math.MaxInt16) {
				return fmt.Errorf("%w: %v among the lists", index.ErrCorrupt, v[i])
			}
		}
		b = b[4*len(v):]
	}
	sp.slope, sp.lean = make([]uint8, count*count), make([]uint8, count*count)
	b = b[copy(sp.slope, b):]
	b = b[copy(sp.lean, b):]
	made := binary.LittleEndian.Uint64(b)
	if made > math.MaxUint32 {
		return fmt.Errorf("%w: lists made for %d vectors", index.ErrCorrupt, made)
	}
	sp.made = int(made)
	sp.derive()
	d.l, d.words = newLayout(sp), r.words()
	d.lengths = make([]int, count)
	d.in, d.codes, d.away = slab.New[uint32](1), slab.New[uint64](d.words), slab.New[uint8](1)
	return nil
}

// block reads rows, the vectors of them to where they stay.
func (d *loader) block() error {
	count, err := d.read(4)
	if err != nil {
		return err
	}
	n := int(binary.LittleEndian.Uint32(count))
	if n == 0 || n > min(blockRows, d.left) {
		return fmt.Errorf("%w: a block of %d rows", index.ErrCorrupt, n)
	}
	sum := crc32.Checksum(count, castagnoli)
	perRow := 8
	if d.words > 0 {
		perRow += 4 + 8*d.words + 1
	}
	b, err := d.read(n * perRow)
	if err != nil {
		return err
	}
	sum = crc32.Update(sum, castagnoli, b)
	for i := range n {
		d.ix.rows.Grow(d.ix.n + 1)
		d.ix.ids.Grow(d.ix.n + 1)
		row := d.ix.row(d.ix.n)
		if sum, err = vec.ReadBytes(d.r, row, sum, castagnoli); err != nil {
			return index.CutShort(err)
		}
		if length := vec.Norm(row); !(math.Abs(length-1) < 1e-4) {
			return fmt.Errorf("%w: a vector of length %v", index.ErrCorrupt, length)
		}
		d.ix.ids.Row(d.ix.n)[0] = binary.LittleEndian.Uint64(b[8*i:])
		if err := d.note(b[8*n:], i, n); err != nil {
			return err
		}
		d.ix.n++
	}
	end, err := d.read(4)
	if err != nil {
		return err
	}
	if sum != binary.LittleEndian.Uint32(end) {
		return fmt.Errorf("%w: checksum of a block", index.ErrCorrupt)
	}
	d.left -= n
	return nil
}

// read returns the next n bytes, some thousand at most, until the next call.
func (d *loader) read(n int) ([]byte, error) {
	d.buf = resize(d.buf, n)
	if _, err := io.ReadFull(d.r, d.buf); err != nil {
		return nil, index.CutShort(err)
	}
	return d.buf, nil
}

// note notes the list and the code of the i-th of n rows.
func (d *loader) note(b []byte, i, n int) error {
	if d.words == 0 {
		return nil
	}
	list := binary.LittleEndian.Uint32(b[4*i:])
	if int(list) >= d.l.len() {
		return fmt.Errorf("%w: list %d of %d", index.ErrCorrupt, list, d.l.len())
	}
	d.lengths[list]++
	d.in.Grow(d.ix.n + 1)
	d.codes.Grow(d.ix.n + 1)
	d.away.Grow(d.ix.n + 1)
	d.in.Row(d.ix.n)[0] = list
	d.away.Row(d.ix.n)[0] = b[(4+8*d.words)*n+i]
	for w := range d.words {
		d.codes.Row(d.ix.n)[w] = binary.LittleEndian.Uint64(b[4*n+8*(d.words*i+w):])
	}
	return nil
}

// place puts the rows into their lists.
func (d *loader) place() {
	for i, n := range d.lengths {
		d.l.list[i].reserve(n, d.words)
	}
	d.l.place.Grow(d.ix.n)
	for row := range d.ix.n {
		at := spot{list: int(d.in.Row(row)[0]), away: d.away.Row(row)[0]}
		copy(at.code[:], d.codes.Row(row))
		d.l.put(row, &at)
	}
}

// finish returns the index, whole.
func (d *loader) finish() (*Index, error) {
	ix := d.ix
	ix.at = slab.NewFinder(&ix.ids)
	ix.at.Reserve(ix.n)
	for i := range ix.n {
		if !ix.at.Add(ix.id(i), uint32(i)) {
			return nil, fmt.Errorf("%w: an ID is there twice", index.ErrCorrupt)
		}
	}
	if ix.n < mapFrom {
		ix.at = nil
	}
	switch {
	case d.l != nil:
		d.place()
		ix.tier = &tier{cur: d.l, due: max(1, 2*d.l.made-ix.n), low: d.l.made / 4}
	case ix.n >= ix.o.codesFrom:
		ix.encode()
	}
	return ix, nil
}
