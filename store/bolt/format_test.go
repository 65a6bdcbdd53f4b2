package bolt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

var update = flag.Bool("update", false, "write the fixture of the newest format anew")

// fixture unpacks a data file of an older semcached.
func fixture(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("../../testdata/store", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "semcached.db")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, z); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUpdateFixture makes the fixture of format 2 out of that of format 1.
func TestUpdateFixture(t *testing.T) {
	if !*update {
		t.Skip("SKIPPED: only with -update")
	}
	path := fixture(t, "format1.db.gz")
	s, stop := running(t, Options{Path: path})
	for _, id := range []uint64{5, 41} {
		if err := put(s, storetest.Record(id)); err != nil {
			t.Fatal(err)
		}
	}
	s.Delete([]uint64{5, 41}, false, nil)
	s.Sync(t.Context())
	stop()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	if err := os.WriteFile(fmt.Sprintf("../../testdata/store/format%d.db.gz", format), z.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfEveryFormatOpen(t *testing.T) {
	for name, want := range map[string]struct {
		records, seq int
		lastID       uint64
	}{
		"format1.db.gz": {records: 37, seq: 0, lastID: 40},
		"format2.db.gz": {records: 36, seq: 3, lastID: 41},
	} {
		t.Run(name, func(t *testing.T) {
			path := fixture(t, name)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if r := check(t, path); !r.Sound() || r.Records != want.records+1 {
				t.Errorf("as it is: %+v", r)
			}
			// What a crash during an upgrade has left is no obstacle.
			if err := os.WriteFile(path+".upgrade", []byte("half a file"), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				s, stop := running(t, Options{Path: path})
				checkFixture(t, s, want.records, want.lastID)
				if st := s.Stats(); st.Seq != uint64(want.seq) || st.Records != int64(want.records+1) || st.Quarantined != "" {
					t.Errorf("%+v", st)
				}
				stop()
				checkFile(t, path)
			}
			kept, _ := filepath.Glob(path + ".format1-*")
			if name != "format1.db.gz" {
				if len(kept) != 0 {
					t.Errorf("a file of the newest format was rebuilt: %v", kept)
				}
				return
			}
			if len(kept) != 1 {
				t.Fatalf("kept %v", kept)
			}
			if b, _ := os.ReadFile(kept[0]); !bytes.Equal(b, before) {
				t.Error("the old file is not what it was")
			}
		})
	}
}

// checkFixture compares what is loaded with the records of format 1 as they are in
// their own file, of which some must be missing.
func checkFixture(t *testing.T, s *Store, records int, lastID uint64) {
	t.Helper()
	want := map[uint64]*store.Record{}
	if err := Each(t.Context(), fixture(t, "format1.db.gz"), func(r *store.Record) error { want[r.ID] = r; return nil }); err != nil {
		t.Fatal(err)
	}
	if r := want[2]; r == nil || r.Prompt != "What is 2?" || string(r.Answer) != "It is 2." || r.Space != "ollama/all-minilm@sha256:9f/8" ||
		!slices.Equal(r.Vector, []float32{0, 1, 2, 3, 4, 5, 6, 2}) || !slices.Equal(r.Tags, []string{"office", "t2"}) ||
		r.Key != [32]byte{2, 0xAA} || r.Cost != 200*time.Millisecond || !r.Created.Equal(storetest.Epoch) {
		t.Errorf("record 2 of format 1: %+v", r)
	}
	n := 0
	report, err := s.Load(t.Context(), storetest.Epoch, func(r *store.Record) (err error) {
		n++
		if r.Answer, err = s.Answer(r.ID); err != nil || !reflect.DeepEqual(r, want[r.ID]) {
			t.Errorf("record %d reads differently, %v", r.ID, err)
		}
		return nil
	})
	if err != nil || n != records || report.Expired != 1 || report.Corrupt != 0 || report.LastID != lastID {
		t.Errorf("%d records, %+v, %v", n, report, err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := filled(t, 1)
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyFormat, binary.LittleEndian.AppendUint32(nil, format+1))
	})
	before, _ := os.ReadFile(path)
	if _, err := Open(Options{Path: path}); !errors.Is(err, store.ErrVersion) {
		t.Errorf("%v, want ErrVersion", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file of a newer semcached was changed")
	}
}

func TestStateRoundTrip(t *testing.T) {
	st := state{seq: 9, lastID: 8, records: 7, since: 6}
	for name := range uint64(maxLives + 3) {
		st.enter(name + 100)
		st.enter(name + 100)
		st.seq += 10
	}
	b := st.append(nil)
	got, err := decodeState(b)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(st) || len(got.lives) != maxLives {
		t.Errorf("%+v %v", got, err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 4
		if _, err := decodeState(bad); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("byte %d: %v", i, err)
		}
		if _, err := decodeState(b[:i]); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

// TestHistory says which changes belong to a file, life by life.
func TestHistory(t *testing.T) {
	st := state{seq: 30, lives: []life{{1, 0}, {2, 10}, {3, 20}}}
	for _, c := range []struct {
		life, seq uint64
		want      bool
	}{
		{1, 5, true}, {1, 10, true}, {1, 11, false}, // 1 went on in a copy
		{2, 20, true}, {2, 21, false}, {3, 25, true}, {3, 30, true}, {3, 31, false}, {4, 5, false},
	} {
		if st.had(c.life, c.seq) != c.want {
			t.Errorf("change %d of life %d: %v", c.seq, c.life, !c.want)
		}
	}
}

// TestSnapshotsFitTheirFileOnly restores copies and goes on from them, as people do.
func TestSnapshotsFitTheirFileOnly(t *testing.T) {
	path := filled(t, 10)
	early, _ := os.ReadFile(path) // a backup
	s, stop := running(t, Options{Path: path})
	save := func(s *Store, content string) {
		t.Helper()
		if err := s.SaveSnapshot(s.Seq(), func(w io.Writer) error { _, err := io.WriteString(w, content); return err }); err != nil {
			t.Fatal(err)
		}
	}
	has := func(s *Store, want string) {
		t.Helper()
		_, r, err := s.Snapshot()
		if want == "" {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%v, want ErrNotFound", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if b, err := io.ReadAll(r); err != nil || string(b) != want {
			t.Errorf("%q %v, want %q", b, err, want)
		}
	}
	save(s, "ten")
	tenth, _ := os.ReadFile(s.snapshotPath())
	put(s, storetest.Record(11))
	put(s, storetest.Record(12))
	save(s, "twelve")
	stop()
	twelfth, _ := os.ReadFile(s.snapshotPath())

	restore := func(snapshot []byte) (*Store, func()) {
		os.WriteFile(path, early, 0o600)
		os.WriteFile(path+snapshotSuffix, snapshot, 0o600)
		return running(t, Options{Path: path})
	}
	s, stop = restore(twelfth) // reaches beyond the backup
	has(s, "")
	if st := s.Stats(); st.SnapshotSeq != 0 {
		t.Errorf("%+v", st)
	}
	for id := uint64(11); id < 20; id++ { // other changes of the same numbers
		put(s, storetest.Record(id))
	}
	os.WriteFile(path+snapshotSuffix, twelfth, 0o600)
	has(s, "")
	os.WriteFile(path+snapshotSuffix, tenth, 0o600) // covers what both have
	has(s, "ten")
	stop()

	s, stop = restore(tenth)
	has(s, "ten")
	stop()
	other, stopOther := running(t, Options{Path: filled(t, 30)})
	defer stopOther()
	os.WriteFile(other.snapshotPath(), tenth, 0o600)
	has(other, "")

	to := filepath.Join(t.TempDir(), "rewritten.db")
	if _, _, err := Rewrite(context.Background(), path, to, time.UnixMilli(0)); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path+snapshotSuffix, tenth, 0o600)
	if _, err := Replace(to, path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + snapshotSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the snapshot of a replaced file is still there: %v", err)
	}
	os.WriteFile(path+snapshotSuffix, tenth, 0o600)
	s, _ = running(t, Options{Path: path})
	has(s, "")
}
