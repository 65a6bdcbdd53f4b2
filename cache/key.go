package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// Key material is laid out as a version string and fields, each with its length
// in front as a 64-bit big-endian number, so that no two lists of fields give
// the same bytes. The version changes with the layout or with what the fields
// mean; entries of another version are never found.
const (
	keyVersion       = "semcached exact key 1"
	partitionVersion = "semcached partition 1"
)

// hash is the key for tables that need fewer bits.
func (k Key) hash() uint64 { return binary.LittleEndian.Uint64(k[:8]) }

var hashBuffers = sync.Pool{New: func() any { return new([]byte) }}

// Key returns the exact key of q: SHA-256 over tenant, namespace, operation,
// model, canonical request and, if there is one, provider.
func (q *Query) Key() Key {
	if !q.keyed {
		var rest [1]string
		q.key = hashFields(keyVersion, q.Tenant, q.Namespace, q.Op, q.Model, q.Canonical, q.provider(rest[:0])...)
		q.keyed = true
	}
	return q.key
}

// partition returns the partition of q in a vector space: everything in the
// request but the prompt.
func (q *Query) partition(space string) Key {
	rest := [2]string{space}
	return hashFields(partitionVersion, q.Tenant, q.Namespace, q.Op, q.Model, q.Scope, q.provider(rest[:1])...)
}

// WithProvider returns a copy of q for the answers of another source. What has been
// computed for q and holds for the copy is kept, the vector above all.
func (q *Query) WithProvider(provider string) *Query {
	c := *q
	c.Provider, c.Digest, c.keyed = provider, "", false
	c.note = nil // it belongs to the other partition
	if c.vec != nil {
		c.part = c.partition(c.space)
	}
	return &c
}

// provider appends q's provider to the fields of a hash. "" adds no field: a list
// of fewer fields gives other bytes than any longer one.
func (q *Query) provider(fields []string) []string {
	if q.Provider == "" {
		return fields
	}
	return append(fields, q.Provider)
}

// hashFields hashes the fields in order; tail is between model and rest.
func hashFields(version, tenant, namespace, op, model string, body []byte, rest ...string) Key {
	buf := hashBuffers.Get().(*[]byte)
	b := (*buf)[:0]
	for _, f := range [...]string{version, tenant, namespace, op, model} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	for _, f := range rest {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	sum := sha256.Sum256(b)
	*buf = b
	if cap(b) <= maxPooled {
		hashBuffers.Put(buf)
	}
	return sum
}

// maxPooled keeps one huge request from pinning its buffer.
const maxPooled = 64 << 10
