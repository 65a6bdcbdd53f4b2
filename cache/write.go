package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/store"
)

const (
	// entryOverhead is the memory of an entry beyond its texts, vector and
	// answer: the struct, three map slots and the index's row bookkeeping.
	entryOverhead = 512
	// maxShare is the part of MaxBytes that one entry may take.
	maxShare = 8
	// maxDims bounds callers' vectors.
	maxDims = 1 << 16
)

// Store keeps a as the answer to q, replacing the entry of the same key. It
// returns the entry's ID once lookups find it, or, with Sync, once it is
// durable; without Sync an error of the disk costs durability, not the entry.
// Errors: ErrLoading, ErrNoAnswer, ErrTooLarge, ErrVector, ErrInvalidated, and
// with Sync those of the store and of ctx.
func (e *Engine) Store(ctx context.Context, q *Query, a Answer, o StoreOptions) (uint64, error) {
	en, err := e.admit(q, a, o)
	if err != nil {
		e.rejected(err)
		return 0, err
	}
	if o.Embed && q.vec == nil && q.prepare() == "" {
		e.embed(ctx, q) // on failure the entry is embedded later
	}
	late := q.vec == nil && q.Scope != nil && q.Mode == ModeSemantic && e.o.Embedder != nil && q.prepare() == ""
	var durable chan error
	if o.Sync {
		durable = make(chan error, 1)
	}
	if err := e.put(q, en, a.Encoded, durable); err != nil {
		e.rejected(err)
		return 0, err
	}
	e.shrink(maxEvictions)
	if late {
		e.embedLater(en, q)
	}
	if o.Sync {
		if err := await(ctx, durable); err != nil {
			e.count.storeFailed.Add(1)
			e.drop([]uint64{en.id}, "")
			e.rejected(err)
			return 0, fmt.Errorf("make entry durable: %w", err)
		}
	}
	e.count.stored.Add(1)
	e.report("stored")
	return en.id, nil
}

