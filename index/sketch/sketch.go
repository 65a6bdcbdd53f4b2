// Package sketch answers "what is at least this similar" by comparing binary codes
// first and vectors only where the codes allow it.
//
// # The codes
//
// A vector x belongs to the list of the centre c that is nearest to it (one list for all
// up to some ten thousand vectors). It is turned by a random rotation R (two rounds of
// random signs and a Walsh-Hadamard transform: Ailon and Chazelle, "The Fast
// Johnson-Lindenstrauss Transform", 2009), and bit j of its code says on which side of
// the centre it lies: sign((R(x-c))_j). Random hyperplanes separate two vectors with a
// probability proportional to the angle between them (Goemans and Williamson 1995;
// Charikar 2002, section 3): each bit of the codes of x and a question q differs with
// probability angle(x-c, q-c)/pi.
//
// # What a search may miss
//
// Let t be the threshold. All vectors are of unit length, so whatever is to be found
// lies within r = sqrt(2-2t) of q. Seen from c, at the distance u = |q-c|, a point
// within r of q lies at an angle of at most asin(r/u): the tangent to that ball. Hence
// each bit differs with probability at most p = asin(r/u)/pi, whatever the data looks
// like; where the list's vectors are all nearer to c than the tangent's point, or all
// farther, p is smaller still (see widest). The number of differing bits among n is then
// at most binomial, and the search drops a vector only beyond the distance that a
// binomial variable with n and p exceeds with a small probability: 1/2500 among the first
// 64 bits, where each bit more costs survivors, 1/10000 among 128 and 1/20000 among all
// 384. A search looks only into the lists that the question lies in or not far out of, and
// may so miss another 1/2500, as measured on the data (see far and calibrate). Together that is less than
// 1/1000 for a vector exactly at the threshold and in the least favourable place; above
// it the angle shrinks and the probability with it, by orders of magnitude.
// TestPairsAtTheThresholdAreFound measures it.
//
// What is dropped is never looked at again, and what is not dropped is compared
// exactly: there are no false hits, and scores are exact cosines.
//
// # Memory
//
// Per vector: 4 bytes per dimension; 61 of code, distance, place and number (from 256
// vectors on); 8 of ID and 5 to 6 of what finds the rows of IDs (from 33 vectors on). A
// search touches eight bytes per vector that it looks at, and little else.
package sketch

import (
	"slices"
	"sync"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/slab"
)

const (
	// mapFrom is the number of vectors from which the rows of IDs are found by a slab.Finder:
	// below, looking through the IDs costs less than its memory.
	mapFrom = 33
	// placeRows is the number of rows in a chunk of small tables.
	placeRows = 1 << 14
)

// options are the sizes from which things are done. They are shared and do not change.
type options struct {
	codesFrom int  // number of vectors from which codes are kept
	listsFrom int  // and from which there is more than one list, where that pays
	moved     int  // vectors that margins are measured with, in each way of moving
	always    bool // make lists even where they do not, for tests
}

var defaults = options{
	codesFrom: 256, // below, a plain scan takes no longer than turning the question
	listsFrom: 16 << 10,
	moved:     16_000,
}

// Index is an index.Noter. Searches with a threshold are probabilistic as the package
// says; TopK is exact. What takes time in an Add, finding the vector's place, is done
// before anything is locked; lists are made in the background, and changes and searches
// go on meanwhile. The zero value is not usable; see New.
type Index struct {
	dims int
	o    *options

	mu   sync.RWMutex     // guards the fields below
	n    int              // number of vectors
	rows slab.Of[float32] // unit vectors
	ids  slab.Of[uint64]  // of the rows
	at   *slab.Finder     // rows of IDs; nil below mapFrom
	tier *tier            // nil below codesFrom

	saving *saving       // nil but while a snapshot is written
	saved  chan struct{} // closed when that is done
}

// tier is what an index has from codesFrom vectors on. It is guarded by the index's mu.
type tier struct {
	cur *layout // what searches use
	// next is nil but while a background goroutine fills it: vectors that come in
	// meanwhile are put into both.
	next     *layout
	building bool // that goroutine is at work; it may be preparing next
	due      int  // so many additions from now on it begins to work
	low      int  // or when so few vectors are left
	changes  int  // counts rows that have got another vector

	probe prober // has its own locking
}

// New returns an empty index for vectors of dims components; dims < 1 is a
// programmer's mistake and panics.
func New(dims int) *Index { return newIndex(dims, &defaults) }

func newIndex(dims int, o *options) *Index {
	if dims < 1 {
		panic("sketch: dims must be positive")
	}
	return &Index{dims: dims, o: o, rows: slab.New[float32](dims), ids: slab.Sized[uint64](1, placeRows)}
}

// Add implements index.Index in O(1).
func (ix *Index) Add(id uint64, v []float32) error {
	s := borrow()
	defer s.release()
	s.unit = resize(s.unit, ix.dims)
	if err := index.Unit(s.unit, v, ix.dims); err != nil {
		return err
	}
	ix.add(id, s, &s.here)
	return nil
}

