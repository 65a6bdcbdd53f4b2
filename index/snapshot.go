package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// A snapshot of vectors, little-endian:
//
//	8 bytes  "semcidx" and the version, 1
//	u32      dims
//	u64      number of rows
//	u32      CRC-32C of the 20 bytes before
//	blocks of at most 1024 rows:
//	  u32    rows in this block
//	  rows   u64 ID and dims float32 components of unit length
//	  u32    CRC-32C of the block so far
//
// Nothing follows the last block. A reader refuses other versions (ErrVersion)
// and anything that does not check (ErrCorrupt); it allocates block by block, so
// a forged count costs nothing.
const (
	snapshotMagic = "semcidx\x01"
	headerBytes   = 20
	blockRows     = 1024
	maxDims       = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteSnapshot writes n rows in the format above; row returns the i-th. It is
// for implementations whose snapshot is their vectors.
func WriteSnapshot(w io.Writer, dims, n int, row func(i int) (id uint64, v []float32)) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	head := append(make([]byte, 0, 24), snapshotMagic...)
	head = binary.LittleEndian.AppendUint32(head, uint32(dims))
	head = binary.LittleEndian.AppendUint64(head, uint64(n))
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if _, err := bw.Write(head); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	var block []byte
	for start := 0; start < n; start += blockRows {
		rows := min(blockRows, n-start)
		block = binary.LittleEndian.AppendUint32(block[:0], uint32(rows))
		for i := start; i < start+rows; i++ {
			id, v := row(i)
			block = binary.LittleEndian.AppendUint64(block, id)
			for _, x := range v {
				block = binary.LittleEndian.AppendUint32(block, math.Float32bits(x))
			}
		}
		block = binary.LittleEndian.AppendUint32(block, crc32.Checksum(block, castagnoli))
		if _, err := bw.Write(block); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// ReadSnapshot reads what WriteSnapshot wrote: it calls begin with the
// dimensions, then add for every row; add must copy v. Errors: ErrCorrupt,
// ErrVersion, those of r, begin and add.
func ReadSnapshot(r io.Reader, begin func(dims int), add func(id uint64, v []float32) error) error {
	br := bufio.NewReaderSize(r, 256<<10)
	dims, n, err := readHead(br)
	if err != nil {
		return err
	}
	begin(dims)
	v := make([]float32, dims)
	rowBytes := 8 + 4*dims
	for left := n; left > 0; {
		block, rows, err := readBlock(br, rowBytes, left)
		if err != nil {
			return err
		}
		for row := block; len(row) > 0; row = row[rowBytes:] {
			for i := range v {
				v[i] = math.Float32frombits(binary.LittleEndian.Uint32(row[8+4*i:]))
			}
			if err := add(binary.LittleEndian.Uint64(row), v); err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
		}
		left -= rows
	}
	if _, err := br.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: something follows the last block", ErrCorrupt)
	}
	return nil
}

func readHead(r io.Reader) (dims int, n uint64, err error) {
	var head [headerBytes + 4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, CutShort(err)
	}
	if string(head[:7]) != snapshotMagic[:7] {
		return 0, 0, fmt.Errorf("%w: not a snapshot", ErrCorrupt)
	}
	if head[7] != snapshotMagic[7] {
		return 0, 0, fmt.Errorf("%w: %d", ErrVersion, head[7])
	}
	if crc32.Checksum(head[:headerBytes], castagnoli) != binary.LittleEndian.Uint32(head[headerBytes:]) {
		return 0, 0, fmt.Errorf("%w: header", ErrCorrupt)
	}
	d := binary.LittleEndian.Uint32(head[8:])
	if d == 0 || d > maxDims {
		return 0, 0, fmt.Errorf("%w: %d dimensions", ErrCorrupt, d)
	}
	return int(d), binary.LittleEndian.Uint64(head[12:]), nil
}

// readBlock returns the rows of the next block.
func readBlock(r io.Reader, rowBytes int, left uint64) (block []byte, rows uint64, err error) {
	var count [4]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return nil, 0, CutShort(err)
	}
	rows = uint64(binary.LittleEndian.Uint32(count[:]))
	if rows == 0 || rows > blockRows || rows > left {
		return nil, 0, fmt.Errorf("%w: a block of %d rows", ErrCorrupt, rows)
	}
	size := int(rows) * rowBytes
	block, err = ReadGrowing(r, size+4)
	if err != nil {
		return nil, 0, CutShort(err)
	}
	sum := crc32.Update(crc32.Checksum(count[:], castagnoli), castagnoli, block[:size])
	if sum != binary.LittleEndian.Uint32(block[size:]) {
		return nil, 0, fmt.Errorf("%w: checksum of a block", ErrCorrupt)
	}
	return block[:size], rows, nil
}

// ReadGrowing reads n bytes, allocating no more than 2 MiB, a block, or what has come in
// so far, twice over.
func ReadGrowing(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, 0, min(n, 2<<20))
	for len(b) < n {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		m, err := io.ReadFull(r, b[len(b):min(cap(b), n)])
		b = b[:len(b)+m]
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// CutShort returns the error of a snapshot that could not be read on: ErrCorrupt if it
// ended, else what its reader said.
func CutShort(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	return fmt.Errorf("read snapshot: %w", err)
}

// Snapshot implements Index. Writers wait while it runs, lookups do not.
func (f *Flat) Snapshot(w io.Writer) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return WriteSnapshot(w, f.dims, len(f.ids), func(i int) (uint64, []float32) {
		return f.ids[i], f.row(uint32(i))
	})
}

// LoadFlat reads an index that Snapshot wrote. Errors: ErrCorrupt, ErrVersion,
// those of r.
func LoadFlat(r io.Reader) (*Flat, error) {
	var f *Flat
	err := ReadSnapshot(r, func(dims int) { f = NewFlat(dims) }, func(id uint64, v []float32) error { return f.Add(id, v) })
	if err != nil {
		return nil, err
	}
	return f, nil
}
