package cache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

// LoadReport says what Load found.
type LoadReport struct {
	store.LoadReport
	Snapshot bool // the entries came from a snapshot
	Replayed int  // changes since the snapshot
}

// Load reads the entries into memory, from the last snapshot and the changes since or,
// if that cannot be, from the store's records; afterwards Ready is true. It is called
// once. Its error is ctx's or the store's; the engine then stays not ready.
func (e *Engine) Load(ctx context.Context) (LoadReport, error) {
	report, err := e.restore(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return report, ctx.Err()
	default:
		if !errors.Is(err, store.ErrNotFound) {
			e.o.Log.Warn("the snapshot is of no use; the records are loaded", "error", err)
		}
		e.clear()
		report = LoadReport{}
		if report.LoadReport, err = e.loadRecords(ctx); err != nil {
			return report, err
		}
	}
	e.shrink(len(e.byID))
	e.ready.Store(true)
	return report, nil
}

// clear takes out what a failed restore has put in.
func (e *Engine) clear() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, en := range e.byID {
		e.removeLocked(en)
	}
	clear(e.parts)
	e.covered.Store(0)
}

// loadRecords reads the store's records.
func (e *Engine) loadRecords(ctx context.Context) (store.LoadReport, error) {
	var superseded []uint64
	report, err := e.o.Store.Load(ctx, e.o.Now().Add(-e.o.KeepStale), func(r *store.Record) error {
		superseded = append(superseded, e.adopt(r)...)
		return nil
	})
	if err != nil {
		return report, err
	}
	e.lastID.Store(max(report.LastID, e.lastID.Load()))
	return report, e.eraseSuperseded(superseded)
}

// eraseSuperseded finishes replacements: a crash came between the commits of an entry
// and of the removal of the one it replaced.
func (e *Engine) eraseSuperseded(ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.eraseLocked(ids, nil)
}

// adopt makes a record an entry. It returns the ID of an older entry of the same key, if
// there was one.
func (e *Engine) adopt(r *store.Record) (superseded []uint64) {
	en := &entry{
		id: r.ID, key: r.Key, tenant: r.Tenant, namespace: r.Namespace,
		op: r.Op, model: r.Model, digest: r.Digest, provider: r.Provider,
		tags: r.Tags, canonical: r.Canonical, prompt: r.Prompt,
		created: r.Created, input: int(r.InputTokens), output: int(r.OutputTokens), answerBytes: r.AnswerBytes,
	}
	en.Cost, en.Expires = r.Cost, r.Expires
	en.durable.Store(true)
	old := e.insert(en)
	if r.Vector != nil {
		if err := e.attach(en, r.Partition, r.Space, r.Vector, nil); err != nil {
			e.o.Log.Warn("entry is exact-only: its vector cannot be indexed", "id", r.ID, "error", err)
		}
	}
	e.lastID.Store(max(r.ID, e.lastID.Load()))
	if old == nil {
		return nil
	}
	return []uint64{old.id}
}

// restore loads the snapshot and makes the changes since. On an error the engine is left
// half filled.
func (e *Engine) restore(ctx context.Context) (LoadReport, error) {
	report := LoadReport{Snapshot: true}
	if e.o.LoadIndex == nil {
		return report, store.ErrNotFound
	}
	seq, file, err := e.o.Store.Snapshot()
	if err != nil {
		return report, err
	}
	defer file.Close()
	in, done := readAhead(file)
	defer func() { in.end(); <-done }()
	s := &restoring{e: e, ctx: ctx, r: in, now: e.o.Now().Add(-e.o.KeepStale), report: &report}
	holdCollector()
	err = s.read()
	go releaseCollector()
	if err != nil {
		return report, err
	}
	if err := s.replay(seq); err != nil {
		return report, err
	}
	if err := s.tidy(); err != nil {
		return report, err
	}
	e.covered.Store(seq)
	report.Records, report.LastID = len(e.byID), e.lastID.Load()
	return report, e.eraseSuperseded(s.superseded)
}

// restoring reads one snapshot.
type restoring struct {
	e      *Engine
	ctx    context.Context
	r      io.Reader
	now    time.Time
	report *LoadReport

	names      []string
	waiting    []member // entries by the number of their partition, until it is read
	parts      []*partition
	loose      []loose
	superseded []uint64
}