// add stores s.unit; here may have its spot in a layout that searches use.
func (ix *Index) add(id uint64, s *search, here *placed) {
	ix.mu.RLock()
	cur, next := ix.spaces()
	ix.mu.RUnlock()
	here.in(s, cur)
	s.there.in(s, next)
	ix.mu.Lock()
	defer ix.mu.Unlock()
	row, replace := ix.find(id)
	if replace {
		ix.keep(int(row))
	} else {
		row = uint32(ix.n)
		ix.rows.Grow(ix.n + 1)
		ix.ids.Grow(ix.n + 1)
		ix.ids.Row(ix.n)[0] = id
		ix.n++
		if ix.at != nil {
			ix.at.Add(id, row)
		} else if ix.n == mapFrom {
			ix.remember()
		}
	}
	copy(ix.row(int(row)), s.unit)
	if ix.tier == nil {
		if ix.n >= ix.o.codesFrom {
			ix.encode()
		}
		return
	}
	// The layouts may have become others since.
	cur, next = ix.spaces()
	here.in(s, cur)
	ix.tier.cur.put(int(row), &here.spot)
	if next != nil {
		s.there.in(s, next)
		ix.tier.next.put(int(row), &s.there.spot)
	}
	if replace {
		ix.tier.changes++
	}
	ix.tier.due--
	ix.improve()
}

// placed is a vector's spot in a space.
type placed struct {
	space *space
	spot  spot
}

// in makes p the spot of s.unit in sp, which may be nil.
func (p *placed) in(s *search, sp *space) {
	if p.space == sp || sp == nil {
		return
	}
	sp.sketch(&s.sketched, s.unit)
	p.space, p.spot = sp, sp.spot(&s.sketched)
}

// spaces returns those of the layouts that a new vector is put into. The caller holds mu.
func (ix *Index) spaces() (cur, next *space) {
	if ix.tier == nil {
		return nil, nil
	}
	if ix.tier.next != nil {
		next = ix.tier.next.space
	}
	return ix.tier.cur.space, next
}

// find returns the row of an ID. The caller holds mu.
func (ix *Index) find(id uint64) (row uint32, ok bool) {
	if ix.at != nil {
		return ix.at.Find(id)
	}
	if ix.n == 0 {
		return 0, false
	}
	i := slices.Index(ix.ids.Chunks()[0][:ix.n], id)
	return uint32(max(i, 0)), i >= 0
}

func (ix *Index) remember() {
	ix.at = slab.NewFinder(&ix.ids)
	for i := range ix.n {
		ix.at.Add(ix.id(i), uint32(i))
	}
}

func (ix *Index) row(i int) []float32 { return ix.rows.Row(i) }
func (ix *Index) id(i int) uint64     { return ix.ids.Row(i)[0] }

// Remove implements index.Index in O(1): the last row takes the place of the removed
// one.
func (ix *Index) Remove(id uint64) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	found, ok := ix.find(id)
	if !ok {
		return false
	}
	row, last := int(found), ix.n-1
	ix.keep(row)
	ix.keep(last)
	if t := ix.tier; t != nil {
		t.changes++
		ix.forget(t.cur, row, last)
		if t.next != nil {
			ix.forget(t.next, row, last)
		}
	}
	if ix.at != nil {
		ix.at.Remove(id)
	}
	if row != last {
		if ix.at != nil {
			ix.at.Move(ix.id(last), found)
		}
		copy(ix.row(row), ix.row(last))
		ix.ids.Row(row)[0] = ix.id(last)
	}
	ix.n = last
	ix.rows.Shrink(last)
	ix.ids.Shrink(last)
	switch {
	case last == 0:
		ix.rows.Clear()
		ix.ids.Clear()
		ix.at, ix.tier = nil, nil
	case last < ix.o.codesFrom/2:
		ix.tier = nil
	default:
		ix.improve()
	}
	return true
}

// forget takes a row out of a layout and gives the last one its number.
func (ix *Index) forget(l *layout, row, last int) {
	l.take(row)
	if row != last {
		if l.has(last) {
			l.rename(last, row)
		} else {
			// The background has not come so far, and will not look at this row again.
			s := borrow()
			l.sketch(&s.sketched, ix.row(last))
			at := l.spot(&s.sketched)
			l.put(row, &at)
			s.release()
		}
	}
	l.shrink(last)
}

// Len implements index.Index.
func (ix *Index) Len() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.n
}

// Dims implements index.Index.
func (ix *Index) Dims() int { return ix.dims }

// Stats implements index.Index.
func (ix *Index) Stats() index.Stats {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	s := index.Stats{Tier: "flat", Entries: ix.n, Hot: ix.ids.Bytes()}
	if ix.at != nil {
		s.Hot += ix.at.Bytes()
	}
	if t := ix.tier; t != nil {
		s.Tier = "sketch"
		if t.cur.len() > 1 {
			s.Tier = "lists"
		}
		s.Hot += t.cur.bytes()
		if asked := t.probe.asked.Load(); asked > 0 {
			s.Probed, s.Recall = int(asked), min(1, float64(t.probe.found.Load())/float64(asked))
		}
		if t.next != nil {
			s.Hot += t.next.bytes()
		}
	}
	s.Bytes = s.Hot + ix.rows.Bytes()
	return s
}
