package bolt

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

// saved returns a store with a snapshot of content, and the snapshot's bytes.
func saved(t *testing.T, content []byte) (*Store, []byte) {
	t.Helper()
	s, _ := running(t, Options{Path: filled(t, 3)})
	if err := s.SaveSnapshot(3, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.snapshotPath())
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

// TestDamagedSnapshotsArePutAside damages a snapshot of several blocks everywhere.
func TestDamagedSnapshotsArePutAside(t *testing.T) {
	content := make([]byte, 2*maxBlock+5000)
	for i := range content {
		content[i] = byte(i >> 3)
	}
	s, sound := saved(t, content)
	check := func(what string, bad []byte) {
		t.Helper()
		if err := os.WriteFile(s.snapshotPath(), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, r, err := s.Snapshot()
		if err == nil {
			var b []byte
			b, err = io.ReadAll(r)
			if !bytes.HasPrefix(content, b) {
				t.Errorf("%s: damaged bytes were returned", what)
			}
			r.Close()
		}
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
		if _, _, err := s.Snapshot(); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s, again: %v, want ErrNotFound", what, err)
		}
	}
	places := []int{snapshotHeader + maxBlock + blockHeader - 1, len(sound) - 1, len(sound) - blockHeader - 1, len(sound) / 2}
	for i := range snapshotHeader + blockHeader + 2 {
		places = append(places, i)
	}
	for _, at := range places {
		bad := bytes.Clone(sound)
		bad[at] ^= 1
		check("bit flipped", bad)
		check("cut", sound[:at])
	}
	swapped := bytes.Clone(sound) // each block is sound, their order is not
	first, second := snapshotHeader, snapshotHeader+blockHeader+maxBlock
	copy(swapped[first:], sound[second:second+blockHeader+maxBlock])
	copy(swapped[second:], sound[first:first+blockHeader+maxBlock])
	check("blocks swapped", swapped)
	if err := s.SaveSnapshot(3, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(s.snapshotPath()); len(again) != len(sound) {
		t.Errorf("a new one has %d bytes, want %d", len(again), len(sound))
	}
}

func TestSnapshotOfANewerVersionStays(t *testing.T) {
	s, sound := saved(t, []byte("x"))
	newer := bytes.Clone(sound[:snapshotHeader-4])
	newer[8] = snapshotVersion + 1
	newer = append(seal(nil, newer), sound[snapshotHeader:]...)
	os.WriteFile(s.snapshotPath(), newer, 0o600)
	for range 2 {
		if _, _, err := s.Snapshot(); !errors.Is(err, store.ErrVersion) {
			t.Errorf("%v, want ErrVersion", err)
		}
	}
}

func TestSnapshotOfTheFutureIsRefused(t *testing.T) {
	s, _ := saved(t, []byte("x"))
	if err := s.SaveSnapshot(4, func(io.Writer) error { return nil }); err == nil {
		t.Error("a snapshot of a change that has not happened was kept")
	}
}

func TestOldSnapshotDoesNotTakeTheNewOneAway(t *testing.T) {
	content := make([]byte, 3*maxBlock)
	s, sound := saved(t, content)
	sound[len(sound)/2] ^= 1
	os.WriteFile(s.snapshotPath(), sound, 0o600)
	_, old, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	put(s, storetest.Record(9))
	if err := s.SaveSnapshot(4, func(w io.Writer) error { _, err := w.Write([]byte("new")); return err }); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(old); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if seq, r, err := s.Snapshot(); err != nil || seq != 4 {
		t.Errorf("%d %v", seq, err)
	} else {
		r.Close()
	}
}

// TestLogLeavesAfterSnapshot checks that the log does not grow for ever.
func TestLogLeavesAfterSnapshot(t *testing.T) {
	s, _ := running(t, Options{Path: filled(t, 5000)})
	if err := s.SaveSnapshot(4000, func(io.Writer) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 6 { // leftovers go with later commits
		put(s, storetest.Record(uint64(6000+i)))
	}
	keys := 0
	s.view(countLog(&keys))
	if st := s.Stats(); st.LogSince != 4000 || st.Seq != 5006 || keys != 1006 {
		t.Errorf("%+v, %d keys in the log", st, keys)
	}
}

// FuzzSnapshot checks that no bytes make the reader panic, allocate more than a block
// or return what has not been signed.
func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	head := snapshotHead{seq: 7, life: 9, at: time.UnixMilli(1)}
	b.Write(head.bytes())
	w := &blockWriter{w: &b}
	w.Write([]byte("some content"))
	w.flush()
	w.Write([]byte("more"))
	w.end()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if _, err := readHead(r); err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrVersion) {
				t.Fatalf("unnamed error %v", err)
			}
			r.Reset(b[min(len(b), snapshotHeader):])
		}
		out, err := io.ReadAll(&blockReader{r: r})
		if len(out) > len(b) || err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("%d bytes of %d, %v", len(out), len(b), err)
		}
	})
}
