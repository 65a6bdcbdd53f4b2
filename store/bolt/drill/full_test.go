package drill

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/semcached/semcached/store"
)

// TestFullDisk fills a disk of 24 MB. Puts are refused then; what is there can be looked up, also after a
// restart; deleting works and makes room; and so does a disk that gets room.
func TestFullDisk(t *testing.T) {
	needDrill(t)
	disk := t.TempDir()
	if err := syscall.Mount("drill", disk, "tmpfs", 0, "size=24m"); err != nil {
		lacking(t, "a tmpfs cannot be mounted: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir, ballast := filepath.Join(disk, "data"), filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	y, m := new(tally), make(model)
	s, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &filler{s: s, m: m, y: y}
	defer func() { f.s.close() }() // before the disk goes

	f.fill()
	before := len(f.live)
	y.note("%d records in 18 MB, file %d bytes", before, size(filepath.Join(dir, dataFile)))
	f.lookups()

	// A restart, with the disk still full.
	if err := s.close(); err != nil {
		y.problem(&y.unsound, "close: %v", err)
	}
	m.verify(y, dir, nil)
	if s, err = open(dir); err != nil {
		t.Fatalf("opening on a full disk: %v", err)
	}
	f.s = s

	// Deleting makes room without any help.
	half := f.live[:len(f.live)/2]
	f.live = f.live[len(half):]
	for n := 0; len(half) > 0; half = half[n:] {
		n = min(len(half), 16)
		if err := f.delete(half[:n]); err != nil {
			t.Fatalf("a delete on a full disk: %v", err)
		}
	}
	for i := range 300 {
		if err := f.put(); err != nil {
			t.Fatalf("put %d after half of it was deleted: %v", i, err)
		}
	}
	f.lookups()

	// Full again, and then the disk gets room.
	f.fill()
	y.note("%d records before, %d after half of them went and others came", before, len(f.live))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := f.put(); err != nil {
			t.Fatalf("put %d after the disk got room: %v", i, err)
		}
	}
	f.lookups()
	if err := s.close(); err != nil {
		y.problem(&y.unsound, "close: %v", err)
	}
	m.verify(y, dir, nil)
	y.finish(t)
}

// filler writes one change after the other and keeps the model.
type filler struct {
	s    *opened
	m    model
	y    *tally
	op   uint64
	live []uint64 // acknowledged
}

func (f *filler) put() error {
	f.op++
	done := make(chan error, 1)
	f.m[f.op] = []state{{gone: true}, {op: f.op}}
	err := f.s.Put(record(f.op, f.op), true, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	if err != nil {
		f.y.failed++
		return err
	}
	f.y.acked++
	f.m[f.op] = f.m[f.op][1:]
	f.live = append(f.live, f.op)
	return nil
}

// fill puts until a hundred in a row are refused.
func (f *filler) fill() {
	for refused := 0; refused < 100; {
		if refused++; f.put() == nil {
			refused = 0
		}
	}
}

func (f *filler) delete(ids []uint64) error {
	f.op++
	done := make(chan error, 1)
	err := f.s.Delete(append([]uint64(nil), ids...), true, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	for _, id := range ids {
		if err == nil {
			f.m[id] = []state{{op: f.op, gone: true}}
			f.y.acked++
		} else {
			f.m[id] = append(f.m[id], state{op: f.op, gone: true})
			f.y.failed++
		}
	}
	return err
}

// lookups reads every record that is there.
func (f *filler) lookups() {
	for _, id := range f.live {
		got, err := f.s.Answer(id)
		if err != nil && !errors.Is(err, store.ErrNotFound) || string(got) != string(answer(id, id)) {
			f.y.problem(&f.y.corrupt, "lookup of %d: %v", id, err)
		}
	}
}