// member is an entry that belongs to a partition, or one that has expired: then only its
// vector is there still.
type member struct {
	entry   *entry
	part    int
	id      uint64
	callers bool
}

func bad(what string) error { return fmt.Errorf("%w: snapshot: %s", store.ErrCorrupt, what) }

// mostHeld bounds what is made ready for as many entries as a snapshot claims to have.
const mostHeld = 1 << 21

func (s *restoring) read() error {
	var head [len(snapshotMagic) + 16]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return index.CutShort(err)
	}
	magic, rest := string(head[:len(snapshotMagic)]), head[len(snapshotMagic):]
	if magic[:7] != snapshotMagic[:7] {
		return bad("not one")
	}
	if magic != snapshotMagic {
		return fmt.Errorf("%w: snapshot %d", store.ErrVersion, magic[7])
	}
	e := s.e
	e.lastID.Store(max(binary.LittleEndian.Uint64(rest), e.lastID.Load()))
	n := int(min(binary.LittleEndian.Uint64(rest[8:]), mostHeld))
	e.mu.Lock()
	e.byKey, e.byID = make(map[Key]*entry, n), make(map[uint64]*entry, n)
	e.policy.Sketch().Grow(n)
	e.mu.Unlock()
	entries := decode(s.ctx, s.entries)
	err := s.readEntries(entries)
	if err == nil {
		err = s.readIndexes(entries)
	}
	if err2 := entries.finish(); err2 != nil {
		return err2
	}
	if err != nil {
		return err
	}
	if err := s.join(); err != nil {
		return err
	}
	return s.readLoose()
}

func (s *restoring) u32() (int, error) {
	var b [4]byte
	if _, err := io.ReadFull(s.r, b[:]); err != nil {
		return 0, index.CutShort(err)
	}
	return int(binary.LittleEndian.Uint32(b[:])), nil
}

func (s *restoring) readEntries(d *decoding) error {
	for {
		n, err := s.u32()
		if err != nil || n == 0 || d.failed.Load() {
			return err
		}
		block, err := s.block(n)
		if err != nil {
			return index.CutShort(err)
		}
		d.add(block)
	}
}

