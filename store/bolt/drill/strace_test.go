package drill

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// calls are those by which a store changes what is on disk.
var calls = []string{"pwrite64", "fdatasync", "fsync", "ftruncate", "write", "rename", "renameat", "renameat2", "unlink", "unlinkat", "linkat", "openat"}

// TestKillAtEveryCall kills the process when it is about to make the first, the second, ... call of each
// kind, until it gets to its end without being hit. Between two kills lies one call. It does so to a process that
// writes, and to one that saves a snapshot and compacts.
func TestKillAtEveryCall(t *testing.T) {
	needDrill(t)
	needStrace(t)
	t.Run("writing", func(t *testing.T) {
		everyCall(t, childConfig{Seed: 1, Workers: 1, Batches: scale(0, 12, 25), Live: 10, Chores: 2}, scale(0, 13, 1), nil, make(model))
	})
	t.Run("snapshot and compaction", func(t *testing.T) {
		y, dir, m := new(tally), t.TempDir(), make(model)
		p := start(t, childConfig{Dir: dir, Seed: 1, Workers: 1, Batches: scale(0, 20, 60), Live: 20, Chores: 1})
		if end := p.wait(); end != "exit 0" {
			t.Fatalf("%s\n%s", end, p.log.String())
		}
		m.hear(y, &p.said)
		m.verify(y, dir, nil)
		for _, problem := range y.problems {
			t.Error(problem)
		}
		everyCall(t, childConfig{Workers: 0, Chores: 2}, scale(0, 3, 1), os.DirFS(dir), m)
	})
}

// everyCall starts each process from the files of from, which was written according to m.
func everyCall(t *testing.T, c childConfig, step int, from fs.FS, m model) {
	y, dir := new(tally), filepath.Join(scratch(t), "data")
	for _, call := range calls {
		hits := 0
		for n := 1; ; n += step {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if from != nil {
				if err := os.CopyFS(dir, from); err != nil {
					t.Fatal(err)
				}
			}
			m, c := m.copy(), c
			c.Dir, c.Base = dir, 1<<32
			p := start(t, c, inject(fmt.Sprintf("%s:signal=KILL:when=%d", call, n))...)
			end := p.wait()
			if end != "killed" && end != "exit 0" {
				t.Fatalf("%s %d: %s\n%s", call, n, end, p.log.String())
			}
			m.hear(y, &p.said)
			m.verify(y, dir, nil)
			if end == "exit 0" {
				break
			}
			hits++
		}
		if hits > 0 {
			y.note("killed at %d of the %s", hits, call)
		}
	}
	y.finish(t)
}

// TestCommitsThatFail: the disk refuses to write or to sync. Acknowledgements stay true, lookups go on, and when
// the disk is well again so is the store.
func TestCommitsThatFail(t *testing.T) {
	needDrill(t)
	needStrace(t)
	batches := scale(0, 60, 400)
	for _, c := range []struct{ name, inject string }{
		// A commit syncs its pages, then its meta page. The step after a failed sync is odd to meet pages
		// again, even to meet meta pages: those commits are in the file all the same.
		{"sync of pages now and then", "fdatasync:error=EIO:when=21+9"},
		{"sync of meta pages now and then", "fdatasync:error=EIO:when=22+10"},
		{"sync for a while", "fdatasync:error=EIO:when=21..40"},
		{"write now and then", "pwrite64:error=EIO:when=41+70"},
		{"write for a while", "pwrite64:error=EIO:when=41..60"},
		{"no room now and then", "pwrite64:error=ENOSPC:when=42+70"},
		{"no room for a while", "pwrite64:error=ENOSPC:when=42..61"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y, dir, m := new(tally), t.TempDir(), make(model)
			p := start(t, childConfig{Dir: dir, Seed: 2, Workers: 2, Batches: batches, Live: 60, Chores: scale(0, 4, 20), Readers: true, Pause: time.Millisecond},
				inject(c.inject)...)
			if end := p.wait(); end != "exit 0" {
				t.Errorf("%s\n%s", end, p.log.String())
			}
			m.hear(y, &p.said)
			m.submit(0, state{gone: true}) // each failure begins a life, and a snapshot of 16 lives ago is no good
			m.verify(y, dir, nil)
			if y.failed == 0 || y.recovered == 0 {
				t.Errorf("%d failed, then %d acknowledged: the drill drills nothing", y.failed, y.recovered)
			}
			y.finish(t)
		})
	}
}

// TestSlowDisk prints the times of lookups with a disk that syncs at once beside those with one that takes
// 50 ms for each. They ought to be alike; a busy machine may not judge that.
func TestSlowDisk(t *testing.T) {
	needDrill(t)
	needStrace(t)
	for _, c := range []struct{ name, fault string }{{"quick", "fdatasync:delay_exit=1"}, {"slow", "fdatasync:delay_exit=50000"}} {
		t.Run(c.name, func(t *testing.T) {
			y, dir, m := new(tally), t.TempDir(), make(model)
			p := start(t, childConfig{Dir: dir, Seed: 3, Workers: 2, Batches: scale(0, 20, 200), Live: 60, Readers: true},
				inject(c.fault)...)
			if end := p.wait(); end != "exit 0" {
				t.Errorf("%s\n%s", end, p.log.String())
			}
			m.hear(y, &p.said)
			m.verify(y, dir, nil)
			y.finish(t)
		})
	}
}
