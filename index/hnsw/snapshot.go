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
//	8 bytes  "semhnsw" and the version, 3
//	u32      dims, M
//	u64      number of nodes
//	u32      node at which searches begin (0 if there is none)
//	u64      seed of the rotation
//	u32      CRC-32C of the 36 bytes before
//	         dims float32 components of the centre
//	u32      CRC-32C of the centre
//	blocks of at most 256 nodes:
//	  u32    nodes in this block, bytes of them
//	  nodes  u64 ID, u8 highest layer, dims float32 components of unit length,
//	         u64 term and 4-bit vector (vec.QuantizeInt4 of the components seen
//	         from the centre, rotated, filled up to a multiple of 64), and for
//	         each layer from 0 u16 count and u32 neighbours
//	  u32    CRC-32C of the block so far
//
// Nothing follows the last block. Nodes are numbered in the order in which they stand.
// A reader refuses other versions (ErrVersion) and anything that does not check
// (ErrCorrupt), and allocates no more than some times what has come in.
const (
	snapshotMagic = "semhnsw\x03"
	headBytes     = 36
	blockNodes    = 256
	maxDims       = 1 << 16
	maxM          = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frozen is what a snapshot keeps of a graph: where its vectors lie, which stay there
// until it is written, and the rest.
type frozen struct {
	nodes  []uint32
	terms  []uint64
	lists  []byte // of all nodes, as they are written
	ends   []int  // of each node's in lists
	entry  uint32 // by its number
	centre []float32
}

// Snapshot implements index.Index. Changes wait while the lists are copied, tens of
// milliseconds for 100,000 vectors; neither they nor searches wait for w. Places of
// vectors that are removed meanwhile are used again only afterwards.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.writers.Lock()
	ix.snapshots++
	f := ix.freeze()
	ix.writers.Unlock()
	defer func() {
		ix.writers.Lock()
		ix.snapshots--
		ix.writers.Unlock()
	}()

	head := append(make([]byte, 0, headBytes+4), snapshotMagic...)
	head = binary.LittleEndian.AppendUint32(head, uint32(ix.dims))
	head = binary.LittleEndian.AppendUint32(head, uint32(ix.o.M))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(f.nodes)))
	head = binary.LittleEndian.AppendUint32(head, f.entry)
	head = binary.LittleEndian.AppendUint64(head, ix.turn.seed)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	head = append(head, make([]byte, 4*ix.dims)...)
	vec.PutBytes(head[headBytes+4:], f.centre)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head[headBytes+4:], castagnoli))
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	var block []byte
	for from := 0; from < len(f.nodes); from += blockNodes {
		block = ix.appendBlock(block[:0], f, from, min(from+blockNodes, len(f.nodes)))
		if _, err := w.Write(block); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	return nil
}

// freeze copies the graph. The caller holds writers.
func (ix *Index) freeze() *frozen {
	n := len(ix.at)
	f := &frozen{
		centre: ix.centre,
		nodes:  make([]uint32, 0, n), terms: make([]uint64, 0, n), ends: make([]int, 0, n),
		lists: make([]byte, 0, n*(2+4*2*ix.o.M)),
	}
	number := make([]uint32, ix.nodes) // of a node among those that are there
	for node := range uint32(ix.nodes) {
		if ix.live(node) {
			number[node] = uint32(len(f.nodes))
			f.nodes = append(f.nodes, node)
			f.terms = append(f.terms, ix.terms[node])
		}
	}
	for _, node := range f.nodes {
		for l := range int(ix.levels[node]) + 1 {
			at, n := len(f.lists), uint16(0)
			f.lists = append(f.lists, 0, 0)
			for _, other := range ix.links(node, l) {
				if other == none {
					break
				}
				if ix.live(other) && other != node {
					f.lists = binary.LittleEndian.AppendUint32(f.lists, number[other])
					n++
				}
			}
			binary.LittleEndian.PutUint16(f.lists[at:], n)
		}
		f.ends = append(f.ends, len(f.lists))
	}
	if e := ix.entry.Load(); e != none {
		f.entry = number[e]
	}
	return f
}

