package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

// meetAll reads everything in a store and checks that what it gives is right.
func meetAll(t *testing.T, s *Store) {
	t.Helper()
	s.Load(t.Context(), storetest.Epoch, func(r *store.Record) error {
		if want := storetest.Record(r.ID); r.Prompt != want.Prompt {
			t.Errorf("record %d: prompt %q", r.ID, r.Prompt)
		}
		return nil
	})
	for id := range uint64(1010) {
		if answer, err := s.Answer(id); err == nil && string(answer) != fmt.Sprint("answer ", id) {
			t.Errorf("record %d: answer %q", id, answer)
		}
	}
	s.Expired(storetest.Epoch.Add(1000*time.Hour), 1<<20)
	s.Changes(t.Context(), 0, func(store.Change) error { return nil })
}

// TestDamageWhileOpenIsMended damages page after page under an open store. Whoever
// meets the damage, writers go on at once, and what was not damaged is still there.
func TestDamageWhileOpenIsMended(t *testing.T) {
	path := filled(t, 1000)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	pages := len(whole) / page
	step := max(1, pages/25)
	if testing.Short() {
		step = max(1, pages/8)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var lost []int
	for n := 2 + rng.IntN(step); n < pages; n += step {
		path := filepath.Join(t.TempDir(), "semcached.db")
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		s, stop := running(t, Options{Path: path})
		if err := s.SaveSnapshot(5, func(io.Writer) error { return nil }); err != nil {
			t.Fatal(err)
		}
		seq := s.Seq()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt(bytes.Repeat([]byte{0xff}, page), int64(n*page))
		f.Close()
		// A put at the end, one in the middle and a delete meet some of it.
		for _, id := range []uint64{1001, uint64(rng.IntN(1000) + 1), 1002} {
			if err := put(s, storetest.Record(id)); err != nil {
				t.Errorf("page %d: put: %v", n, err)
			}
		}
		s.Delete([]uint64{1002, uint64(rng.IntN(1000) + 1)}, false, nil)
		if err := s.Sync(t.Context()); err != nil {
			t.Errorf("page %d: %v", n, err)
		}
		meetAll(t, s) // has mended what readers meet
		if err := s.Sync(t.Context()); err != nil {
			t.Errorf("page %d: %v", n, err)
		}
		meetAll(t, s)
		if answer, err := s.Answer(1001); err != nil || string(answer) != "answer 1001" {
			t.Errorf("page %d: an acknowledged write: %q %v", n, answer, err)
		}
		st := s.Stats()
		if st.Seq < seq+4 {
			t.Errorf("page %d: changes went back from %d to %d", n, seq+4, st.Seq)
		}
		lost = append(lost, 1000-int(st.Records))
		if _, _, err := s.Snapshot(); (st.Quarantined == "") != (err == nil) {
			t.Errorf("page %d: moved to %q, snapshot: %v", n, st.Quarantined, err)
		}
		stop()
		if st.Quarantined != "" {
			checkFile(t, path)
		}
		s, _ = running(t, Options{Path: path})
		if _, report := loaded(t, s); int64(report.Records) != st.Records || report.LastID != 1002 {
			t.Errorf("page %d: %+v after opening again, %d records before", n, report, st.Records)
		}
	}
	// The root of a bucket costs all below it. There are few such pages.
	slices.Sort(lost)
	t.Logf("records of 1000 that a page cost: %v", lost)
	if lost[len(lost)/2] > 100 {
		t.Errorf("every other page costs more than %d of 1000 records", lost[len(lost)/2])
	}
}

// TestReadersGoOnWhileTheFileCannotBeOpened refuses to open the file for a while.
func TestReadersGoOnWhileTheFileCannotBeOpened(t *testing.T) {
	path := filled(t, 10)
	refuse := false
	s, _ := running(t, Options{Path: path, openFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if refuse {
			return nil, errors.New("no")
		}
		return os.OpenFile(name, flag, perm)
	}})
	s.writing.Lock()
	refuse = true
	s.reopen()
	s.writing.Unlock()
	if answer, err := s.Answer(3); err != nil || string(answer) != "answer 3" {
		t.Errorf("%q %v", answer, err)
	}
	if err := put(s, storetest.Record(11)); err == nil {
		t.Error("a put without a file succeeded")
	}
	if _, err := Open(Options{Path: path, LockTimeout: 100 * time.Millisecond}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("meanwhile another process may have the file: %v", err)
	}
	s.writing.Lock()
	refuse = false
	s.writing.Unlock()
	if err := put(s, storetest.Record(12)); err != nil {
		t.Error(err)
	}
	if ids, _ := loaded(t, s); len(ids) != 11 {
		t.Errorf("%v", ids)
	}
}

// TestSlowReadersHoldNobodyUp keeps a backup going while the file is opened again.
func TestSlowReadersHoldNobodyUp(t *testing.T) {
	s, _ := running(t, Options{Path: filled(t, 10)})
	r, w := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := s.Backup(w)
		w.CloseWithError(err)
		copied <- err
	}()
	var copyOf bytes.Buffer
	io.CopyN(&copyOf, r, 100)
	s.writing.Lock()
	s.reopen()
	s.writing.Unlock()
	if err := put(s, storetest.Record(11)); err != nil {
		t.Error(err)
	}
	if answer, err := s.Answer(11); err != nil || string(answer) != "answer 11" {
		t.Errorf("%q %v", answer, err)
	}
	io.Copy(&copyOf, r)
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	os.WriteFile(to, copyOf.Bytes(), 0o600)
	if r := check(t, to); !r.Sound() || r.Records != 10 {
		t.Errorf("%+v", r)
	}
}

