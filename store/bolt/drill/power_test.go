package drill

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPowerFailure records every call by which a process changed its files, then lets the power fail after each
// of them, with none, all, and random parts of what had not been synced on the disk.
func TestPowerFailure(t *testing.T) {
	needDrill(t)
	needStrace(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	y, dir, trace := new(tally), t.TempDir(), filepath.Join(t.TempDir(), "strace")
	p := start(t, childConfig{Dir: dir, Seed: seed, Workers: 2, Batches: scale(0, 8, 40), Live: 20, Chores: scale(0, 1, 4)}, recordTo(trace)...)
	if end := p.wait(); end != "exit 0" {
		t.Fatalf("%s\n%s", end, p.log.String())
	}
	moments, err := readTrace(trace)
	if err != nil {
		t.Fatal(err)
	}
	d, m := newDisk(dir), make(model)
	to := filepath.Join(scratch(t), "data")
	for _, now := range moments {
		if now.name == "sendto" && !now.ends {
			m.hear(y, strings.NewReader(now.texts[0]))
			continue
		}
		changed, err := d.apply(now)
		if err != nil {
			t.Fatal(err)
		}
		if !changed {
			continue
		}
		ways := []luck{none}
		if d.atRisk() {
			ways = append(ways, all)
			for range scale(0, 2, 8) {
				ways = append(ways, some)
			}
		}
		for _, l := range ways {
			if err := d.fail(to, l, rng); err != nil {
				t.Fatal(err)
			}
			m.copy().verify(y, to, nil)
		}
	}
	if y.acked == 0 {
		t.Error("nothing was acknowledged: the drill drills nothing")
	}
	y.note("%d calls, %d power failures", len(moments)/2, y.rounds)
	y.finish(t)
}

// scratch is a folder for thousands of short-lived files: in memory if there is room.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "drill")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
