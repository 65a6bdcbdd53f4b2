package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// ErrLineTooLong: a line of a stream exceeds the limit.
var ErrLineTooLong = errors.New("wire: line is too long")

// LineReader reads NDJSON: one line at a time, blank ones skipped.
type LineReader struct {
	r    *bufio.Reader
	max  int
	long []byte // a line that does not fit the reader's buffer
}

// NewLineReader returns a reader of lines of at most max bytes.
func NewLineReader(r io.Reader, max int) *LineReader {
	return &LineReader{r: bufio.NewReaderSize(r, 32<<10), max: max}
}

// Next returns the next line that is not blank, without its line end; a last
// line need not have one. The slice is valid until the next call. At the end the
// error is io.EOF; ErrLineTooLong and the reader's errors end the stream.
func (l *LineReader) Next() ([]byte, error) {
	for {
		line, err := l.read()
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) > 0 && (err == nil || err == io.EOF) {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (l *LineReader) read() ([]byte, error) {
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.long)+len(part) > l.max+len("\r\n") {
			return nil, ErrLineTooLong
		}
		if err != bufio.ErrBufferFull && len(l.long) == 0 {
			return part, err
		}
		l.long = append(l.long, part...)
		if err != bufio.ErrBufferFull {
			return l.long, err
		}
	}
}

// Event is one server-sent event.
type Event struct {
	Name string // "" if the stream names none
	Data []byte
}

// EventReader reads server-sent events as the WHATWG HTML standard, section
// 9.2.6, defines them. Retry times and IDs are ignored.
type EventReader struct {
	r     *bufio.Reader
	max   int
	begun bool
	cr    bool // the last line ended with CR: an LF that follows belongs to it
}

// NewEventReader returns a reader of events of at most max bytes.
func NewEventReader(r io.Reader, max int) *EventReader {
	return &EventReader{r: bufio.NewReaderSize(r, 32<<10), max: max}
}

// Next returns the next event; its Data is the caller's. An event that is not
// closed by a blank line is dropped, as the standard says. Errors: io.EOF,
// ErrLineTooLong, the reader's.
func (e *EventReader) Next() (Event, error) {
	var ev Event
	var size int
	seen := false
	for {
		line, err := e.line()
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if seen {
				return ev, nil
			}
			ev = Event{}
			continue
		}
		if size += len(line); size > e.max {
			return Event{}, ErrLineTooLong
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			ev.Name = string(value)
		case "data":
			if seen {
				ev.Data = append(ev.Data, '\n')
			}
			ev.Data, seen = append(ev.Data, value...), true
		}
	}
}

// line returns the next line, ended by LF, CR or CRLF. A line without an end is
// dropped with io.EOF.
func (e *EventReader) line() ([]byte, error) {
	var line []byte
	for {
		b, err := e.r.ReadByte()
		if err != nil {
			return nil, err
		}
		wasCR := e.cr
		e.cr = b == '\r'
		switch {
		case b == '\n' && wasCR:
			continue
		case b == '\n' || b == '\r':
			if !e.begun {
				e.begun = true
				line = bytes.TrimPrefix(line, []byte("\uFEFF"))
			}
			return line, nil
		}
		if line = append(line, b); len(line) > e.max {
			return nil, ErrLineTooLong
		}
	}
}
