package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unsafe"
)

// A record is kept as two values, so that loading metadata does not read answers.
// All integers are little-endian; a text is a uvarint length and that many bytes.
//
// Metadata, version 2:
//
//	u8       version, 2
//	u8       flags: 1 = has a vector
//	i64      Expires, Created (Unix milliseconds)
//	u32      generation: names Space and dimensions in the store's dictionary;
//	         0 without a vector
//	32 bytes Key
//	32 bytes Partition, if it has a vector
//	text     Tenant, Namespace, Op, Model, Digest, Provider
//	uvarint  number of Tags, each a text
//	text     Canonical, Prompt
//	uvarint  Cost (nanoseconds)
//	u32      InputTokens, OutputTokens
//	uvarint  AnswerBytes
//	float32  the vector, as many as the generation has dimensions, if it has one
//	u32      CRC-32C of the record's ID (8 bytes) and all bytes before
//
// Metadata, version 1, which is read but no longer written:
//
//	u8       version, 1
//	u8       flags: 1 = has a vector
//	32 bytes Key
//	32 bytes Partition, if it has a vector
//	text     Space, if it has a vector
//	text     Tenant, Namespace, Op, Model, Digest, Provider
//	uvarint  number of Tags, each a text
//	text     Canonical, Prompt
//	i64      Created, Expires (Unix milliseconds)
//	uvarint  Cost (nanoseconds)
//	u32      InputTokens, OutputTokens
//	uvarint  AnswerBytes
//	uvarint  dimensions and that many float32, if it has a vector
//	u32      CRC-32C of the record's ID (8 bytes) and all bytes before
//
// Answer, version 1:
//
//	u8       version, 1
//	bytes    the answer
//	u32      CRC-32C of the record's ID (8 bytes) and all bytes before
//
// The ID is in both checksums: a value that turns up under another ID is damaged.
// Example: answer "hi" of record 1 is 01 68 69 and four bytes of checksum.
//
// A change of either layout takes a new version; readers keep the old ones.
const (
	metaVersion   = 2
	answerVersion = 1
	hasVector     = 1

	// expiresAt is where Expires lies in metadata of version 2.
	expiresAt = 2
)

// Limits of a record; beyond them Put returns ErrTooLarge and a reader sees damage.
const (
	MaxText   = 32 << 20 // bytes of Canonical, Prompt and Answer each
	MaxName   = 4 << 10  // bytes of every other text
	MaxTags   = 64
	MaxVector = 1 << 16 // dimensions
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(id uint64, b []byte) uint32 {
	var key [8]byte
	binary.LittleEndian.PutUint64(key[:], id)
	return crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, b)
}

// Check returns ErrTooLarge, with the field's name, if r exceeds a limit.
func (r *Record) Check() error {
	tooLarge := func(what string) error { return fmt.Errorf("%w: %s", ErrTooLarge, what) }
	switch {
	case r.ID == 0:
		return errors.New("store: record has no ID")
	case len(r.Canonical) > MaxText:
		return tooLarge("canonical request")
	case len(r.Prompt) > MaxText:
		return tooLarge("prompt")
	case len(r.Answer) > MaxText:
		return tooLarge("answer")
	case len(r.Vector) > MaxVector:
		return tooLarge("vector")
	case len(r.Tags) > MaxTags:
		return tooLarge("tags")
	}
	for _, s := range append([]string{r.Space, r.Tenant, r.Namespace, r.Op, r.Model, r.Digest, r.Provider}, r.Tags...) {
		if len(s) > MaxName {
			return tooLarge("a name or tag")
		}
	}
	return nil
}

// Space is what one generation of embeddings has in common.
type Space struct {
	Identity string // Record.Space
	Dims     int    // len(Record.Vector)
}

