package bolt

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// The data file, format 2, is a bbolt file with a few large buckets. Keys are
// big-endian, so that bbolt's order is that of the numbers; values are
// little-endian and end in a CRC-32C, because bbolt has no checksums on its pages.
//
//	bucket      key                      value
//	meta        "format"                 u32 2, without a checksum: format 1 reads it
//	meta        "state"                  see below
//	space       generation u32, from 1   u32 dimensions; the identity of the vector
//	                                     space; CRC of generation (4 bytes, big-endian)
//	                                     and the bytes before
//	entry       ID u64                   store.AppendMeta
//	answer      ID u64                   store.AppendAnswer
//	expiry      Expires (Unix ms) u64,   empty
//	            ID u64
//	log         change u64               u8 1 = put, 2 = delete; u64 ID for each record;
//	                                     CRC of the key and the bytes before
//	quarantine  ID u64                   damaged metadata as it was, at most 1000
//
// State is written with every commit:
//
//	u64  number of the last change
//	u64  highest ID ever committed
//	u64  records
//	u64  since: the log has every change after this number; keys up to it are
//	     leftovers that later commits remove
//	u8   number of lives, at most 16, oldest first, each
//	     u64 random name, u64 number of the last change before it
//	u32  CRC of "state" and the bytes before
//
// A life is the time from opening the file to closing it, and begins with the first
// commit. Change numbers name changes within a life only: a copy of the file that is
// restored, or a file that fell back to an older meta page, counts on in a life of
// its own. A snapshot names the life it was made in; it belongs to the file if the
// file had that life and the snapshot does not reach beyond its end.
//
// Example: the log of a file whose first change stored record 7 has the key
// 00 00 00 00 00 00 00 01 with the value 01 07 00 00 00 00 00 00 00 and a checksum.
//
// Format 1 had no space, log and state: meta had "last_id" (u64), and entries were
// metadata of version 1. Such a file is rebuilt when it is opened. The format number
// changes when a reader of the old one would go wrong; a higher one is refused with
// store.ErrVersion.
const format = 2

var (
	bucketMeta       = []byte("meta")
	bucketSpace      = []byte("space")
	bucketEntry      = []byte("entry")
	bucketAnswer     = []byte("answer")
	bucketExpiry     = []byte("expiry")
	bucketLog        = []byte("log")
	bucketQuarantine = []byte("quarantine")

	keyFormat = []byte("format")
	keyState  = []byte("state")
	keyLastID = []byte("last_id") // format 1
)

// buckets returns the buckets of a format.
func buckets(format uint32) [][]byte {
	all := [][]byte{bucketMeta, bucketEntry, bucketAnswer, bucketExpiry, bucketQuarantine}
	if format > 1 {
		all = append(all, bucketSpace, bucketLog)
	}
	return all
}

const (
	maxQuarantined = 1000
	maxLives       = 16

	logPut    = 1
	logDelete = 2

	// maxLog bounds the log, for those who never save a snapshot: reading it
	// must stay cheaper than reading all records.
	maxLog = 1 << 18
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the checksum of key and value to value.
func seal(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return binary.LittleEndian.AppendUint32(value, sum)
}

// unseal returns a value without its checksum, nil if that is wrong.
func unseal(key, value []byte) []byte {
	n := len(value) - 4
	if n < 0 {
		return nil
	}
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[:n])
	if sum != binary.LittleEndian.Uint32(value[n:]) {
		return nil
	}
	return value[:n]
}

// state is what changes with every commit.
type state struct {
	seq, lastID, records, since uint64
	lives                       []life
}

// life is one opening of the file that changed it.
type life struct {
	name  uint64
	after uint64 // last change before it
}

func newLife() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// enter makes sure that the last life is that of name.
func (st *state) enter(name uint64) {
	if n := len(st.lives); n > 0 && st.lives[n-1].name == name {
		return
	}
	lives := append(st.lives[:len(st.lives):len(st.lives)], life{name, st.seq})
	st.lives = lives[max(0, len(lives)-maxLives):]
}

