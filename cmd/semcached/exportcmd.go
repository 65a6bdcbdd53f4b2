package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/wire"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// memberBytes is how much text goes into one member of a gzip file (RFC 1952, section
// 2.2). A file that was broken off is whole up to the end of a member.
const memberBytes = 4 << 20

// exportData writes every entry as a line of JSON. Exit codes: 0 all; 1 broken off; 2
// usage; 3 all but those that are damaged.
func exportData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, append([]option{
		fileOption,
		{"to", "FILE", "gzipped if the name ends in .gz (default: standard output)"},
		{"resume", "", "go on behind the last whole line of the file"},
		{"format", "jsonl", "jsonl is the only one there is"},
	}, selecting...)...)
	if !ok {
		return code
	}
	sel, err := t.selected(time.Now())
	if err != nil {
		return t.usage(err.Error())
	}
	to := cmp.Or(t.given["to"], standardStream)
	switch {
	case cmp.Or(t.given["format"], "jsonl") != "jsonl":
		return t.usage(fmt.Sprintf("--format %q is not jsonl", t.given["format"]))
	case to == standardStream && t.on("resume"):
		return t.usage("--resume needs --to FILE")
	}
	written, err := t.export(ctx, to, &sel)
	if errors.Is(err, store.ErrCorrupt) {
		fmt.Fprintf(t.stderr, "%d entries exported\nsemcached: not all could be read: %v\n", written, err)
		return exitPartly
	}
	if err != nil {
		if to != standardStream && !errors.Is(err, os.ErrExist) {
			fmt.Fprintf(t.stderr, "semcached: %d entries were exported; with --resume the same command goes on\n", written)
		}
		return t.fail(err)
	}
	fmt.Fprintf(t.stderr, "%d entries exported\n", written)
	return exitOK
}

// export writes the selected entries and returns how many.
func (t *dataTool) export(ctx context.Context, to string, sel *selection) (int64, error) {
	out, after, err := t.openExport(to)
	if err != nil {
		return 0, err
	}
	var written, seen atomic.Int64
	m := t.meter("export", func() []any { return []any{"entries", seen.Load(), "exported", written.Load()} })
	watch, done := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { m.run(watch) })
	now, unread := time.Now(), 0
	err = t.read(ctx, func(path, _ string) error {
		return bolt.Each(ctx, path, func(r *store.Record) error {
			seen.Add(1)
			if r.ID <= after || !r.Expires.After(now) || !sel.has(r.Tenant, r.Namespace, r.Model, r.Tags, r.Created) {
				return nil
			}
			l, err := exportLine(r)
			if err != nil {
				unread++
				return nil
			}
			written.Add(1)
			_, err = out.Write(l)
			return err
		})
	})
	done()
	beside.Wait()
	if err == nil && unread > 0 {
		err = fmt.Errorf("%w: %d answers", store.ErrCorrupt, unread)
	}
	if e := out.Close(); err == nil {
		err = e
	}
	return written.Load(), err
}

// exportLine writes one entry.
func exportLine(r *store.Record) ([]byte, error) {
	a, err := wire.DecodeAnswer(r.Answer)
	if err != nil {
		return nil, err
	}
	replay := wire.Replay{Op: wire.Op(r.Op), Model: cmp.Or(a.Model, r.Model), Now: r.Created, Elapsed: a.Total}
	b, err := json.Marshal(line{
		ID: proxy.FormatID(r.ID), Tenant: r.Tenant, Namespace: r.Namespace, Operation: r.Op, Model: r.Model, Provider: r.Provider, Tags: r.Tags,
		Request: r.Canonical, Answer: replay.AppendObject(nil, a), Created: r.Created.UTC(), Expires: r.Expires.UTC(),
	})
	return append(b, '\n'), err
}

// exportFile takes whole lines.
type exportFile struct {
	f    *os.File // nil: standard output
	w    *bufio.Writer
	z    *gzip.Writer // nil: not gzipped
	room int          // bytes of text that the member still takes
}