// admit checks a Store and makes its entry. It gives q its vector if that came
// with the request.
func (e *Engine) admit(q *Query, a Answer, o StoreOptions) (*entry, error) {
	if !e.Ready() {
		return nil, ErrLoading
	}
	if len(a.Encoded) == 0 {
		return nil, ErrNoAnswer
	}
	if q.Vector != nil && q.vec == nil && q.prepare() == "" {
		if err := e.CheckVector(q.Tenant, q.Namespace, q.Vector); err != nil {
			return nil, err
		}
		q.place(q.Vector, callerSpace(len(q.Vector)))
	}
	ttl := o.TTL
	if ttl <= 0 {
		ttl = time.Duration(e.ttl.Load())
	}
	now := e.o.Now()
	en := &entry{
		id: e.lastID.Add(1), key: q.Key(), tenant: q.Tenant, namespace: q.Namespace,
		op: q.Op, model: q.Model, digest: a.Digest, provider: a.Provider,
		tags: o.Tags, canonical: q.Canonical, prompt: q.Prompt,
		created: now, input: a.InputTokens, output: a.OutputTokens, answerBytes: len(a.Encoded),
	}
	en.Cost, en.Expires = a.Cost, now.Add(ttl)
	size := en.weigh() + int64(4*len(q.vec))
	if size > e.o.MaxBytes/maxShare {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	if quota := e.quota(q.Tenant); quota.Bytes > 0 && size > quota.Bytes {
		return nil, fmt.Errorf("%w: %d bytes, the tenant may keep %d", ErrTooLarge, size, quota.Bytes)
	}
	return en, nil
}

func (e *Engine) quota(tenant string) Quota {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.policy.Limit(tenant)
}

// put makes en visible to lookups and queues its record. Maps and queue change under
// mu, so that the store sees puts and deletes in the order of the maps. durable, if
// not nil, has room for the one result it gets.
func (e *Engine) put(q *Query, en *entry, answer []byte, durable chan<- error) error {
	rec := en.record(answer, q.part, q.space, q.vec)
	e.gate.RLock()
	defer e.gate.RUnlock()
	e.mu.Lock()
	if e.invalidatedLocked(q, en) {
		e.mu.Unlock()
		return ErrInvalidated
	}
	e.answers.hold(en, answer)
	old := e.insertLocked(en)
	e.saveLocked(en, rec, durable)
	var was index.Index
	if old != nil {
		was = e.removeLocked(old)
		e.eraseLocked([]uint64{old.id}, nil) // only ErrClosed: the put has failed as well then
	}
	e.mu.Unlock()
	if was != nil {
		was.Remove(old.id)
	}
	if old != nil && old.digest != "" && en.digest != "" && old.digest != en.digest {
		e.evicted("model_change", 1)
	}
	if q.vec != nil {
		if err := e.attach(en, q.part, q.space, q.vec, q.note); err != nil {
			e.o.Log.Warn("entry is exact-only: its vector cannot be indexed", "id", en.id, "error", err)
		}
	}
	return nil
}

// insert is insertLocked for Load, which replaces by ID order.
func (e *Engine) insert(en *entry) (old *entry) {
	e.mu.Lock()
	old = e.insertLocked(en)
	var was index.Index
	if old != nil {
		was = e.removeLocked(old)
	}
	e.mu.Unlock()
	if was != nil {
		was.Remove(old.id)
	}
	return old
}

// insertLocked adds en to the maps and returns the entry whose key it took over,
// which the caller removes.
func (e *Engine) insertLocked(en *entry) (old *entry) {
	old = e.byKey[en.key]
	e.byKey[en.key] = en
	e.byID[en.id] = en
	en.Value, en.Hash = en, en.key.hash()
	e.policy.Add(&en.Item, en.tenant, en.weigh())
	e.answerBytes += int64(en.answerBytes)
	return old
}

// removeLocked takes en out of the maps and returns the index that the caller
// removes its vector from after unlocking, nil if there is none.
func (e *Engine) removeLocked(en *entry) index.Index {
	if en.removed {
		return nil
	}
	en.removed = true
	if e.byKey[en.key] == en {
		delete(e.byKey, en.key)
	}
	delete(e.byID, en.id)
	e.policy.Remove(&en.Item)
	e.answerBytes -= int64(en.answerBytes)
	e.answers.forget(en)
	return e.detachLocked(en)
}

// attach puts en's vector into its partition's index. note is of the search for vec
// there, nil if there was none.
func (e *Engine) attach(en *entry, part Key, space string, vec []float32, note *index.Note) error {
	p, err := e.join(en, part, space, len(vec))
	if p == nil {
		return err
	}
	err = index.AddNote(p.index, en.id, vec, note)
	// Remove and this Add may cross: whoever comes second cleans up.
	e.mu.Lock()
	gone := en.removed
	if err != nil && !gone {
		e.detachLocked(en)
		e.policy.Resize(&en.Item, en.Bytes()-int64(4*len(vec)))
	}
	e.mu.Unlock()
	if gone {
		p.index.Remove(en.id)
	}
	return err
}

// join makes en a member of its partition, which it makes if need be. It
// returns nil and no error when en has been removed meanwhile.
func (e *Engine) join(en *entry, part Key, name string, dims int) (*partition, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if en.removed {
		return nil, nil
	}
	callers := strings.HasPrefix(name, callerPrefix)
	if c := e.caller[space{en.tenant, en.namespace}]; callers && c.live > 0 && c.dims != dims {
		return nil, dimsError(dims, c.dims)
	}
	p := e.parts[part]
	if p == nil {
		p = &partition{id: part, index: e.o.NewIndex(dims)}
		e.parts[part] = p
	}
	e.joinLocked(en, p, callers)
	return p, nil
}

func (e *Engine) joinLocked(en *entry, p *partition, callers bool) {
	p.live++
	en.part = p
	dims := p.index.Dims()
	if callers {
		s := space{en.tenant, en.namespace}
		e.caller[s] = callerDims{dims, e.caller[s].live + 1}
		en.callers = true
	}
	e.policy.Resize(&en.Item, en.Bytes()+int64(4*dims))
	e.loosenLocked(en)
}

// loosenLocked tells a snapshot being written that en's vector comes or goes.
func (e *Engine) loosenLocked(en *entry) {
	if e.loosening {
		e.loose = append(e.loose, loose{en.part.id, en.id})
	}
}

// detachLocked undoes join and returns the index that still holds the vector.
func (e *Engine) detachLocked(en *entry) index.Index {
	p := en.part
	if p == nil {
		return nil
	}
	e.loosenLocked(en)
	en.part = nil
	if en.callers {
		s := space{en.tenant, en.namespace}
		if c := e.caller[s]; c.live > 1 {
			e.caller[s] = callerDims{c.dims, c.live - 1}
		} else {
			delete(e.caller, s)
		}
	}
	if p.live--; p.live == 0 {
		delete(e.parts, p.id)
	}
	return p.index
}

// drop removes entries from memory and store, counting them under reason unless
// that is "". It does not wait for the disk: see dropDurably.
func (e *Engine) drop(ids []uint64, reason string) {
	for ids := range batches(ids) {
		e.dropBatch(ids, reason, nil) // only ErrClosed: nothing is served after that
	}
}

// dropDurably is drop, and waits until the disk has forgotten the entries too. It
// returns the first failure; the entries are gone from memory all the same.
func (e *Engine) dropDurably(ctx context.Context, ids []uint64, reason string) error {
	var waiting []<-chan error
	var errs []error
	for ids := range batches(ids) {
		durable := make(chan error, 1)
		err := e.dropBatch(ids, reason, func(err error) { durable <- err })
		if err != nil {
			errs = append(errs, err)
			continue
		}
		waiting = append(waiting, durable)
	}
	for _, durable := range waiting {
		errs = append(errs, await(ctx, durable))
	}
	return errors.Join(errs...)
}

func (e *Engine) dropBatch(ids []uint64, reason string, done func(error)) error {
	e.mu.Lock()
	gone, vectors := e.forgetLocked(ids)
	err := e.eraseLocked(ids, done) // also what memory did not have
	e.mu.Unlock()
	vectors.remove()
	e.evicted(reason, len(gone))
	return err
}

func (e *Engine) forgetLocked(ids []uint64) (gone []uint64, vectors orphans) {
	for _, id := range ids {
		if en := e.byID[id]; en != nil {
			if ix := e.removeLocked(en); ix != nil {
				vectors = append(vectors, orphan{ix, id})
			}
			gone = append(gone, id)
		}
	}
	return gone, vectors
}

// orphans are vectors whose entries are gone; they are removed without mu.
type orphans []orphan

type orphan struct {
	index index.Index
	id    uint64
}

func (o orphans) remove() {
	for _, v := range o {
		v.index.Remove(v.id)
	}
}

// CheckVector reports why v cannot be used as a caller's vector in the namespace,
// wrapping ErrVector: the first vector of a namespace fixes the dimensions for
// as long as entries with vectors live there.
func (e *Engine) CheckVector(tenant, namespace string, v []float32) error {
	if len(v) == 0 || len(v) > maxDims {
		return fmt.Errorf("%w: %d dimensions, want 1 to %d", ErrVector, len(v), maxDims)
	}
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if math.IsNaN(sum) || math.IsInf(sum, 0) {
		return fmt.Errorf("%w: not finite", ErrVector)
	}
	if sum < 1e-12 {
		return fmt.Errorf("%w: zero", ErrVector)
	}
	e.mu.RLock()
	c := e.caller[space{tenant, namespace}]
	e.mu.RUnlock()
	if c.live > 0 && c.dims != len(v) {
		return dimsError(len(v), c.dims)
	}
	return nil
}

func dimsError(have, want int) error {
	return fmt.Errorf("%w: %d dimensions, this namespace has %d", ErrVector, have, want)
}

// record returns the stored form of en. Slices are shared: neither side changes them.
func (en *entry) record(answer []byte, part Key, space string, vec []float32) *store.Record {
	return &store.Record{
		ID: en.id, Key: en.key, Partition: part, Space: space,
		Tenant: en.tenant, Namespace: en.namespace, Op: en.op, Model: en.model,
		Digest: en.digest, Provider: en.provider, Tags: en.tags,
		Canonical: en.canonical, Prompt: en.prompt, Vector: vec,
		Created: en.created, Expires: en.Expires, Cost: en.Cost,
		InputTokens: clamp32(en.input), OutputTokens: clamp32(en.output),
		Answer: answer, AnswerBytes: len(answer),
	}
}

func clamp32(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// weigh returns the bytes of en without its vector.
func (en *entry) weigh() int64 {
	n := entryOverhead + len(en.canonical) + len(en.prompt) + en.answerBytes
	for _, t := range en.tags {
		n += len(t)
	}
	return int64(n)
}

// describe returns what callers may know of en.
func (en *entry) describe() Entry {
	return Entry{
		ID: en.id, Tenant: en.tenant, Namespace: en.namespace, Op: en.op, Model: en.model,
		Digest: en.digest, Provider: en.provider, Tags: en.tags, Prompt: en.prompt,
		Created: en.created, Expires: en.Expires, Hits: en.hits.Load(),
		Cost: en.Cost, InputTokens: en.input, OutputTokens: en.output,
	}
}

// Entry returns entry id of tenant and its encoded answer: ErrNotFound (also
// for other tenants' entries and expired ones), or the store's read error.
func (e *Engine) Entry(tenant string, id uint64) (Entry, []byte, error) {
	e.mu.RLock()
	en := e.byID[id]
	var d Entry
	if en != nil {
		d = en.describe()
		d.Bytes, d.Semantic = en.Bytes(), en.part != nil
	}
	e.mu.RUnlock()
	if en == nil || en.tenant != tenant || !en.Expires.After(e.o.Now()) {
		return Entry{}, nil, ErrNotFound
	}
	answer, err := e.answer(en)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNotFound
	}
	return d, answer, err
}

// Delete removes entry id of tenant and returns when that is durable:
// ErrNotFound if there is none, the store's error, or ctx's.
func (e *Engine) Delete(ctx context.Context, tenant string, id uint64) error {
	if en := e.entry(id); en == nil || en.tenant != tenant {
		return ErrNotFound
	}
	return e.dropDurably(ctx, []uint64{id}, "invalidate")
}

// rejected counts a Store that failed.
func (e *Engine) rejected(err error) {
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, store.ErrTooLarge):
		e.report("rejected_size")
	case errors.Is(err, ErrNoAnswer), errors.Is(err, ErrVector), errors.Is(err, ErrInvalidated):
		e.report("rejected_policy")
	default:
		e.report("rejected_error")
	}
}

func (e *Engine) report(result string) {
	if e.o.Hooks.Stored != nil {
		e.o.Hooks.Stored(result)
	}
}
