package hnsw

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

// A snapshot of a graph, little-endian:
//
//	8 bytes  "semhnsw" and the version, 2
//	u32      dims, M
//	u64      number of nodes
//	u32      node at which searches begin (0 if there is none)
//	u64      seed of the rotation
//	u32      CRC-32C of the 36 bytes before
//	blocks of at most 256 nodes:
//	  u32    nodes in this block, bytes of them
//	  nodes  u64 ID, u8 highest layer, dims float32 components of unit length,
//	         and for each layer from 0 u16 count and u32 neighbours
//	  u32    CRC-32C of the block so far
//
// Nothing follows the last block. Nodes are numbered in the order in which they stand.
// A reader refuses other versions (ErrVersion) and anything that does not check
// (ErrCorrupt), and allocates no more than some times what has come in.
const (
	snapshotMagic = "semhnsw\x02"
	headBytes     = 36
	blockNodes    = 256
	maxDims       = 1 << 16
	maxM          = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot implements index.Index. Changes wait while it runs, searches do not.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.writers.Lock()
	defer ix.writers.Unlock()
	number := make([]uint32, ix.nodes) // of a node among those that are there
	nodes := make([]uint32, 0, len(ix.at))
	for n := range uint32(ix.nodes) {
		if ix.live(n) {
			number[n] = uint32(len(nodes))
			nodes = append(nodes, n)
		}
	}
	head := append(make([]byte, 0, headBytes+4), snapshotMagic...)
	head = binary.LittleEndian.AppendUint32(head, uint32(ix.dims))
	head = binary.LittleEndian.AppendUint32(head, uint32(ix.o.M))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(nodes)))
	entry := uint32(0)
	if e := ix.entry.Load(); e != none {
		entry = number[e]
	}
	head = binary.LittleEndian.AppendUint32(head, entry)
	head = binary.LittleEndian.AppendUint64(head, ix.turn.seed)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	var block []byte
	for len(nodes) > 0 {
		n := min(blockNodes, len(nodes))
		block = binary.LittleEndian.AppendUint32(block[:0], uint32(n))
		block = binary.LittleEndian.AppendUint32(block, 0)
		for _, node := range nodes[:n] {
			block = ix.appendNode(block, node, number)
		}
		binary.LittleEndian.PutUint32(block[4:], uint32(len(block)-8))
		block = binary.LittleEndian.AppendUint32(block, crc32.Checksum(block, castagnoli))
		if _, err := w.Write(block); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		nodes = nodes[n:]
	}
	return nil
}

func (ix *Index) appendNode(b []byte, node uint32, number []uint32) []byte {
	b = binary.LittleEndian.AppendUint64(b, ix.ids[node])
	b = append(b, ix.levels[node])
	for _, x := range ix.row(node) {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	for l := range int(ix.levels[node]) + 1 {
		at, n := len(b), uint16(0)
		b = append(b, 0, 0)
		for _, other := range ix.links(node, l) {
			if other == none {
				break
			}
			if ix.live(other) && other != node {
				b = binary.LittleEndian.AppendUint32(b, number[other])
				n++
			}
		}
		binary.LittleEndian.PutUint16(b[at:], n)
	}
	return b
}

// Load reads an index that Snapshot wrote; its options are the defaults but for M.
// Errors: index.ErrCorrupt, index.ErrVersion, those of r.
func Load(r io.Reader) (*Index, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	var head [headBytes + 4]byte
	if _, err := io.ReadFull(br, head[:8]); err != nil {
		return nil, index.CutShort(err)
	}
	if string(head[:7]) != snapshotMagic[:7] {
		return nil, fmt.Errorf("%w: not a snapshot of a graph", index.ErrCorrupt)
	}
	if head[7] != snapshotMagic[7] {
		return nil, fmt.Errorf("%w: %d", index.ErrVersion, head[7])
	}
	if _, err := io.ReadFull(br, head[8:]); err != nil {
		return nil, index.CutShort(err)
	}
	if crc32.Checksum(head[:headBytes], castagnoli) != binary.LittleEndian.Uint32(head[headBytes:]) {
		return nil, fmt.Errorf("%w: header", index.ErrCorrupt)
	}
	dims, m := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
	nodes, entry := binary.LittleEndian.Uint64(head[16:]), binary.LittleEndian.Uint32(head[24:])
	if dims == 0 || dims > maxDims || m < 2 || m > maxM || nodes > most || nodes > 0 && uint64(entry) >= nodes {
		return nil, fmt.Errorf("%w: header", index.ErrCorrupt)
	}
	ix := newIndex(int(dims), Options{M: int(m)}, binary.LittleEndian.Uint64(head[28:]))
	for left := nodes; left > 0; {
		n, err := ix.readBlock(br, left, nodes)
		if err != nil {
			return nil, err
		}
		left -= n
	}
	if _, err := br.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the last block", index.ErrCorrupt)
	}
	ix.size.Store(int64(nodes))
	if nodes > 0 {
		ix.entry.Store(entry)
	}
	return ix, ix.checkLinks()
}