// TestFullFileRefusesPutsAndTakesDeletes fills a file to its limit.
func TestFullFileRefusesPutsAndTakesDeletes(t *testing.T) {
	// A file grows by an eighth at a time, and deletes may exceed the limit.
	const limit, most = 2 << 20, 3 << 20
	path := filepath.Join(t.TempDir(), "semcached.db")
	s, stop := running(t, Options{Path: path, MaxSize: limit})
	large := func(id uint64) *store.Record {
		r := storetest.Record(id)
		r.Answer = bytes.Repeat([]byte{byte(id)}, 10<<10)
		return r
	}
	id := uint64(1)
	var err error
	for ; err == nil && id < 1000; id++ {
		err = put(s, large(id))
	}
	if !errors.Is(err, store.ErrFull) || id < 100 {
		t.Fatalf("%v after %d records", err, id)
	}
	st := s.Stats()
	if !st.Full || st.Failed != 1 || st.LastErr == "" || st.Bytes > most {
		t.Errorf("%+v", st)
	}
	if _, err := s.Answer(1); err != nil {
		t.Error(err)
	}
	var gone []uint64
	for id := range uint64(50) {
		gone = append(gone, id+1)
	}
	if err := s.Delete(gone, true, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	for i := range uint64(20) {
		if err := put(s, large(2000+i)); err != nil {
			t.Fatalf("with room again: put %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Full || st.LastErr != "" {
		t.Errorf("%+v", st)
	}
	// Churn at the limit does not make the file grow.
	for i := range uint64(300) {
		s.Delete([]uint64{51 + i}, false, nil)
		if err := put(s, large(3000+i)); err != nil && !errors.Is(err, store.ErrFull) {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Bytes > most {
		t.Errorf("%+v", st)
	}
	stop()
	checkFile(t, path)
}

// TestLoadGoesOnWhereNothingCanBeSalvaged damages a leaf and leaves no room for a new file.
func TestLoadGoesOnWhereNothingCanBeSalvaged(t *testing.T) {
	path := filled(t, 1000)
	s, _ := running(t, Options{Path: path})
	if err := os.MkdirAll(path+".salvage/full", 0o700); err != nil {
		t.Fatal(err)
	}
	damageEntry(t, s, 500)
	for range 2 {
		ids, report := loaded(t, s)
		if len(ids) < 900 || len(ids) >= 1000 || report.Corrupt == 0 {
			t.Errorf("%d records, %+v", len(ids), report)
		}
		if slices.Contains(ids, 500) || !slices.Contains(ids, 1) || !slices.Contains(ids, 1000) || !slices.IsSorted(ids) {
			t.Errorf("%v", ids)
		}
	}
	if answer, err := s.Answer(1); err != nil || string(answer) != "answer 1" {
		t.Errorf("%q %v", answer, err)
	}
	// With room again the writer that meets the damage mends it.
	os.RemoveAll(path + ".salvage")
	s.writing.Lock()
	s.salvageNext = time.Time{}
	s.writing.Unlock()
	if err := put(s, storetest.Record(500)); err != nil {
		t.Error(err)
	}
	if ids, report := loaded(t, s); !slices.Contains(ids, 500) || report.Corrupt != 0 {
		t.Errorf("%d records, %+v", len(ids), report)
	}
}

// TestDamagedFilesDoNotPileUp damages the file again and again.
func TestDamagedFilesDoNotPileUp(t *testing.T) {
	path := filled(t, 100)
	for i := range 5 {
		s, stop := running(t, Options{Path: path})
		damageEntry(t, s, 1)
		put(s, storetest.Record(1))
		if st := s.Stats(); st.Quarantined == "" {
			t.Fatalf("round %d: %+v", i, st)
		}
		stop()
	}
	if files, _ := filepath.Glob(path + ".corrupt-*"); len(files) != keptDamaged {
		t.Errorf("%v", files)
	}
}

func TestFilesPutAsideInOneMillisecondAreAllKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "semcached.db")
	const n = 20
	for i := range n {
		os.WriteFile(path, []byte{byte(i)}, 0o600)
		os.WriteFile(path+".new", nil, 0o600)
		aside, err := supplant(path+".new", path, "corrupt")
		if b, _ := os.ReadFile(aside); err != nil || len(b) != 1 || b[0] != byte(i) {
			t.Errorf("%d: %s has %v, %v", i, aside, b, err)
		}
	}
	if kept, _ := filepath.Glob(path + ".corrupt-*"); len(kept) != n {
		t.Errorf("%d of %d are kept", len(kept), n)
	}
}

// damageEntry zeroes the pages that hold a record's metadata, old versions included.
func damageEntry(t *testing.T, s *Store, id uint64) {
	t.Helper()
	var meta []byte
	err := s.view(func(tx *bbolt.Tx) error {
		meta = bytes.Clone(tx.Bucket(bucketEntry).Get(idKey(id)))
		return nil
	})
	if err != nil || meta == nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(s.o.Path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.o.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	for at := 0; ; {
		i := bytes.Index(whole[at:], meta)
		if i < 0 {
			return
		}
		at += i + 1
		f.WriteAt(make([]byte, page), int64(at/page*page))
	}
}
