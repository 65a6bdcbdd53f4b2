package bolt

import (
	"encoding/binary"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// writer changes records within a transaction. It keeps no log.
type writer struct {
	meta, spaces, entries, answers, expiry, log, aside *bbolt.Bucket

	st          state                  // after what has been done so far
	generations map[store.Space]uint32 // known to be in the file or the transaction
}

// newWriter returns a writer that starts from st. generations may be nil.
func newWriter(tx *bbolt.Tx, st state, generations map[store.Space]uint32) writer {
	w := writer{
		meta: tx.Bucket(bucketMeta), spaces: tx.Bucket(bucketSpace), entries: tx.Bucket(bucketEntry),
		answers: tx.Bucket(bucketAnswer), expiry: tx.Bucket(bucketExpiry), log: tx.Bucket(bucketLog),
		aside: tx.Bucket(bucketQuarantine), st: st, generations: generations,
	}
	if w.generations == nil {
		w.generations = make(map[store.Space]uint32)
		for generation, space := range readSpaces(tx) {
			w.generations[space] = generation
		}
	}
	for _, b := range []*bbolt.Bucket{w.entries, w.answers, w.log} {
		b.FillPercent = 1 // keys ascend: a page that is full stays as it is
	}
	return w
}

// put writes a record. Values are made anew for each: bbolt keeps them until the
// commit.
func (w *writer) put(r *store.Record) error {
	generation, err := w.generation(r)
	if err != nil {
		return err
	}
	return w.putRaw(r.ID, store.AppendMeta(nil, r, generation), store.AppendAnswer(nil, r.ID, r.Answer), expiryKey(r.Expires, r.ID))
}

func (w *writer) putRaw(id uint64, meta, answer, expiry []byte) error {
	key := idKey(id)
	if id > w.st.lastID { // nothing can be there
		w.st.lastID = id
		w.st.records++
	} else if err := w.forget(key, id, 1); err != nil {
		return err
	}
	if err := w.entries.Put(key, meta); err != nil {
		return err
	}
	if err := w.answers.Put(key, answer); err != nil {
		return err
	}
	return w.expiry.Put(expiry, nil)
}

// generation returns the number of r's vector space, 0 if it has no vector.
func (w *writer) generation(r *store.Record) (uint32, error) {
	if r.Vector == nil {
		return 0, nil
	}
	space := store.Space{Identity: r.Space, Dims: len(r.Vector)}
	if g, ok := w.generations[space]; ok {
		return g, nil
	}
	last := uint32(0)
	if k, _ := w.spaces.Cursor().Last(); len(k) == 4 {
		last = binary.BigEndian.Uint32(k)
	}
	key := spaceKey(last + 1)
	if err := w.spaces.Put(key, spaceValue(key, space)); err != nil {
		return 0, err
	}
	w.generations[space] = last + 1
	return last + 1, nil
}

func (w *writer) delete(id uint64) error {
	key := idKey(id)
	if err := w.forget(key, id, 0); err != nil {
		return err
	}
	if err := w.entries.Delete(key); err != nil {
		return err
	}
	return w.answers.Delete(key)
}

// forget removes the expiry of the record that is there now, if any, and counts that
// there will be after records under its ID, 0 or 1. The expiry of a damaged record
// stays behind; Expired finds it.
func (w *writer) forget(key []byte, id, after uint64) error {
	old := w.entries.Get(key)
	w.st.records += after
	if old == nil {
		return nil
	}
	w.st.records--
	expires, err := store.MetaExpires(id, old)
	if err != nil {
		return nil
	}
	return w.expiry.Delete(expiryKey(expires, id))
}

// quarantine removes a record whose metadata is damaged, and keeps that.
func (w *writer) quarantine(id uint64) error {
	key := idKey(id)
	if v := w.entries.Get(key); v != nil && w.aside.Stats().KeyN < maxQuarantined {
		if err := w.aside.Put(key, append([]byte(nil), v...)); err != nil {
			return err
		}
	}
	return w.delete(id)
}

// note gives the next number to a change and writes it into the log.
func (w *writer) note(c change) error {
	w.st.seq++
	key := idKey(w.st.seq)
	return w.log.Put(key, c.value(key))
}

// trim forgets changes up to number upTo, and removes at most so many leftovers.
func (w *writer) trim(upTo uint64, most int) error {
	w.st.since = min(w.st.seq, max(w.st.since, upTo))
	var keys [][]byte
	c := w.log.Cursor()
	for k, _ := c.First(); k != nil && len(keys) < most; k, _ = c.Next() {
		if len(k) == 8 && binary.BigEndian.Uint64(k) > w.st.since {
			break
		}
		keys = append(keys, append([]byte(nil), k...))
	}
	for _, k := range keys {
		if err := w.log.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// bucket returns one of those that are copied as they are.
func (w *writer) bucket(name []byte) *bbolt.Bucket { return w.meta.Tx().Bucket(name) }

// save writes the state.
func (w *writer) save() error { return w.meta.Put(keyState, w.st.append(nil)) }
