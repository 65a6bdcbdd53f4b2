package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

func check(t *testing.T, path string) *Report {
	t.Helper()
	r, err := Check(t.Context(), path, storetest.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func each(t *testing.T, path string) (ids []uint64) {
	t.Helper()
	err := Each(t.Context(), path, func(r *store.Record) error {
		if want := storetest.Record(r.ID); !bytes.Equal(r.Answer, want.Answer) || !slices.Equal(r.Vector, want.Vector) {
			t.Errorf("record %d reads differently", r.ID)
		}
		ids = append(ids, r.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestCheckFindsNothingWrongWithASoundFile(t *testing.T) {
	path := filled(t, 700)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := check(t, path); !r.Sound() || r.Records != 700 || r.Damaged+r.Stray+r.Quarantined != 0 || r.Bytes == 0 {
		t.Errorf("%+v", r)
	}
	if ids := each(t, path); len(ids) != 700 || ids[699] != 700 {
		t.Errorf("%d records", len(ids))
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("looking at the file has changed it")
	}
	if r, err := Check(t.Context(), path, storetest.Epoch.Add(1000*time.Hour)); err != nil || r.Expired == 0 || r.Records != 700 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestCheckNamesWhatIsWrongAndRewriteLeavesItOut(t *testing.T) {
	path := filled(t, 600)
	edit(t, path, func(tx *bbolt.Tx) error {
		v := bytes.Clone(tx.Bucket(bucketEntry).Get(idKey(20)))
		v[40] ^= 1
		if err := tx.Bucket(bucketEntry).Put(idKey(20), v); err != nil {
			return err
		}
		if err := tx.Bucket(bucketAnswer).Delete(idKey(30)); err != nil {
			return err
		}
		return tx.Bucket(bucketAnswer).Put(idKey(9999), []byte("nobody's"))
	})
	r := check(t, path)
	if r.Sound() || r.Records != 598 || r.Damaged != 2 || r.Stray != 1 || len(r.Problems) != 3 {
		t.Errorf("%+v", r)
	}
	to := filepath.Join(t.TempDir(), "new.db")
	kept, left, err := Rewrite(t.Context(), path, to, storetest.Epoch)
	if err != nil || kept != 598 || left != 2 {
		t.Fatalf("%d %d %v", kept, left, err)
	}
	if r := check(t, to); !r.Sound() || r.Records != 598 {
		t.Errorf("the new file: %+v", r)
	}
	if ids := each(t, to); len(ids) != 598 || slices.Contains(ids, 20) || slices.Contains(ids, 30) {
		t.Errorf("%d records", len(ids))
	}
	if _, _, err := Rewrite(t.Context(), path, to, storetest.Epoch); !errors.Is(err, os.ErrExist) {
		t.Errorf("onto a file that is there: %v", err)
	}
}

func TestDamagedPagesDoNotEndTheWalk(t *testing.T) {
	path := filled(t, 3000)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := len(raw) / 4096
	worst := 3000
	for n := 5; n < pages; n += 1 + pages/20 {
		bad := bytes.Clone(raw)
		for i := n * 4096; i < n*4096+4096; i++ {
			bad[i] = 0xff
		}
		hurt := filepath.Join(t.TempDir(), fmt.Sprint(n, ".db"))
		if err := os.WriteFile(hurt, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Check(t.Context(), hurt, storetest.Epoch)
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("page %d: %v", n, err)
		}
		if err != nil {
			continue // not even a start
		}
		kept, _, err := Rewrite(t.Context(), hurt, hurt+".new", storetest.Epoch)
		if err != nil {
			t.Fatalf("page %d: %v", n, err)
		}
		worst = min(worst, kept)
		if got := check(t, hurt+".new"); !got.Sound() || got.Records != kept {
			t.Errorf("page %d: the rewritten file: %+v, %d kept; before: %+v", n, got, kept, r)
		}
		for _, id := range each(t, hurt+".new") {
			if id == 0 || id > 3000 {
				t.Errorf("page %d: record %d out of nowhere", n, id)
			}
		}
	}
	t.Logf("%d pages; the worst one cost %d of 3000 records", pages, 3000-worst)
}

func TestRewriteGivesRoomBack(t *testing.T) {
	path := filled(t, 3000)
	s, stop := running(t, Options{Path: path})
	var gone []uint64
	for id := range uint64(2900) {
		gone = append(gone, id+1)
	}
	s.Delete(gone, false, nil)
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	before := check(t, path)
	if before.Records != 100 || before.Free < before.Bytes/2 {
		t.Fatalf("%+v", before)
	}
	if _, _, err := Rewrite(t.Context(), path, path+".new", storetest.Epoch); err != nil {
		t.Fatal(err)
	}
	old, err := Replace(path+".new", path)
	if err != nil {
		t.Fatal(err)
	}
	after := check(t, path)
	if after.Records != 100 || after.Bytes > before.Bytes/4 || check(t, old).Records != 100 {
		t.Errorf("%+v, before %+v", after, before)
	}
	if ids := each(t, path); ids[0] != 2901 {
		t.Errorf("%v", ids[:3])
	}
}

func TestToolsAndServersExcludeEachOther(t *testing.T) {
	path := filled(t, 5)
	_, stop := running(t, Options{Path: path})
	if _, err := Check(t.Context(), path, storetest.Epoch); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while a server runs: %v", err)
	}
	stop()
	if r := check(t, path); r.Records != 5 {
		t.Errorf("%+v", r)
	}
	for name, content := range map[string]string{"empty": "", "foreign": "not a database at all", "large": string(make([]byte, 1<<16))} {
		p := filepath.Join(t.TempDir(), name)
		os.WriteFile(p, []byte(content), 0o600)
		if _, err := Check(t.Context(), p, storetest.Epoch); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if after, _ := os.ReadFile(p); string(after) != content {
			t.Errorf("%s: changed", name)
		}
	}
	if _, err := Check(t.Context(), filepath.Join(t.TempDir(), "nowhere"), storetest.Epoch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestCopyIsAFile(t *testing.T) {
	path := filled(t, 50)
	var b bytes.Buffer
	if err := Copy(path, &b); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := check(t, to); !r.Sound() || r.Records != 50 {
		t.Errorf("%+v", r)
	}
}
