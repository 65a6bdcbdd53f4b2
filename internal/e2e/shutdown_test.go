package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/standin"
)

// keep stores n answers and returns what asks for the last of them.
func (w *world) keep(n int) (last string) {
	w.t.Helper()
	for i := range n {
		last = fmt.Sprintf(`{"model":"standin","prompt":"Which harbour has number %d?"`, i)
		if r := w.do("POST", "/cache/store", last+fmt.Sprintf(`,"answer":"Harbour %d."}`, i)); r.status != 201 {
			w.t.Fatalf("store: %d %s", r.status, r.body)
		}
	}
	return last + "}"
}

func (w *world) hits(question string) {
	w.t.Helper()
	if r := w.do("POST", "/cache/lookup", question); !strings.Contains(r.body, `"hit":true`) {
		w.t.Errorf("%s: %s", question, r.body)
	}
}

// says waits for parts of the log: a server is ready a moment before it says so.
func (w *world) says(parts ...string) {
	w.t.Helper()
	for _, p := range parts {
		w.Eventually(p, func() error {
			if !strings.Contains(w.Log(), p) {
				return errors.New("not in the log")
			}
			return nil
		})
	}
}

func TestShutdownSavesWhatMakesTheNextStartFast(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	question := w.keep(150)
	if err := w.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if !strings.Contains(w.Log(), "snapshot saved") {
		t.Error("no snapshot was saved")
	}
	w.Restart()
	w.says("150 loaded in", "by a snapshot and 0 changes")
	w.hits(question)
	w.hits(strings.Replace(question, "Which harbour has number", "which harbour has the number", 1)) // by its vector
	w.do("POST", "/cache/store", `{"model":"standin","prompt":"What is a mole?","answer":"A wall.","durability":"sync"}`)
	w.Kill()
	w.Restart()
	w.says("by a snapshot and 1 changes")
	w.hits(`{"model":"standin","prompt":"What is a mole?"}`)
	w.hits(question)
}

// TestSecondSignalIsQuick: the first one waits for a stream that takes minutes, the
// second does not, and nothing that was stored is lost.
func TestSecondSignalIsQuick(t *testing.T) {
	w := newWorld(t, standin.Options{PerToken: 3 * time.Second}, "--embedder", "lexical", "--drain-time", "10m")
	question := w.keep(150)
	resp, err := http.Post(w.URL+"/api/generate", "", strings.NewReader(`{"model":"standin","prompt":"Tell me of the sea."}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	w.Signal(syscall.SIGTERM)
	w.Eventually("readyz says that it drains", func() error {
		if err := get(w.Admin + "/readyz"); err == nil || !strings.Contains(err.Error(), "503") {
			return fmt.Errorf("readyz: %v", err)
		}
		return nil
	})
	w.Eventually("new requests are refused", func() error { // a moment after readyz says so
		if fresh(w.URL) == nil {
			return errors.New("one was taken")
		}
		return nil
	})
	if err := w.Stop(); err != nil {
		t.Errorf("exit: %v", err)
	}
	rest, _ := io.ReadAll(in)
	if strings.Contains(string(rest), `"done":true`) || !strings.Contains(string(rest), "shutting down") {
		t.Errorf("the stream ended with %s", rest)
	}
	if _, err := os.Stat(filepath.Join(w.Data, "semcached.db.snapshot")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a snapshot was made in a hurry: %v", err)
	}
	w.Restart()
	w.hits(question)
}

// fresh asks over a new connection.
func fresh(url string) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url + "/api/version")
	if err == nil {
		resp.Body.Close()
	}
	return err
}
