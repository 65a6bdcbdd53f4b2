package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// maxImportLine bounds the bytes of a line.
const maxImportLine = 64 << 20

// lineReader reads lines and hashes what it has read.
type lineReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	n    int64 // lines read
	most int   // bytes of a line
	buf  []byte
}

// newLineReader reads in, which may be gzipped.
func newLineReader(in io.Reader, most int) (*lineReader, error) {
	r := bufio.NewReaderSize(in, 256<<10)
	if magic, err := r.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b { // RFC 1952, section 2.3.1
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = bufio.NewReaderSize(z, 256<<10)
	}
	return &lineReader{r: r, sum: sha256.New(), most: most}, nil
}

var errLongLine = errors.New("the line is too long")

// next returns a line without its end, valid until the next call. Errors: io.EOF,
// errLongLine (the line has been skipped, and the next one can be read), those of the
// source.
func (l *lineReader) next() ([]byte, error) {
	l.buf = l.buf[:0]
	length := 0
	for {
		part, err := l.r.ReadSlice('\n')
		l.sum.Write(part)
		if length += len(part); length <= l.most {
			l.buf = append(l.buf, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err != nil && (err != io.EOF || length == 0):
			return nil, err
		}
		l.n++
		if length > l.most {
			return nil, errLongLine
		}
		return bytes.TrimSpace(l.buf), nil
	}
}

// digest returns the hash of all lines read so far.
func (l *lineReader) digest() (d [sha256.Size]byte) {
	l.sum.Sum(d[:0])
	return d
}

// tally counts lines by what became of them.
type tally struct {
	Stored  int            `json:"stored"`
	LeftOut map[string]int `json:"left_out,omitempty"` // by reason
	Bad     int            `json:"bad"`
}

func (t *tally) add(err error) {
	var left leftOut
	switch {
	case err == nil:
		t.Stored++
	case errors.As(err, &left):
		if t.LeftOut == nil {
			t.LeftOut = make(map[string]int)
		}
		t.LeftOut[string(left)]++
	default:
		t.Bad++
	}
}

// leftOut returns how many lines were left out for any reason.
func (t *tally) leftOut() (n int) {
	for _, k := range t.LeftOut {
		n += k
	}
	return n
}

// mark is a place in the input: everything before it is done, and what was to be stored
// is on the server's disk.
type mark struct {
	Lines  int64  `json:"lines"`
	SHA256 string `json:"sha256"` // of these lines
	Tenant string `json:"tenant,omitempty"`
	tally
}

// importState is what the state file has, beside the input: how far an import got.
type importState struct {
	Version int    `json:"version"` // 1
	URL     string `json:"url"`     // of the server
	mark
}

const stateVersion = 1

// errNoState: there is no state file; the import begins at the first line.
var errNoState = errors.New("no state file")

func readState(path string) (s importState, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, errNoState
	}
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err == nil && (s.Version != stateVersion || s.Lines < 0) {
		err = fmt.Errorf("version %d is not known", s.Version)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w; --restart begins at the first line", path, err)
	}
	return s, nil
}

// write puts the state in its file, whole or not at all.
func (s importState) write(path string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// resume skips the lines that are done, after having checked that they are the same.
func (s importState) resume(l *lineReader, url string) error {
	if s.URL != url {
		return fmt.Errorf("the state file is of an import into %s; --restart begins at the first line", s.URL)
	}
	for l.n < s.Lines {
		if _, err := l.next(); err != nil && err != errLongLine {
			if err == io.EOF {
				return fmt.Errorf("the file has %d lines, of which %d were imported before: it has changed; --restart begins at the first line", l.n, s.Lines)
			}
			return err
		}
	}
	if d := l.digest(); hex.EncodeToString(d[:]) != s.SHA256 {
		return fmt.Errorf("the first %d lines are not those that were imported before: the file has changed; --restart begins at the first line", s.Lines)
	}
	return nil
}

// task is a line on its way.
type task struct {
	n      int64 // of the line, from 1
	digest [sha256.Size]byte
	q      *question // nil: there is nothing to send
	done   bool
	err    error // leftOut, or what is wrong with the line
}

// ledger follows the lines on their way and knows the mark. Lines end in any order, and
// are counted in theirs. Safe for concurrent use.
type ledger struct {
	bad    func(n int64, err error) // told of bad lines, in order, with mu held
	strict bool                     // a bad line holds everything up
	room   chan struct{}            // has one for each open task; its capacity bounds them

	mu   sync.Mutex // guards everything below
	open []*task    // in the order of the input
	mark mark
	held bool // by a bad line
}

// maxOpen bounds the lines that wait for one before them to end.
const maxOpen = 1 << 16

// begin adds a task, once there is room for it; false if ctx ends before that.
func (l *ledger) begin(ctx context.Context, t *task) bool {
	select {
	case l.room <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, t)
	return true
}

// end notes what became of a task.
func (l *ledger) end(t *task, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.done, t.err, t.q = true, err, nil
	for len(l.open) > 0 && l.open[0].done && !l.held {
		first, bad := l.open[0], l.mark.Bad
		if first.err != errBlank {
			l.mark.add(first.err)
		}
		if l.mark.Bad > bad {
			l.held = l.strict
			l.bad(first.n, first.err)
		}
		if l.held {
			return
		}
		l.open = l.open[1:]
		<-l.room
		l.mark.Lines, l.mark.SHA256 = first.n, hex.EncodeToString(first.digest[:])
	}
}

// errBlank: there is nothing on the line.
var errBlank = errors.New("blank")

// now returns a copy of the mark. The line that holds everything up counts as bad, but
// as not yet done.
func (l *ledger) now() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.mark
	m.LeftOut = maps.Clone(m.LeftOut)
	return m
}