// had reports whether change seq, made in the life of that name, is part of the
// history that led here.
func (st *state) had(name, seq uint64) bool {
	for i, l := range st.lives {
		if l.name != name {
			continue
		}
		if i+1 < len(st.lives) {
			return seq <= st.lives[i+1].after
		}
		return seq <= st.seq
	}
	return false
}

func (st *state) append(dst []byte) []byte {
	start := len(dst)
	for _, v := range []uint64{st.seq, st.lastID, st.records, st.since} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	dst = append(dst, byte(len(st.lives)))
	for _, l := range st.lives {
		dst = binary.LittleEndian.AppendUint64(dst, l.name)
		dst = binary.LittleEndian.AppendUint64(dst, l.after)
	}
	return append(dst[:start], seal(keyState, dst[start:])...)
}

func decodeState(value []byte) (state, error) {
	b := unseal(keyState, value)
	if len(b) < 33 || len(b) != 33+16*int(b[32]) || b[32] > maxLives {
		return state{}, fmt.Errorf("%w: state", store.ErrCorrupt)
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	st := state{seq: u64(0), lastID: u64(8), records: u64(16), since: u64(24)}
	for at := 33; at < len(b); at += 16 {
		st.lives = append(st.lives, life{u64(at), u64(at + 8)})
	}
	return st, nil
}

// readState reads the state of a file of either format; format 1 knows its highest ID
// only.
func readState(tx *bbolt.Tx) (state, error) {
	meta := tx.Bucket(bucketMeta)
	if formatOf(tx) == 1 {
		var st state
		if v := meta.Get(keyLastID); len(v) == 8 {
			st.lastID = binary.LittleEndian.Uint64(v)
		}
		return st, nil
	}
	return decodeState(meta.Get(keyState))
}

// formatOf returns the file's format, 0 if it has none.
func formatOf(tx *bbolt.Tx) uint32 {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 0
	}
	v := meta.Get(keyFormat)
	if len(v) != 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(v)
}

// readSpaces returns the dictionary of vector spaces. Damaged ones are missing, and
// records that name them are damaged.
func readSpaces(tx *bbolt.Tx) map[uint32]store.Space {
	spaces := make(map[uint32]store.Space)
	b := tx.Bucket(bucketSpace)
	if b == nil {
		return spaces
	}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		v = unseal(k, v)
		if len(k) == 4 && len(v) >= 4 && binary.LittleEndian.Uint32(v) <= store.MaxVector {
			dims := int(binary.LittleEndian.Uint32(v))
			spaces[binary.BigEndian.Uint32(k)] = store.Space{Identity: string(v[4:]), Dims: dims}
		}
	}
	return spaces
}

func spaceKey(generation uint32) []byte { return binary.BigEndian.AppendUint32(nil, generation) }

func spaceValue(key []byte, s store.Space) []byte {
	v := binary.LittleEndian.AppendUint32(nil, uint32(s.Dims))
	return seal(key, append(v, s.Identity...))
}

// change is one entry of the log.
type change struct {
	kind byte
	ids  []uint64
}

func (c change) value(key []byte) []byte {
	v := append(make([]byte, 0, 1+8*len(c.ids)+4), c.kind)
	for _, id := range c.ids {
		v = binary.LittleEndian.AppendUint64(v, id)
	}
	return seal(key, v)
}

func decodeChange(key, value []byte) (change, bool) {
	b := unseal(key, value)
	if len(b) < 1 || (len(b)-1)%8 != 0 || (b[0] != logPut && b[0] != logDelete) || (b[0] == logPut && len(b) != 9) {
		return change{}, false
	}
	c := change{kind: b[0]}
	for b = b[1:]; len(b) > 0; b = b[8:] {
		c.ids = append(c.ids, binary.LittleEndian.Uint64(b))
	}
	return c, true
}

// idKey is the key of a record, or of a change.
func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func expiryKey(expires time.Time, id uint64) []byte {
	return binary.BigEndian.AppendUint64(idKey(uint64(min(max(expires.UnixMilli(), 0), math.MaxInt64))), id)
}
