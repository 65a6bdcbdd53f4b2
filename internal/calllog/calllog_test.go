package calllog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// written runs f with a running log and returns the lines of its file.
func written(t *testing.T, o Options, f func(l *Log)) []string {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	f(l)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	raw, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

func TestOneLinePerCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.jsonl")
	lines := written(t, Options{Path: path}, func(l *Log) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					l.Write(&Record{RequestID: fmt.Sprintf("r%d-%d", i, j), Timestamp: time.Unix(0, 0).UTC(), Request: Request{Model: "reef"}})
				}
			})
		}
		wg.Wait()
	})
	seen := make(map[string]bool)
	for _, line := range lines {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || len(r.TraceID) != 32 {
			t.Fatalf("%q: %v", line, err)
		}
		seen[r.RequestID] = true
	}
	if len(lines) != 400 || len(seen) != 400 {
		t.Errorf("%d lines, %d calls", len(lines), len(seen))
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v", info.Mode())
	}
	for _, want := range []string{`"error":null`, `"tokens_per_second":null`, `"messages_count":0`, `"latency_ms":0`, `"timestamp":"1970-01-01T00:00:00Z"`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("no %s in %s", want, lines[0])
		}
	}
	if strings.Contains(lines[0], `"prompt":`) {
		t.Errorf("a prompt: %s", lines[0])
	}
}

func TestItNeverWaits(t *testing.T) {
	var dropped atomic.Int64
	l, err := New(Options{Path: filepath.Join(t.TempDir(), "x"), Dropped: func() { dropped.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	for range queueSize + 10 { // nobody writes
		l.Write(new(Record))
	}
	if dropped.Load() != 10 {
		t.Errorf("%d dropped", dropped.Load())
	}
}

func TestFileIsRotated(t *testing.T) {
	dir := t.TempDir()
	o := Options{Path: filepath.Join(dir, "calls.jsonl"), MaxMegabytes: 1, Keep: 2}
	text := strings.Repeat("x", 10_000)
	written(t, o, func(l *Log) {
		for range 500 {
			for len(l.queue) > queueSize/2 {
				time.Sleep(time.Millisecond)
			}
			l.Write(&Record{Request: Request{Prompt: text}})
		}
	})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		if info, _ := f.Info(); info.Size() > 1<<20 || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %d bytes, %v", f.Name(), info.Size(), info.Mode())
		}
	}
}

func TestUnwritableFileIsToldAtOnce(t *testing.T) {
	if _, err := New(Options{Path: filepath.Join(t.TempDir(), "no", "such", "folder")}); err == nil {
		t.Error("accepted")
	}
}
