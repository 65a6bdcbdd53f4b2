package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// standardStream is the file name that stands for standard input or output.
const standardStream = "-"

// backupData copies the data file: from the disk or, if a server has it open, through
// the server. The copy is checked before it gets its name.
func backupData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, option{"to", "FILE", "name of the copy; - writes it to standard output"})
	if !ok {
		return code
	}
	to := t.given["to"]
	if to == "" {
		return t.usage("backup --to FILE")
	}
	r, err := t.backup(ctx, to)
	if err != nil {
		return t.fail(err)
	}
	tell := t.stdout
	if to == standardStream {
		tell = t.stderr
	}
	fmt.Fprintf(tell, "%d records, %d bytes, from %s\n", r.Records, r.Bytes, r.from)
	return exitOK
}

// copied is a verified copy.
type copied struct {
	*bolt.Report
	from string
}

func (t *dataTool) backup(ctx context.Context, to string) (c copied, err error) {
	if t.path == "" {
		return c, errInMemory
	}
	var f *os.File
	if to == standardStream {
		if isTerminal(t.stdout) {
			return c, errors.New("a data file is not for a terminal")
		}
		f, err = os.CreateTemp("", "semcached-*.db")
	} else {
		if _, err := os.Lstat(to); err == nil {
			return c, fmt.Errorf("%w: %s", fs.ErrExist, to)
		}
		f, err = os.OpenFile(to+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err != nil {
		return c, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	c.from = t.path
	if err = bolt.Copy(t.path, f); errors.Is(err, store.ErrLocked) {
		c.from = "the running server at " + t.c.Admin
		err = t.download(ctx, f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return c, err
	}
	if c.Report, err = soundOnly(ctx, f.Name()); err != nil {
		return c, fmt.Errorf("the copy is not kept: %w", err)
	}
	if to == standardStream {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return c, err
		}
		_, err = io.Copy(t.stdout, f)
		return c, err
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return c, err
	}
	return c, syncFolder(to)
}

// soundOnly checks a file and returns an error if anything is wrong with it.
func soundOnly(ctx context.Context, path string) (*bolt.Report, error) {
	r, err := bolt.Check(ctx, path, time.Now())
	if err == nil && !r.Sound() {
		err = fmt.Errorf("%w: %s", store.ErrCorrupt, strings.Join(r.Problems, "; "))
	}
	return r, err
}

// syncFolder makes a new name last.
func syncFolder(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// restoreData puts a copy in the place of the data file, once it has been checked there.
func restoreData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, option{"from", "FILE", "the copy; - reads it from standard input"})
	if !ok {
		return code
	}
	from := t.given["from"]
	if from == "" {
		return t.usage("restore --from FILE")
	}
	if err := t.probe(ctx); errors.Is(err, store.ErrLocked) || errors.Is(err, errInMemory) {
		return t.fail(err)
	}
	if err := os.MkdirAll(t.c.Data, 0o700); err != nil {
		return t.fail(err)
	}
	next := t.path + ".restore"
	defer os.Remove(next) // gone already if all went well
	if err := t.copyIn(from, next); err != nil {
		return t.fail(err)
	}
	r, err := soundOnly(ctx, next)
	if err != nil {
		t.fail(err)
		fmt.Fprintf(t.stderr, "semcached: nothing was changed; `semcached check --file %s --repair NEW` writes what is sound to a new file\n", from)
		return exitFailed
	}
	old, err := bolt.Replace(next, t.path)
	if err != nil {
		return t.fail(err)
	}
	fmt.Fprintf(t.stdout, "%d records are in place", r.Records)
	if old != "" {
		fmt.Fprintf(t.stdout, "; what was there is %s", old)
	}
	fmt.Fprintln(t.stdout)
	return exitOK
}

// copyIn copies a file, or standard input, durably.
func (t *dataTool) copyIn(from, to string) error {
	in := t.stdin
	if from != standardStream {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}
