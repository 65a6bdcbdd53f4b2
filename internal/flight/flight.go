// Package flight lets many readers share one stream that is made once: whoever
// asks first starts it, whoever asks while it lasts joins. A reader who joins late
// gets what has passed already and then follows.
//
// The stream belongs to none of its readers: it is cancelled when the last one has
// left, not when the first does.
package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// ErrPanic: the function that made the stream panicked.
var ErrPanic = errors.New("flight: the stream's maker failed")

// maxShared bounds what a stream keeps for readers who join late. A longer one
// admits nobody new.
const maxShared = 32 << 20

// Group is a set of streams under way, by key. The zero value is ready for use.
type Group[K comparable] struct {
	mu      sync.Mutex // guards streams
	streams map[K]*Stream
}

// Stream is what the maker writes to. Its methods are called by one goroutine.
type Stream struct {
	leave func() // cancels the maker

	mu      sync.Mutex    // guards everything below
	changed chan struct{} // closed and replaced when something below changes
	status  int           // 0 until SetHead
	header  http.Header
	chunks  [][]byte
	bytes   int
	closed  bool
	err     error
	result  any
	readers int
	full    bool // too long for late readers
}

// Reader is one caller's view of a stream. It is used by one goroutine.
type Reader struct {
	s    *Stream
	next int
	left bool
}

// Join returns a reader of the stream of key. If there is none under way, it starts
// one: start runs in a goroutine of its own, with a context that has ctx's values
// but not its end, and whose error ends the stream. leader reports whether this
// call started it. The caller closes the reader.
func (g *Group[K]) Join(ctx context.Context, key K, start func(ctx context.Context, s *Stream) error) (r *Reader, leader bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.streams[key]; s != nil && s.admit() {
		return &Reader{s: s}, false
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Stream{leave: cancel, changed: make(chan struct{}), readers: 1}
	if g.streams == nil {
		g.streams = make(map[K]*Stream)
	}
	g.streams[key] = s
	go func() {
		defer cancel()
		err := run(ctx, s, start)
		g.mu.Lock()
		if g.streams[key] == s {
			delete(g.streams, key)
		}
		g.mu.Unlock()
		s.close(err)
	}()
	return &Reader{s: s}, true
}

func run(ctx context.Context, s *Stream, start func(context.Context, *Stream) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	return start(ctx, s)
}

// admit takes one more reader in, unless the stream has been abandoned or is too
// long to catch up with.
func (s *Stream) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers == 0 || s.full || s.closed {
		return false
	}
	s.readers++
	return true
}

// change wakes the readers. The caller holds mu.
func (s *Stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// SetHead gives the stream its status and header, once, before the first Write.
// The header must not be changed afterwards.
func (s *Stream) SetHead(status int, header http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.header = status, header
	s.change()
}

// Write appends a copy of chunk; readers get it as one piece.
func (s *Stream) Write(chunk []byte) {
	c := append([]byte(nil), chunk...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks = append(s.chunks, c)
	s.bytes += len(c)
	s.full = s.full || s.bytes > maxShared
	s.change()
}

// SetResult leaves something for the readers beside the chunks. It must not be
// changed afterwards.
func (s *Stream) SetResult(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result = v
}

func (s *Stream) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.err = true, err
	s.change()
}

// Head waits for the stream's status and header. If the stream ends without, it
// returns the error of its maker (io.ErrUnexpectedEOF if that gave none).
func (r *Reader) Head(ctx context.Context) (status int, header http.Header, err error) {
	for {
		r.s.mu.Lock()
		status, header, closed, err, changed := r.s.status, r.s.header, r.s.closed, r.s.err, r.s.changed
		r.s.mu.Unlock()
		if status != 0 {
			return status, header, nil
		}
		if closed {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
}

// Next waits for the next chunk, which must not be changed. At the end the error
// is io.EOF, or that of the maker.
func (r *Reader) Next(ctx context.Context) ([]byte, error) {
	for {
		r.s.mu.Lock()
		if r.next < len(r.s.chunks) {
			c := r.s.chunks[r.next]
			r.next++
			r.s.mu.Unlock()
			return c, nil
		}
		closed, err, changed := r.s.closed, r.s.err, r.s.changed
		r.s.mu.Unlock()
		if closed {
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Result returns what the maker has left with SetResult, nil if nothing so far.
func (r *Reader) Result() any {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.s.result
}

// Close leaves the stream; the last to leave ends it.
func (r *Reader) Close() {
	if r.left {
		return
	}
	r.left = true
	r.s.mu.Lock()
	r.s.readers--
	last := r.s.readers == 0 && !r.s.closed
	r.s.mu.Unlock()
	if last {
		r.s.leave()
	}
}
