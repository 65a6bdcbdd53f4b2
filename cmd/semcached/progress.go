package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

const (
	terminalEvery = 200 * time.Millisecond // a line that people watch
	logEvery      = 10 * time.Second       // lines that are kept
)

// isTerminal reports whether people watch w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// meter shows how far a long task is: on a terminal in one line that changes, else as
// lines of the log. Safe for concurrent use.
type meter struct {
	name  string
	watch bool // by people
	log   *slog.Logger
	every time.Duration
	// state tells what to show: names and values in turn.
	state func() []any

	mu    sync.Mutex // guards what is written to w
	w     io.Writer
	shown bool // there is a line to be wiped
}

func (t *dataTool) meter(name string, state func() []any) *meter {
	m := &meter{name: name, w: t.stderr, log: logger(t.c, slog.LevelInfo, t.stderr), state: state, every: logEvery}
	if m.watch = isTerminal(t.stderr); m.watch {
		m.every = terminalEvery
	}
	return m
}

// run shows the state until ctx ends.
func (m *meter) run(ctx context.Context) {
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.show()
		case <-ctx.Done():
			m.note("") // the line that changes goes
			return
		}
	}
}

func (m *meter) show() {
	state := m.state()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.watch {
		m.log.Info(m.name, state...)
		return
	}
	var b strings.Builder
	for i := 0; i+1 < len(state); i += 2 {
		fmt.Fprintf(&b, "  %v %v", state[i], state[i+1])
	}
	m.wipeLocked()
	fmt.Fprintf(m.w, "%s%s", m.name, b.String())
	m.shown = true
}

// note writes a line that stays; "" writes none.
func (m *meter) note(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipeLocked()
	if text != "" {
		fmt.Fprintln(m.w, text)
	}
}

// wipeLocked goes to the start of the line and clears it (ECMA-48, EL).
func (m *meter) wipeLocked() {
	if m.shown {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.shown = false
	}
}

// percent words a part of a whole that may be unknown.
func percent(done, whole int64) string {
	if whole <= 0 {
		return "?"
	}
	return fmt.Sprintf("%d%%", min(100, 100*done/whole))
}