// AppendMeta appends the metadata of r, which Check has passed. generation stands
// for r's Space and dimensions, and is not looked at when r has no vector.
func AppendMeta(dst []byte, r *Record, generation uint32) []byte {
	start := len(dst)
	flags := byte(0)
	if r.Vector != nil {
		flags |= hasVector
	} else {
		generation = 0
	}
	dst = append(dst, metaVersion, flags)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Expires.UnixMilli()))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Created.UnixMilli()))
	dst = binary.LittleEndian.AppendUint32(dst, generation)
	dst = append(dst, r.Key[:]...)
	if r.Vector != nil {
		dst = append(dst, r.Partition[:]...)
	}
	for _, s := range [...]string{r.Tenant, r.Namespace, r.Op, r.Model, r.Digest, r.Provider} {
		dst = appendText(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Tags)))
	for _, s := range r.Tags {
		dst = appendText(dst, s)
	}
	dst = appendText(dst, r.Canonical)
	dst = appendText(dst, r.Prompt)
	dst = binary.AppendUvarint(dst, uint64(max(r.Cost, 0)))
	dst = binary.LittleEndian.AppendUint32(dst, r.InputTokens)
	dst = binary.LittleEndian.AppendUint32(dst, r.OutputTokens)
	dst = binary.AppendUvarint(dst, uint64(len(r.Answer)))
	for _, x := range r.Vector {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
	}
	return binary.LittleEndian.AppendUint32(dst, checksum(r.ID, dst[start:]))
}

func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// Decoder reads metadata. It keeps one copy of names that repeat, such as a model's.
// It is for one goroutine.
type Decoder struct {
	spaces map[uint32]Space
	names  map[string]string
}

// maxNames bounds the names that a Decoder remembers.
const maxNames = 4096

// NewDecoder returns a Decoder that finds vector spaces in spaces by generation.
func NewDecoder(spaces map[uint32]Space) *Decoder {
	return &Decoder{spaces: spaces, names: make(map[string]string)}
}

// Meta reads the metadata of record id. The record shares no memory with b and has
// no Answer. Damage gives ErrCorrupt, a newer version ErrVersion.
func (d *Decoder) Meta(id uint64, b []byte) (*Record, error) {
	body, err := verify(id, b, metaVersion)
	if err != nil {
		return nil, err
	}
	r, f := &Record{ID: id}, fields{rest: body[1:], names: d.names}
	if body[0] == 1 {
		f.meta1(r)
	} else {
		f.meta2(r, d.spaces)
	}
	if f.bad || len(f.rest) != 0 {
		return nil, fmt.Errorf("%w: metadata of %d", ErrCorrupt, id)
	}
	return r, nil
}

func (f *fields) meta1(r *Record) {
	flags := f.flags()
	copy(r.Key[:], f.take(32))
	if flags&hasVector != 0 {
		copy(r.Partition[:], f.take(32))
		r.Space = f.name()
	}
	f.texts(r)
	r.Created, r.Expires = f.time(), f.time()
	f.figures(r)
	if flags&hasVector != 0 {
		r.Vector = f.vector(f.length(MaxVector))
	}
}

func (f *fields) meta2(r *Record, spaces map[uint32]Space) {
	flags := f.flags()
	r.Expires, r.Created = f.time(), f.time()
	generation := f.u32()
	copy(r.Key[:], f.take(32))
	if flags&hasVector != 0 {
		copy(r.Partition[:], f.take(32))
	}
	f.texts(r)
	f.figures(r)
	if flags&hasVector != 0 {
		space, known := spaces[generation]
		f.bad = f.bad || !known
		r.Space, r.Vector = space.Identity, f.vector(space.Dims)
	}
}

// texts reads what versions 1 and 2 have in the same order.
func (f *fields) texts(r *Record) {
	for _, p := range [...]*string{&r.Tenant, &r.Namespace, &r.Op, &r.Model, &r.Digest, &r.Provider} {
		*p = f.name()
	}
	if n := f.length(MaxTags); n > 0 {
		r.Tags = make([]string, n)
		for i := range r.Tags {
			r.Tags[i] = f.name()
		}
	}
	r.Canonical = append([]byte{}, f.text(MaxText)...)
	r.Prompt = string(f.text(MaxText))
}

func (f *fields) figures(r *Record) {
	r.Cost = time.Duration(f.length(math.MaxInt64))
	r.InputTokens, r.OutputTokens = f.u32(), f.u32()
	r.AnswerBytes = f.length(MaxText)
}

