package sketch

import (
	"io"

	"github.com/semcached/semcached/index"
)

// Snapshot implements index.Index. It holds the vectors; codes are made when it is
// loaded, for another rotation. Writers wait while it runs, lookups do not.
func (ix *Index) Snapshot(w io.Writer) error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return index.WriteSnapshot(w, ix.dims, ix.n, func(i int) (uint64, []float32) { return ix.id(i), ix.row(i) })
}

// Load reads an index that Snapshot wrote. Errors: index.ErrCorrupt,
// index.ErrVersion, those of r.
func Load(r io.Reader) (*Index, error) {
	var ix *Index
	err := index.ReadSnapshot(r, func(dims int) { ix = New(dims) }, func(id uint64, v []float32) error { return ix.Add(id, v) })
	if err != nil {
		return nil, err
	}
	return ix, nil
}