// readBlock reads one block and returns its number of nodes.
func (ix *Index) readBlock(r io.Reader, left, nodes uint64) (uint64, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, index.CutShort(err)
	}
	n, size := uint64(binary.LittleEndian.Uint32(head[:])), int(binary.LittleEndian.Uint32(head[4:]))
	largest := 8 + 1 + 4*ix.dims + 2 + 4*2*ix.o.M + maxLevel*(2+4*ix.o.M)
	if n == 0 || n > blockNodes || n > left || size > int(n)*largest {
		return 0, fmt.Errorf("%w: a block of %d nodes", index.ErrCorrupt, n)
	}
	block, err := index.ReadGrowing(r, size+4)
	if err != nil {
		return 0, index.CutShort(err)
	}
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, block[:size])
	if sum != binary.LittleEndian.Uint32(block[size:]) {
		return 0, fmt.Errorf("%w: checksum of a block", index.ErrCorrupt)
	}
	d := reader{b: block[:size]}
	q := question{unit: make([]float32, ix.dims), turned: make([]float32, ix.turn.size)}
	for range n {
		if err := ix.readNode(&d, &q, nodes); err != nil {
			return 0, err
		}
	}
	if len(d.b) > 0 || d.short {
		return 0, fmt.Errorf("%w: length of a block", index.ErrCorrupt)
	}
	return n, nil
}

func (ix *Index) readNode(d *reader, q *question, nodes uint64) error {
	id, level := d.u64(), int(d.u8())
	row := d.take(4 * ix.dims)
	for i := range q.unit {
		q.unit[i] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:]))
	}
	if _, twice := ix.at[id]; twice || d.short || level > maxLevel {
		return fmt.Errorf("%w: node", index.ErrCorrupt)
	}
	if length := vec.Dot(q.unit, q.unit); !(math.Abs(float64(length)-1) < 1e-3) {
		return fmt.Errorf("%w: a vector of length %v", index.ErrCorrupt, length)
	}
	ix.turn.turn(q.turned, q.unit)
	node := ix.reserve(level)
	ix.setScale(node, ix.write(node, id, q))
	ix.at[id] = node
	for l := range level + 1 {
		list := ix.links(node, l)
		n := int(d.u16())
		if n > len(list) {
			return fmt.Errorf("%w: %d neighbours", index.ErrCorrupt, n)
		}
		for i := range n {
			other := d.u32()
			if uint64(other) >= nodes || other == node {
				return fmt.Errorf("%w: neighbour", index.ErrCorrupt)
			}
			list[i] = other
		}
	}
	return nil
}

// checkLinks reports neighbours that are not on the layer of their list.
func (ix *Index) checkLinks() error {
	for n := range uint32(ix.nodes) {
		if ix.levels[n] > ix.levels[ix.entry.Load()] {
			return fmt.Errorf("%w: a node above the entry", index.ErrCorrupt)
		}
		for l := range int(ix.levels[n]) + 1 {
			for _, other := range ix.links(n, l) {
				if other != none && int(ix.levels[other]) < l {
					return fmt.Errorf("%w: a neighbour on another layer", index.ErrCorrupt)
				}
			}
		}
	}
	return nil
}

// reader takes numbers from a block; what is not there is zero, and short tells.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.b, r.short = nil, true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