// MetaExpires returns when a record expires and verifies its metadata's checksum,
// without decoding it. Errors as of Decoder.Meta; metadata of version 1 is ErrCorrupt.
func MetaExpires(id uint64, b []byte) (time.Time, error) {
	body, err := verify(id, b, metaVersion)
	if err != nil {
		return time.Time{}, err
	}
	if body[0] != metaVersion || len(body) < expiresAt+8 {
		return time.Time{}, fmt.Errorf("%w: metadata of %d", ErrCorrupt, id)
	}
	return time.UnixMilli(int64(binary.LittleEndian.Uint64(body[expiresAt:]))), nil
}

// AppendAnswer appends the stored form of the answer of record id.
func AppendAnswer(dst []byte, id uint64, answer []byte) []byte {
	start := len(dst)
	dst = append(dst, answerVersion)
	dst = append(dst, answer...)
	return binary.LittleEndian.AppendUint32(dst, checksum(id, dst[start:]))
}

// DecodeAnswer returns a copy of the answer in b. Damage gives ErrCorrupt, a
// newer version ErrVersion.
func DecodeAnswer(id uint64, b []byte) ([]byte, error) {
	body, err := verify(id, b, answerVersion)
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 0, len(body)-1), body[1:]...), nil
}

// CheckAnswer returns DecodeAnswer's error without copying the answer.
func CheckAnswer(id uint64, b []byte) error {
	_, err := verify(id, b, answerVersion)
	return err
}

// verify checks the checksum and version of a value and returns it without the
// checksum.
func verify(id uint64, b []byte, newest byte) ([]byte, error) {
	n := len(b) - 4
	if n < 1 || checksum(id, b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%w: checksum of %d", ErrCorrupt, id)
	}
	if b[0] > newest {
		return nil, fmt.Errorf("%w: record %d has version %d", ErrVersion, id, b[0])
	}
	if b[0] == 0 {
		return nil, fmt.Errorf("%w: record %d has version 0", ErrCorrupt, id)
	}
	return b[:n], nil
}

// fields takes values off a byte slice and remembers whether it ran out.
type fields struct {
	rest  []byte
	bad   bool
	names map[string]string
}

var zeros [32]byte

// littleEndian: float32 lies in memory as in a record.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func (f *fields) take(n int) []byte {
	if f.bad || n > len(f.rest) {
		f.bad = true
		return zeros[:min(n, len(zeros))]
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) byte() byte      { return f.take(1)[0] }
func (f *fields) u32() uint32     { return binary.LittleEndian.Uint32(f.take(4)) }
func (f *fields) u64() uint64     { return binary.LittleEndian.Uint64(f.take(8)) }
func (f *fields) time() time.Time { return time.UnixMilli(int64(f.u64())) }

func (f *fields) flags() byte {
	flags := f.byte()
	f.bad = f.bad || flags&^hasVector != 0
	return flags
}

// length reads a number of at most limit.
func (f *fields) length(limit int) int {
	v, n := binary.Uvarint(f.rest)
	if f.bad || n <= 0 || v > uint64(limit) {
		f.bad = true
		return 0
	}
	f.rest = f.rest[n:]
	return int(v)
}

// text returns a text within the slice that is read.
func (f *fields) text(limit int) []byte {
	n := f.length(limit)
	if f.bad || n > len(f.rest) {
		f.bad = true
		return nil
	}
	return f.take(n)
}

// name reads a text that other records are likely to have as well.
func (f *fields) name() string {
	b := f.text(MaxName)
	if s, ok := f.names[string(b)]; ok {
		return s
	}
	if len(f.names) >= maxNames {
		clear(f.names)
	}
	s := string(b)
	f.names[s] = s
	return s
}

func (f *fields) vector(n int) []float32 {
	if f.bad || 4*n > len(f.rest) {
		f.bad = true
		return nil
	}
	v, b := make([]float32, n), f.take(4*n)
	if n > 0 && littleEndian { // at start this is most of the bytes that are decoded
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*n), b)
		return v
	}
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}
