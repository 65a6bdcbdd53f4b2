// Package index finds stored vectors by cosine similarity.
//
// Index is the interface that the cache engine uses: one Index holds the
// vectors of one partition. Flat, the exact scan in this package, is both the
// default for small partitions and the oracle of the conformance suite in
// index/indextest. Other implementations live in their own packages.
package index

import (
	"errors"
	"io"
)

// Errors of Add, Search and TopK: the vector cannot be compared.
var (
	// ErrDimension: the vector's length differs from Dims.
	ErrDimension = errors.New("index: wrong number of dimensions")
	// ErrZeroVector: the vector's norm is zero or too small to normalise.
	ErrZeroVector = errors.New("index: zero vector")
	// ErrNotFinite: a component is NaN or infinite, or the norm overflows.
	ErrNotFinite = errors.New("index: vector is not finite")
)

// Errors of loading a snapshot.
var (
	// ErrCorrupt: the snapshot is damaged or cut short.
	ErrCorrupt = errors.New("index: snapshot is corrupt")
	// ErrVersion: the snapshot was written by a newer format.
	ErrVersion = errors.New("index: snapshot has an unknown version")
)

// ErrFault reports that an implementation failed inside (a panic of a wrapped
// library, say). The index stays usable; the operation had no effect.
var ErrFault = errors.New("index: internal fault")

// Hit is one found vector.
type Hit struct {
	ID    uint64
	Score float32 // cosine similarity, -1 to 1
}

// Stats describes an index for metrics and people.
type Stats struct {
	Tier       string // implementation: "flat", "coder", ...
	Entries    int    // live vectors
	Bytes      int64  // memory held, approximately
	Hot        int64  // of them, without the exact vectors: what searches read all the time
	Tombstones int    // deleted vectors that still take room
	// Probed and Recall are of the last time that the index compared its answers
	// with exact ones: how many questions, and the share answered as well, 0 to 1.
	// Probed is 0 if it never has: it is exact, or small.
	Probed int
	Recall float64
}

// Note is what a search leaves for an Add of the same vector to the same index: the
// work of finding its place. A zero Note is empty. One that does not fit any more (the
// index has changed its structure, the vector is another) costs nothing but the work
// that it would have saved. A Note is used by one goroutine at a time.
type Note struct {
	// State belongs to the index that wrote it.
	State any
}

// Noter is an Index whose searches can spare work to the Add that follows a miss.
type Noter interface {
	Index

	// SearchNote is Search that leaves n for AddNote when it finds nothing.
	SearchNote(dst []Hit, q []float32, threshold float32, k int, n *Note) ([]Hit, error)

	// AddNote is Add of the vector that SearchNote was asked for.
	AddNote(id uint64, v []float32, n *Note) error
}

// SearchNote is ix.SearchNote if there is one, else ix.Search.
func SearchNote(ix Index, dst []Hit, q []float32, threshold float32, k int, n *Note) ([]Hit, error) {
	if noter, ok := ix.(Noter); ok {
		return noter.SearchNote(dst, q, threshold, k, n)
	}
	return ix.Search(dst, q, threshold, k)
}

// AddNote is ix.AddNote if there is one and n is not empty, else ix.Add.
func AddNote(ix Index, id uint64, v []float32, n *Note) error {
	if noter, ok := ix.(Noter); ok && n != nil && n.State != nil {
		return noter.AddNote(id, v, n)
	}
	return ix.Add(id, v)
}

// Index holds vectors of one dimension and answers similarity queries.
//
// All methods are safe for concurrent use. Vectors need not be unit length:
// implementations normalise what they store and what they are asked. No
// implementation keeps or changes the slices it is given.
type Index interface {
	// Add stores v under id, replacing what id held before. Errors:
	// ErrDimension, ErrZeroVector, ErrNotFinite, ErrFault; the index is
	// unchanged then.
	Add(id uint64, v []float32) error

	// Remove deletes id and reports whether it was there. A removed id is
	// never found again.
	Remove(id uint64) bool

	// Search appends to dst the hits whose cosine similarity to q is at
	// least threshold, best first, equal scores by ascending id, at most k
	// of them, and returns the extended slice. An approximate index may
	// miss hits; it never returns one below the threshold, and every Score
	// is the exact cosine in float32. Errors as of Add. An empty index or
	// k <= 0 finds nothing and is no error.
	Search(dst []Hit, q []float32, threshold float32, k int) ([]Hit, error)

	// TopK is Search without a threshold: the k most similar vectors.
	TopK(dst []Hit, q []float32, k int) ([]Hit, error)

	// Len returns the number of live vectors.
	Len() int

	// Dims returns the number of dimensions, fixed at construction.
	Dims() int

	// Snapshot writes all live vectors in the implementation's own
	// versioned and checksummed format, for the Load function of the same
	// package. It writes a consistent state while the index goes on.
	Snapshot(w io.Writer) error

	// Stats returns the current figures.
	Stats() Stats
}
