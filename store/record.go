package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// A record is kept as two values, so that loading metadata does not read answers.
// All integers are little-endian; a text is a uvarint length and that many bytes.
//
// Metadata, version 1:
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
	metaVersion   = 1
	answerVersion = 1
	hasVector     = 1
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

// AppendMeta appends the metadata of r, which Check has passed.
func AppendMeta(dst []byte, r *Record) []byte {
	start := len(dst)
	flags := byte(0)
	if r.Vector != nil {
		flags |= hasVector
	}
	dst = append(dst, metaVersion, flags)
	dst = append(dst, r.Key[:]...)
	if r.Vector != nil {
		dst = append(dst, r.Partition[:]...)
		dst = appendText(dst, r.Space)
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
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Created.UnixMilli()))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Expires.UnixMilli()))
	dst = binary.AppendUvarint(dst, uint64(max(r.Cost, 0)))
	dst = binary.LittleEndian.AppendUint32(dst, r.InputTokens)
	dst = binary.LittleEndian.AppendUint32(dst, r.OutputTokens)
	dst = binary.AppendUvarint(dst, uint64(len(r.Answer)))
	if r.Vector != nil {
		dst = binary.AppendUvarint(dst, uint64(len(r.Vector)))
		for _, x := range r.Vector {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
		}
	}
	return binary.LittleEndian.AppendUint32(dst, checksum(r.ID, dst[start:]))
}

func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// DecodeMeta reads the metadata of record id. The record shares no memory with b
// and has no Answer. Damage gives ErrCorrupt, a newer version ErrVersion.
func DecodeMeta(id uint64, b []byte) (*Record, error) {
	body, err := verify(id, b, metaVersion)
	if err != nil {
		return nil, err
	}
	d := decoder{rest: body[1:]}
	r := &Record{ID: id}
	flags := d.byte()
	copy(r.Key[:], d.take(32))
	if flags&hasVector != 0 {
		copy(r.Partition[:], d.take(32))
		r.Space = d.text(MaxName)
	}
	for _, p := range [...]*string{&r.Tenant, &r.Namespace, &r.Op, &r.Model, &r.Digest, &r.Provider} {
		*p = d.text(MaxName)
	}
	for range d.length(MaxTags) {
		r.Tags = append(r.Tags, d.text(MaxName))
	}
	r.Canonical = []byte(d.text(MaxText))
	r.Prompt = d.text(MaxText)
	r.Created, r.Expires = time.UnixMilli(int64(d.u64())), time.UnixMilli(int64(d.u64()))
	r.Cost = time.Duration(d.length(math.MaxInt64))
	r.InputTokens, r.OutputTokens = d.u32(), d.u32()
	r.AnswerBytes = d.length(MaxText)
	if flags&hasVector != 0 {
		r.Vector = d.vector()
	}
	if d.bad || len(d.rest) != 0 || flags&^hasVector != 0 {
		return nil, fmt.Errorf("%w: metadata of %d", ErrCorrupt, id)
	}
	return r, nil
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

// verify checks the checksum and version of a value and returns it without the
// checksum.
func verify(id uint64, b []byte, version byte) ([]byte, error) {
	n := len(b) - 4
	if n < 1 || checksum(id, b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%w: checksum of %d", ErrCorrupt, id)
	}
	if b[0] > version {
		return nil, fmt.Errorf("%w: record %d has version %d", ErrVersion, id, b[0])
	}
	if b[0] != version {
		return nil, fmt.Errorf("%w: record %d has version %d", ErrCorrupt, id, b[0])
	}
	return b[:n], nil
}

// decoder takes values off a byte slice and remembers whether it ran out.
type decoder struct {
	rest []byte
	bad  bool
}

var zeros [32]byte

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return zeros[:min(n, len(zeros))]
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte  { return d.take(1)[0] }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

// length reads a number of at most limit.
func (d *decoder) length(limit int) int {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || v > uint64(limit) {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

func (d *decoder) text(limit int) string {
	n := d.length(limit)
	if n > len(d.rest) {
		d.bad = true
		return ""
	}
	return string(d.take(n))
}

func (d *decoder) vector() []float32 {
	n := d.length(MaxVector)
	if 4*n > len(d.rest) {
		d.bad = true
		return nil
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(d.u32())
	}
	return v
}
