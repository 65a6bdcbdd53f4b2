package cache

import "io"

const (
	aheadBytes  = 1 << 20
	aheadPieces = 6 // buffers in all
)

// ahead reads on in a goroutine of its own while what has come is being used.
type ahead struct {
	pieces chan piece    // closed by the goroutine at the end
	spare  chan []byte   // buffers that have been used
	stop   chan struct{} // closed by end
	now    piece
}

// piece is a part of the input, or the error that follows it.
type piece struct {
	buf  []byte
	rest []byte
	err  error
}

// readAhead returns a reader of what r has. The caller ends it, and r stays open until
// done is closed.
func readAhead(r io.Reader) (a *ahead, done <-chan struct{}) {
	a = &ahead{pieces: make(chan piece, aheadPieces), spare: make(chan []byte, aheadPieces), stop: make(chan struct{})}
	over := make(chan struct{})
	for range aheadPieces {
		a.spare <- nil
	}
	go func() {
		defer close(over)
		defer close(a.pieces)
		for {
			var buf []byte
			select {
			case buf = <-a.spare:
			case <-a.stop:
				return
			}
			if buf == nil {
				buf = make([]byte, aheadBytes)
			}
			n, err := io.ReadFull(r, buf)
			if err == io.ErrUnexpectedEOF {
				err = io.EOF
			}
			a.pieces <- piece{buf, buf[:n], err} // there is room for all buffers
			if err != nil {
				return
			}
		}
	}()
	return a, over
}

func (a *ahead) end() { close(a.stop) }

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			a.spare <- a.now.buf
		}
		a.now = <-a.pieces
	}
	n := copy(p, a.now.rest)
	a.now.rest = a.now.rest[n:]
	return n, nil
}