func (s *restoring) block(n int) ([]byte, error) {
	if n > 2*snapshotBlock {
		return index.ReadGrowing(s.r, n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(s.r, b)
	return b, err
}

// entries makes entries of a block.
func (s *restoring) entries(block []byte) (err error) {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for c := (cursor{rest: block}); len(c.rest) > 0 && err == nil; {
		err = s.entryLocked(&c)
	}
	return err
}

// entryLocked reads one entry. Nothing of it points into the block.
func (s *restoring) entryLocked(c *cursor) error {
	en := &entry{id: c.u64()}
	copy(en.key[:], c.take(len(en.key)))
	en.created, en.Expires = time.UnixMilli(int64(c.u64())), time.UnixMilli(int64(c.u64()))
	use, flags := c.take(1)[0], c.take(1)[0]
	en.Cost = time.Duration(c.number(math.MaxInt64))
	en.input, en.output = c.number(math.MaxUint32), c.number(math.MaxUint32)
	en.answerBytes = c.number(store.MaxText)
	part := c.number(math.MaxInt32)
	for _, name := range [...]*string{&en.tenant, &en.namespace, &en.op, &en.model, &en.digest, &en.provider} {
		*name = s.name(c)
	}
	if n := c.number(store.MaxTags); n > 0 {
		en.tags = make([]string, n)
		for i := range en.tags {
			en.tags[i] = s.name(c)
		}
	}
	en.canonical = append([]byte(nil), c.take(c.number(store.MaxText))...)
	en.prompt = string(c.take(c.number(store.MaxText)))
	if c.bad || en.id == 0 {
		return bad("an entry is cut short")
	}
	m := member{entry: en, part: part - 1, id: en.id, callers: flags&callersVector != 0}
	if !en.Expires.After(s.now) {
		s.report.Expired++
		m.entry = nil
	} else {
		en.durable.Store(true)
		if s.e.byID[en.id] != nil || s.e.insertLocked(en) != nil {
			return bad("an entry is there twice")
		}
		for range use {
			s.e.policy.Use(en.Hash)
		}
	}
	if part > 0 {
		s.waiting = append(s.waiting, m)
	}
	return nil
}

func (s *restoring) name(c *cursor) string {
	n := c.number(len(s.names))
	if c.bad || n < len(s.names) {
		if c.bad {
			return ""
		}
		return s.names[n]
	}
	name := string(c.take(c.number(store.MaxName)))
	s.names = append(s.names, name)
	return name
}

func (s *restoring) readIndexes(d *decoding) error {
	n, err := s.u32()
	if err != nil {
		return err
	}
	chunks := bufio.NewReaderSize(nil, readBuffer)
	for range n {
		if err := s.ctx.Err(); err != nil || d.failed.Load() {
			return err
		}
		p := new(partition)
		if _, err := io.ReadFull(s.r, p.id[:]); err != nil {
			return index.CutShort(err)
		}
		dims, err := s.u32()
		if err != nil {
			return err
		}
		c := &chunkReader{r: s.r}
		chunks.Reset(c)
		if p.index, err = s.e.o.LoadIndex(chunks); err != nil {
			return err
		}
		if p.index.Dims() != dims {
			return bad("an index of other dimensions")
		}
		if _, err := io.Copy(io.Discard, c); err != nil { // what the index did not ask for
			return err
		}
		s.parts = append(s.parts, p)
	}
	return nil
}

// join makes the entries members of their partitions.
func (s *restoring) join() error {
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range s.waiting {
		if m.part >= len(s.parts) {
			return bad("an entry of a partition that is not there")
		}
		p := s.parts[m.part]
		if m.entry == nil {
			s.loose = append(s.loose, loose{p.id, m.id})
			continue
		}
		e.joinLocked(m.entry, p, m.callers)
	}
	s.waiting = nil
	for _, p := range s.parts {
		if e.parts[p.id] != nil {
			return bad("a partition is there twice")
		}
		e.parts[p.id] = p
	}
	return nil
}

func (s *restoring) readLoose() error {
	n, err := s.u32()
	if err != nil {
		return err
	}
	var b [12]byte
	for range n {
		if _, err := io.ReadFull(s.r, b[:]); err != nil {
			return index.CutShort(err)
		}
		part := int(binary.LittleEndian.Uint32(b[:]))
		if part >= len(s.parts) {
			return bad("a loose vector of a partition that is not there")
		}
		s.loose = append(s.loose, loose{s.parts[part].id, binary.LittleEndian.Uint64(b[4:])})
	}
	if _, err := io.ReadFull(s.r, make([]byte, 1)); err != io.EOF {
		return bad("something follows the end")
	}
	return nil
}

// replay makes the changes after number seq.
func (s *restoring) replay(seq uint64) error {
	e := s.e
	return e.o.Store.Changes(s.ctx, seq, func(c store.Change) error {
		s.report.Replayed++
		for _, id := range c.Deleted {
			e.lastID.Store(max(id, e.lastID.Load()))
		}
		e.forget(c.Deleted)
		if r := c.Put; r != nil {
			e.forget([]uint64{r.ID}) // as the snapshot has it
			e.lastID.Store(max(r.ID, e.lastID.Load()))
			if r.Expires.After(s.now) {
				s.superseded = append(s.superseded, e.adopt(r)...)
			}
		}
		return nil
	})
}

// tidy removes loose vectors that no entry has, and checks that nothing is left over.
func (s *restoring) tidy() error {
	e := s.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range s.loose {
		p := e.parts[l.part]
		if en := e.byID[l.id]; p != nil && (en == nil || en.part != p) {
			p.index.Remove(l.id)
		}
	}
	for id, p := range e.parts {
		if p.live == 0 {
			delete(e.parts, id)
			continue
		}
		if p.index.Len() != p.live {
			return bad(fmt.Sprintf("%d vectors of %d entries", p.index.Len(), p.live))
		}
	}
	return nil
}

// forget removes entries from memory only.
func (e *Engine) forget(ids []uint64) {
	e.mu.Lock()
	_, vectors := e.forgetLocked(ids)
	e.mu.Unlock()
	vectors.remove()
}

// cursor takes values off a block and remembers whether it ran out.
type cursor struct {
	rest []byte
	bad  bool
}

var zeros [32]byte

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.rest) {
		c.bad = true
		return zeros[:min(n, len(zeros))]
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// number reads a number of at most limit.
func (c *cursor) number(limit int) int {
	v, n := binary.Uvarint(c.rest)
	if c.bad || n <= 0 || v > uint64(limit) {
		c.bad = true
		return 0
	}
	c.rest = c.rest[n:]
	return int(v)
}
