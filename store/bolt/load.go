package bolt

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
)

// loadBatch is how many records are read in one transaction.
const loadBatch = 2048

// part is what one transaction of Load has read.
type part struct {
	records          []*store.Record
	expired, corrupt int
	last             uint64 // highest ID seen
	more             bool
	err              error
}

// Load implements store.Store. The entries are read ahead of the scan: bbolt maps its
// file for random access, and a cold scan through the map is ten times slower than
// reading. Records are decoded on all processors while fn works on earlier ones.
func (s *Store) Load(ctx context.Context, now time.Time, fn func(*store.Record) error) (store.LoadReport, error) {
	if err := s.alive(ctx); err != nil {
		return store.LoadReport{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.readAhead(ctx) })
	parts := make(chan part, 2) // closed by the reader; a part is read while another is used
	wg.Go(func() {
		defer close(parts)
		s.readParts(ctx, now, parts)
	})
	s.mu.Lock()
	report := store.LoadReport{LastID: s.state.lastID}
	s.mu.Unlock()
	for p := range parts {
		report.Expired += p.expired
		report.Corrupt += p.corrupt
		report.LastID = max(report.LastID, p.last)
		for _, r := range p.records {
			if err := fn(r); err != nil {
				return report, err
			}
			report.Records++
		}
		if p.err != nil {
			return report, p.err
		}
	}
	return report, ctx.Err()
}

// readParts reads all records. Where the file is damaged it is salvaged, and reading
// goes on in what has taken its place.
func (s *Store) readParts(ctx context.Context, now time.Time, parts chan<- part) {
	send := func(p part) bool {
		select {
		case parts <- p:
			return p.err == nil
		case <-ctx.Done():
			return false
		}
	}
	next, salvaged := uint64(0), 0
	for {
		h := s.acquire()
		if h == nil {
			send(part{err: store.ErrClosed})
			return
		}
		var p part
		err := protect(func() error {
			return h.db.View(func(tx *bbolt.Tx) error {
				p = s.readPart(tx, next, now)
				return p.err
			})
		})
		s.release(h)
		if damaged(err) && salvaged < 3 {
			s.writing.Lock()
			failed := s.salvage(h, err)
			s.writing.Unlock()
			if !send(part{corrupt: 1}) {
				return
			}
			if failed != nil { // a full disk, perhaps
				s.o.Log.Error("the data file stays damaged", "error", failed)
				s.readAround(ctx, next, now, send)
				return
			}
			salvaged++
			continue
		}
		p.err = err
		if !send(p) || !p.more {
			return
		}
		next = p.last + 1
	}
}

// readAround reads the records from ID next on in a file that stays damaged.
func (s *Store) readAround(ctx context.Context, next uint64, now time.Time, send func(part) bool) {
	h := s.acquire()
	if h == nil {
		send(part{err: store.ErrClosed})
		return
	}
	defer s.release(h)
	view := viewOf(h.db)
	var spaces map[uint32]store.Space
	err := view(func(tx *bbolt.Tx) error {
		spaces = readSpaces(tx)
		return nil
	})
	if err == nil {
		err = scan(ctx, view, next, func(batch []raw) error {
			ids, metas := make([]uint64, len(batch)), make([][]byte, len(batch))
			for i, r := range batch {
				ids[i], metas[i] = r.id, r.meta
			}
			if !send(s.decode(ids, metas, spaces, now)) {
				return context.Canceled
			}
			return nil
		}, func(uint64, error) {})
	}
	if err != nil {
		send(part{err: err})
	}
}

// readPart reads the records from ID next on.
func (s *Store) readPart(tx *bbolt.Tx, next uint64, now time.Time) (p part) {
	var ids []uint64
	var metas [][]byte // in the mapped file
	c := tx.Bucket(bucketEntry).Cursor()
	for k, v := c.Seek(idKey(next)); k != nil; k, v = c.Next() {
		if len(ids) == loadBatch {
			p.more = true
			break
		}
		if len(k) != 8 || binary.BigEndian.Uint64(k) < next {
			p.err = &pageError{"keys out of order"}
			return p
		}
		id := binary.BigEndian.Uint64(k)
		ids, metas, next = append(ids, id), append(metas, v), id+1
	}
	more := p.more
	p = s.decode(ids, metas, readSpaces(tx), now)
	p.more = more
	return p
}

// decode decodes records and tells the live ones from the others.
func (s *Store) decode(ids []uint64, metas [][]byte, spaces map[uint32]store.Space, now time.Time) (p part) {
	if len(ids) == 0 {
		return p
	}
	records, errs := decodeAll(spaces, ids, metas)
	p.last = ids[len(ids)-1]
	for i, r := range records {
		switch {
		case pagesDamaged(errs[i]):
			p.err = errs[i]
			return p
		case errs[i] != nil:
			p.corrupt++
			s.corrupt(ids[i], errs[i])
		case !r.Expires.After(now):
			p.expired++
		default:
			p.records = append(p.records, r)
		}
	}
	return p
}

// decodeAll decodes metadata on all processors.
func decodeAll(spaces map[uint32]store.Space, ids []uint64, metas [][]byte) ([]*store.Record, []error) {
	records, errs := make([]*store.Record, len(ids)), make([]error, len(ids))
	workers := min(runtime.GOMAXPROCS(0), 1+len(ids)/128)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			d := store.NewDecoder(spaces)
			for i := w; i < len(ids); i += workers {
				errs[i] = protect(func() (err error) {
					records[i], err = d.Meta(ids[i], metas[i])
					return err
				})
			}
		})
	}
	wg.Wait()
	return records, errs
}
