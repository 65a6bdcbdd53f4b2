package sketch

import (
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/vec"
)

// noted is the State of an index.Note: a question that found nothing, and where it
// belongs.
type noted struct {
	ix   *Index
	unit []float32
	here placed
}

var _ index.Noter = (*Index)(nil)

// SearchNote implements index.Noter. It allocates where it leaves the first note in n.
func (ix *Index) SearchNote(dst []index.Hit, q []float32, threshold float32, k int, n *index.Note) ([]index.Hit, error) {
	s := borrow()
	defer s.release()
	from := len(dst)
	dst, err := s.run(ix, dst, q, threshold, k)
	if n == nil {
		return dst, err
	}
	left, _ := n.State.(*noted)
	if left != nil {
		left.ix = nil // it was of another question
	}
	if err != nil || len(dst) > from || s.seen == nil {
		return dst, err
	}
	at := placed{s.seen, s.seen.spot(&s.sketched)}
	if left == nil {
		left = new(noted)
		n.State = left
	}
	left.ix, left.here = ix, at
	left.unit = append(left.unit[:0], s.unit...)
	return dst, err
}

// AddNote implements index.Noter.
func (ix *Index) AddNote(id uint64, v []float32, n *index.Note) error {
	s := borrow()
	defer s.release()
	s.unit = resize(s.unit, ix.dims)
	if err := index.Unit(s.unit, v, ix.dims); err != nil {
		return err
	}
	if n != nil {
		if left, ok := n.State.(*noted); ok && left.ix == ix && vec.Same(left.unit, s.unit) {
			s.here = left.here
		}
	}
	ix.add(id, s, &s.here)
	return nil
}