// appendBlock appends the block of the nodes numbered from from to to.
func (ix *Index) appendBlock(b []byte, f *frozen, from, to int) []byte {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	b = binary.LittleEndian.AppendUint32(b, uint32(to-from))
	b = binary.LittleEndian.AppendUint32(b, 0)
	for i := from; i < to; i++ {
		node, begin := f.nodes[i], 0
		if i > 0 {
			begin = f.ends[i-1]
		}
		b = binary.LittleEndian.AppendUint64(b, ix.ids[node])
		b = append(b, ix.levels[node])
		for _, x := range ix.row(node) {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		b = binary.LittleEndian.AppendUint64(b, f.terms[i])
		b = append(b, ix.code(node)...)
		b = append(b, f.lists[begin:f.ends[i]]...)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
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
	if err := ix.readCentre(br); err != nil {
		return nil, err
	}
	var block []byte
	for left := nodes; left > 0; {
		var n uint64
		var err error
		if block, n, err = ix.readBlock(br, block, left, nodes); err != nil {
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

func (ix *Index) readCentre(r io.Reader) error {
	sum, err := vec.ReadBytes(r, ix.centre, 0, castagnoli)
	var want [4]byte
	if err == nil {
		_, err = io.ReadFull(r, want[:])
	}
	if err != nil {
		return index.CutShort(err)
	}
	if square := vec.Dot(ix.centre, ix.centre); sum != binary.LittleEndian.Uint32(want[:]) || !(square < 1.01) {
		return fmt.Errorf("%w: centre", index.ErrCorrupt)
	}
	return nil
}

// readBlock reads one block, by way of buf if that is large enough, and returns the
// buffer and the number of nodes.
func (ix *Index) readBlock(r io.Reader, buf []byte, left, nodes uint64) ([]byte, uint64, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, 0, index.CutShort(err)
	}
	n, size := uint64(binary.LittleEndian.Uint32(head[:])), int(binary.LittleEndian.Uint32(head[4:]))
	largest := 8 + 1 + 4*ix.dims + 8 + ix.turn.size/2 + 2 + 4*2*ix.o.M + maxLevel*(2+4*ix.o.M)
	if n == 0 || n > blockNodes || n > left || size > int(n)*largest {
		return nil, 0, fmt.Errorf("%w: a block of %d nodes", index.ErrCorrupt, n)
	}
	var err error
	if size+4 <= cap(buf) {
		buf = buf[:size+4]
		_, err = io.ReadFull(r, buf)
	} else {
		buf, err = index.ReadGrowing(r, size+4)
	}
	if err != nil {
		return nil, 0, index.CutShort(err)
	}
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, buf[:size])
	if sum != binary.LittleEndian.Uint32(buf[size:]) {
		return nil, 0, fmt.Errorf("%w: checksum of a block", index.ErrCorrupt)
	}
	d := reader{b: buf[:size]}
	for range n {
		if err := ix.readNode(&d, nodes); err != nil {
			return nil, 0, err
		}
	}
	if len(d.b) > 0 || d.short {
		return nil, 0, fmt.Errorf("%w: length of a block", index.ErrCorrupt)
	}
	return buf, n, nil
}

func (ix *Index) readNode(d *reader, nodes uint64) error {
	id, level := d.u64(), int(d.u8())
	if _, twice := ix.at[id]; twice || d.short || level > maxLevel {
		return fmt.Errorf("%w: node", index.ErrCorrupt)
	}
	node := ix.reserve(level)
	ix.ids[node], ix.at[id] = id, node
	row, raw := ix.row(node), d.take(4*ix.dims)
	for i := range row {
		row[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	t := term(d.u64())
	copy(ix.code(node), d.take(ix.turn.size/2))
	// The code only leads the walk, so it need not be compared with the vector.
	if length := vec.Dot(row, row); !(length > 0.999 && length < 1.001 && t.factor() > 0 && t.factor() < 4 && t.add() >= -4 && t.add() <= 4) {
		return fmt.Errorf("%w: a vector of length %v, terms %v and %v", index.ErrCorrupt, length, t.factor(), t.add())
	}
	ix.setTerm(node, t)
	for l := range level + 1 {
		list := ix.links(node, l)
		n := int(d.u16())
		if n > len(list) {
			return fmt.Errorf("%w: %d neighbours", index.ErrCorrupt, n)
		}
		raw := d.take(4 * n)
		for i := range list {
			if list[i] = none; i < n {
				list[i] = binary.LittleEndian.Uint32(raw[4*i:])
				if uint64(list[i]) >= nodes || list[i] == node {
					return fmt.Errorf("%w: neighbour", index.ErrCorrupt)
				}
			}
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
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
