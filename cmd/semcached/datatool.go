package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// What the tools that look after the data share.

const (
	// dataFile is the name of the data file in its folder.
	dataFile = "semcached.db"
	// dataHeader says in an answer of /backup which file a server has open.
	dataHeader = "X-Semcached-Data"
)

// option is a flag that a tool has beside those of serve.
type option struct{ name, arg, usage string } // arg "": a switch

// Options of several tools.
var (
	fileOption = option{"file", "FILE", "look at this data file instead of the one in --data"}
	jsonOption = option{"json", "", "print one JSON object"}
)

// dataTool is a run of one of the tools.
type dataTool struct {
	environment
	given map[string]string // its own flags; a switch is there if it is on
	c     *config.Config
	path  string // of the data file
}

// newTool reads a tool's flags and the configuration; on false it has told why, and
// code is the exit code.
func newTool(env environment, options ...option) (t *dataTool, code int, ok bool) {
	given, rest, err := own(env.args, options)
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return nil, exitUsage, false
	}
	if slices.ContainsFunc(rest, func(a string) bool { return slices.Contains([]string{"-h", "--h", "-help", "--help"}, a) }) {
		fmt.Fprintln(env.stderr, "Flags of this tool:")
		for _, o := range options {
			fmt.Fprintf(env.stderr, "  -%s %s\n    \t%s\n", o.name, o.arg, o.usage)
		}
		fmt.Fprintln(env.stderr, "Flags of the configuration:")
	}
	env.args = rest
	c, code, ok := load(env)
	if !ok {
		return nil, code, false
	}
	t = &dataTool{environment: env, given: given, c: c, path: filepath.Join(c.Data, dataFile)}
	if f := given["file"]; f != "" {
		t.path = f
	} else if c.Data == inMemory {
		t.path = ""
	}
	return t, exitOK, true
}

// own takes a tool's own flags out of the arguments; the rest are those of serve.
func own(args []string, options []option) (given map[string]string, rest []string, err error) {
	given = make(map[string]string)
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		at := slices.IndexFunc(options, func(o option) bool { return o.name == name })
		switch {
		case at < 0 || !strings.HasPrefix(args[i], "-"):
			rest = append(rest, args[i])
			continue
		case options[at].arg == "":
			on := true
			if inline {
				if on, err = strconv.ParseBool(value); err != nil {
					return nil, nil, fmt.Errorf("--%s is on or off, and takes no %q", name, value)
				}
			}
			if !on {
				continue
			}
			value = "on"
		case !inline:
			if i++; i == len(args) {
				return nil, nil, fmt.Errorf("--%s needs a value", name)
			}
			value = args[i]
		}
		given[name] = value
	}
	return given, rest, nil
}

// on reports whether a switch is on.
func (t *dataTool) on(name string) bool { return t.given[name] != "" }

// usage tells how a tool is called.
func (t *dataTool) usage(text string) int {
	fmt.Fprintln(t.stderr, "semcached:", text)
	return exitUsage
}

// fail tells of an error.
func (t *dataTool) fail(err error) int {
	switch {
	case errors.Is(err, store.ErrLocked):
		err = fmt.Errorf("%w: another process has the file open; if it is a server, stop it first, or work with a copy that `semcached backup` makes", err)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w (--data names the folder)", err)
	case errors.Is(err, context.Canceled):
		err = errors.New("broken off")
	}
	fmt.Fprintln(t.stderr, "semcached:", err)
	return exitFailed
}

var errInMemory = errors.New("with --data " + inMemory + " nothing is kept on disk")

// errStop ends a walk that has seen enough.
var errStop = errors.New("stop")

// probe opens the data file for reading and closes it again. Errors: store.ErrLocked and
// all others that say that it cannot be opened.
func (t *dataTool) probe(ctx context.Context) error {
	if t.path == "" {
		return errInMemory
	}
	if err := bolt.Each(ctx, t.path, func(*store.Record) error { return errStop }); err != errStop {
		return err
	}
	return nil
}

// read calls f with the data file or, if a server has that open, with a copy that the
// server makes of it; name is for people.
func (t *dataTool) read(ctx context.Context, f func(path, name string) error) error {
	if t.path == "" {
		return errInMemory
	}
	err := f(t.path, t.path)
	if !errors.Is(err, store.ErrLocked) || t.on("file") {
		return err
	}
	copied, err := os.CreateTemp("", "semcached-*.db")
	if err != nil {
		return err
	}
	defer os.Remove(copied.Name())
	defer copied.Close()
	if err := t.download(ctx, copied); err != nil {
		return err
	}
	return f(copied.Name(), "a copy of "+t.path+", made by the server at "+t.c.Admin)
}

// download fetches a consistent copy of the data file from the server that has it open.
func (t *dataTool) download(ctx context.Context, w io.Writer) error {
	url, err := adminURL(t.c.Admin, "/backup")
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("another process has %s open, and no server answers at %s (--admin) to make a copy: %w", t.path, t.c.Admin, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("another process has %s open; %s answered %s", t.path, url, resp.Status)
	}
	if other := resp.Header.Get(dataHeader); !sameFile(other, t.path) {
		return fmt.Errorf("another process has %s open; the server at %s is not it, that one has %q", t.path, t.c.Admin, other)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the copy broke off: %w", err)
	}
	return nil
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
