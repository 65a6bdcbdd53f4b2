// Package store keeps cache entries across restarts.
//
// Store is the interface the cache engine writes through; Record is one entry
// and its binary format (see record.go). The engine answers lookups from
// memory, so a Store is written often, scanned once at start, and read for
// single answers only. Implementations: store/bolt (durable, the default) and
// store/mem (ephemeral); both pass store/storetest.
package store

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors of opening a store.
var (
	// ErrLocked: another process holds the file.
	ErrLocked = errors.New("store: data file is in use by another process")
	// ErrVersion: the file was written by a newer semcached.
	ErrVersion = errors.New("store: data file has a newer format")
)

// Errors of writing.
var (
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("store: closed")
	// ErrBusy: the write queue is full; nothing was queued.
	ErrBusy = errors.New("store: write queue is full")
	// ErrTooLarge: the record exceeds a limit of the format.
	ErrTooLarge = errors.New("store: record is too large")
	// ErrFull: the data file has reached its greatest size. Deletes still
	// work, and make room.
	ErrFull = errors.New("store: data file is full")
)

// Errors of reading.
var (
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("store: not found")
	// ErrCorrupt: the record or the snapshot is damaged; it has been counted
	// and will not be loaded again.
	ErrCorrupt = errors.New("store: data is corrupt")
	// ErrGone: the log does not reach back so far.
	ErrGone = errors.New("store: changes are no longer in the log")
)

// Store keeps records by ID. All methods are safe for concurrent use.
//
// Writes are queued and committed in order by Run, several at a time. A queued
// write is visible to Answer and Load only once it is committed.
type Store interface {
	// Put queues r, which replaces any record of the same ID. The store
	// owns r and everything it points to from then on, read-only. done, if
	// not nil, is called exactly once from another goroutine with nil when
	// r is durable (fsynced) or with the error that prevented it; it must
	// not block. urgent asks for a commit at once, because somebody waits;
	// other writes are gathered first. Put itself returns ErrClosed, ErrBusy
	// or ErrTooLarge, in which case done is not called.
	Put(r *Record, urgent bool, done func(error)) error

	// Delete queues the removal of ids; ids that do not exist are ignored.
	// The store owns ids from then on. urgent and done are as for Put.
	// Deletes are never refused with ErrBusy.
	Delete(ids []uint64, urgent bool, done func(error)) error

	// Seq is the number of the last committed change, 0 if there was none
	// ever. Every Put and every Delete gets the next number, in the order in
	// which they were queued, when it is committed. One that fails gets none.
	Seq() uint64

	// Changes calls fn for every committed change after number after, oldest
	// first, until fn returns an error, which Changes returns. It ends with
	// the change that was the last when it was called, or later. A put is
	// told with its record as it is now, and skipped when that has gone
	// since: the change that removed it follows. Errors: ErrGone, before fn
	// is called at all; ErrClosed; ctx's.
	Changes(ctx context.Context, after uint64, fn func(Change) error) error

	// SaveSnapshot keeps a snapshot beside the data, in the place of the last
	// one: write makes its content, which is opaque to the store, and seq is
	// the last change that it covers. If write or the disk fails, the last
	// snapshot stays. Changes up to seq may leave the log after that. Calls
	// wait for each other.
	SaveSnapshot(seq uint64, write func(w io.Writer) error) error

	// Snapshot opens the snapshot; the caller closes r. Errors: ErrNotFound
	// if there is none, ErrVersion, ErrClosed, and ErrCorrupt, which r's Read
	// may return as well; bytes that Read has returned were sound. A damaged
	// snapshot is put aside: the next call returns ErrNotFound.
	Snapshot() (seq uint64, r io.ReadCloser, err error)

	// Load calls fn for every readable, unexpired record in ascending ID
	// order, without Record.Answer, until fn returns an error, which Load
	// returns. now decides what has expired. fn owns the record. Damaged
	// records are skipped, counted and put aside, never an error.
	Load(ctx context.Context, now time.Time, fn func(*Record) error) (LoadReport, error)

	// Answer returns a copy of the answer of record id: ErrNotFound,
	// ErrCorrupt or ErrClosed.
	Answer(id uint64) ([]byte, error)

	// Expired returns the IDs of up to max committed records that expired
	// at or before now, soonest first. It deletes nothing.
	Expired(now time.Time, max int) ([]uint64, error)

	// Sync waits until every write queued at the call is durable or has
	// failed, and returns a failure among them or ctx's error. Writes that
	// had failed before the call are told to their done only.
	Sync(ctx context.Context) error

	// Run commits queued writes until ctx ends, then commits the rest and
	// returns. It must be called exactly once.
	Run(ctx context.Context) error

	// Stats returns the current figures.
	Stats() Stats

	// Close releases the store. Writes still queued after Run has ended
	// fail with ErrClosed.
	Close() error
}

// Change is one committed change.
type Change struct {
	Seq     uint64
	Put     *Record  // without Answer, as from Load; fn owns it. nil for a delete
	Deleted []uint64 // IDs, not all of which need have existed; nil for a put
}

// LoadReport says what Load found.
type LoadReport struct {
	Records int    // given to fn
	Expired int    // skipped because they had expired
	Corrupt int    // skipped because they were damaged
	LastID  uint64 // highest ID ever committed, expired and damaged ones included
}

// Stats describes a store for metrics and people.
type Stats struct {
	Kind        string // "bolt", "mem"
	Path        string // data file, "" if none
	Records     int64  // committed records
	Bytes       int64  // size of the data on disk, free pages included (0 for mem)
	Pending     int    // queued writes
	Corrupt     int64  // damaged records met since opening
	Failed      int64  // writes that could not be committed since opening
	LastErr     string // the last commit error, "" if the last commit succeeded
	Quarantined string // where a damaged data file was moved since opening, "" if none was

	Free        int64     // bytes of Bytes that are free for new records
	Seq         uint64    // of the last committed change
	LogSince    uint64    // Changes after this number and later ones are there
	SnapshotSeq uint64    // last change that the snapshot covers, 0 if there is none
	SnapshotAt  time.Time // when the snapshot was made, zero if there is none
	Compactions int64     // completed since opening
	Busy        int64     // writes refused with ErrBusy since opening
	Full        bool      // the last commit failed for want of room
}

// Record is one cache entry as it is kept on disk.
//
// Key and Partition are opaque to the store. Times have the resolution of a
// millisecond on disk.
type Record struct {
	ID        uint64   // never 0, never used twice
	Key       [32]byte // hash of the exact request
	Partition [32]byte // where the vector belongs; zero when Vector is nil
	Space     string   // identity of the vector space, "" when Vector is nil

	Tenant    string
	Namespace string
	Op        string   // "chat", "generate", ...
	Model     string   // folded model name
	Digest    string   // model digest when the answer was made, "" if unknown
	Provider  string   // who made the answer: "ollama", "api", ...
	Tags      []string // for invalidation

	Canonical []byte    // canonical request, compared byte for byte before serving
	Prompt    string    // the text that Vector embeds, "" for an exact-only entry
	Vector    []float32 // nil for an exact-only entry

	Created      time.Time
	Expires      time.Time
	Cost         time.Duration // model time the answer took
	InputTokens  uint32
	OutputTokens uint32

	Answer []byte // encoded answer, opaque to the store; nil in records from Load
	// AnswerBytes is len(Answer). Put sets it; it is kept with the metadata,
	// so that Load knows it without reading answers.
	AnswerBytes int
}