// openExport opens the output; after is the ID of the last entry that is in it.
func (t *dataTool) openExport(to string) (out *exportFile, after uint64, err error) {
	if to == standardStream {
		return &exportFile{w: bufio.NewWriter(t.stdout)}, 0, nil
	}
	mode := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if t.on("resume") {
		mode = os.O_RDWR | os.O_CREATE
	}
	f, err := os.OpenFile(to, mode, 0o600)
	if err != nil {
		return nil, 0, err
	}
	zipped := strings.HasSuffix(to, ".gz")
	if t.on("resume") {
		if after, err = endOfExport(f, zipped); err != nil {
			f.Close()
			return nil, 0, fmt.Errorf("%s: %w", to, err)
		}
		fmt.Fprintf(t.stderr, "going on behind entry %s\n", proxy.FormatID(after))
	}
	out = &exportFile{f: f, w: bufio.NewWriterSize(f, 256<<10)}
	if zipped {
		out.z, out.room = gzip.NewWriter(out.w), memberBytes
	}
	return out, after, nil
}

func (e *exportFile) Write(line []byte) (int, error) {
	if e.z == nil {
		return e.w.Write(line)
	}
	if e.room -= len(line); e.room < 0 {
		if err := e.z.Close(); err != nil {
			return 0, err
		}
		e.z.Reset(e.w)
		e.room = memberBytes - len(line)
	}
	return e.z.Write(line)
}

// Close writes out what is left, durably if it is a file.
func (e *exportFile) Close() error {
	var errs []error
	if e.z != nil {
		errs = append(errs, e.z.Close())
	}
	errs = append(errs, e.w.Flush())
	if e.f != nil {
		errs = append(errs, e.f.Sync(), e.f.Close())
	}
	return errors.Join(errs...)
}

// endOfExport cuts f behind its last whole line, goes there, and returns the ID in that
// line, 0 if there is none.
func endOfExport(f *os.File, zipped bool) (after uint64, err error) {
	in := &positionReader{r: bufio.NewReaderSize(f, 256<<10)}
	var end int64
	var last []byte
	if zipped {
		if magic, _ := in.r.Peek(2); !strings.HasPrefix("\x1f\x8b", string(magic)) {
			return 0, gzip.ErrHeader // some other file
		}
		end, last, err = lastMember(in)
	} else {
		end, last, err = lastLine(in)
	}
	if err != nil {
		return 0, err
	}
	if last != nil {
		var l line
		if err := json.Unmarshal(last, &l); err != nil {
			return 0, fmt.Errorf("the last line is not of an export: %w", err)
		}
		var ok bool
		if after, ok = proxy.ParseID(l.ID); !ok {
			return 0, errors.New("the last line is not of an export that can be gone on with: it has no ID")
		}
	}
	if err := f.Truncate(end); err != nil {
		return 0, err
	}
	_, err = f.Seek(end, io.SeekStart)
	return after, err
}

// lastLine returns the last whole line and where it ends.
func lastLine(in *positionReader) (end int64, last []byte, err error) {
	var l []byte
	for {
		part, err := in.r.ReadSlice('\n')
		in.n += int64(len(part))
		l = append(l, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return end, last, nil
		case err != nil:
			return 0, nil, err
		}
		end, last, l = in.n, append(last[:0], l...), l[:0]
	}
}

// lastMember returns the last line of the last whole gzip member and where that ends.
func lastMember(in *positionReader) (end int64, last []byte, err error) {
	var z gzip.Reader
	for {
		if z.Reset(in) != nil {
			return end, last, nil
		}
		z.Multistream(false)
		text, err := io.ReadAll(&z)
		if err != nil {
			return end, last, nil
		}
		if i := bytes.LastIndexByte(bytes.TrimSuffix(text, []byte("\n")), '\n'); len(text) > 0 {
			last = text[i+1:]
		}
		end = in.n
	}
}

// positionReader knows how many bytes have been taken from it.
type positionReader struct {
	r *bufio.Reader
	n int64
}

func (p *positionReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	return n, err
}

func (p *positionReader) ReadByte() (byte, error) {
	b, err := p.r.ReadByte()
	if err == nil {
		p.n++
	}
	return b, err
}
