package drill

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const pageSize = 4096 // the unit of damage; bbolt's pages are as large as those of the machine, or larger

// damages are what happens to files. b is a copy of the data file, rng says where.
var damages = []struct {
	name string
	do   func(b []byte, rng *rand.Rand) []byte
}{
	{"truncated", func(b []byte, rng *rand.Rand) []byte { return b[:rng.IntN(len(b))] }},
	{"one bit flipped", func(b []byte, rng *rand.Rand) []byte {
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		return b
	}},
	{"a page zeroed", func(b []byte, rng *rand.Rand) []byte { clear(page(b, 1, rng)); return b }},
	{"a sector of garbage", func(b []byte, rng *rand.Rand) []byte {
		at := rng.IntN(len(b)/sector) * sector
		garbage(b[at:at+sector], rng)
		return b
	}},
	{"a page written in the place of another", func(b []byte, rng *rand.Rand) []byte {
		copy(page(b, 2, rng), page(b, 2, rng))
		return b
	}},
	{"an eighth of the pages zeroed", func(b []byte, rng *rand.Rand) []byte {
		for range len(b) / pageSize / 8 {
			clear(page(b, 2, rng))
		}
		return b
	}},
	{"first meta page zeroed", func(b []byte, rng *rand.Rand) []byte { clear(b[:pageSize]); return b }},
	{"second meta page zeroed", func(b []byte, rng *rand.Rand) []byte { clear(b[pageSize : 2*pageSize]); return b }},
	{"a meta page of garbage", func(b []byte, rng *rand.Rand) []byte {
		at := rng.IntN(2) * pageSize
		garbage(b[at:at+pageSize], rng)
		return b
	}},
	{"both meta pages zeroed", func(b []byte, rng *rand.Rand) []byte { clear(b[:2*pageSize]); return b }},
	{"nothing but garbage", func(b []byte, rng *rand.Rand) []byte { garbage(b, rng); return b }},
	{"empty", func(b []byte, rng *rand.Rand) []byte { return b[:0] }},
}

// page returns a random page behind the first ones.
func page(b []byte, first int, rng *rand.Rand) []byte {
	at := (first + rng.IntN(len(b)/pageSize-first)) * pageSize
	return b[at : at+pageSize]
}

func garbage(b []byte, rng *rand.Rand) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

// TestDamage damages the data file and the snapshot in many ways, each in front of a process that checks, opens,
// reads and writes it. The process survives, is there soon, serves nothing that was not written, and keeps what
// it is given afterwards.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	data, snapshot, records := soundFiles(t)
	dir := filepath.Join(scratch(t), "data")
	trials := scale(1, 6, 60)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			y := new(tally)
			r := &damageReport{tally: y}
			for range trials {
				r.trial(t, dir, d.do(append([]byte(nil), data...), rng), snapshot)
			}
			if r.unclean > 0 {
				y.note("closing told of damage %d times", r.unclean)
			}
			if r.unsound > 0 {
				y.note("not sound: %.200s", r.why)
			}
			y.note("of %d records %d served on average, %d at least; seen by check %d times; not quite sound afterwards %d times",
				records, r.kept/trials, r.least, r.seen, r.unsound)
			y.finish(t)
		})
	}
	t.Run("truncated while open", func(t *testing.T) {
		r := &damageReport{tally: new(tally)}
		for range trials {
			r.cut = int64(1 + rng.IntN(len(data)))
			r.trial(t, dir, data, snapshot)
		}
		r.finish(t)
	})
	t.Run("snapshot", func(t *testing.T) {
		y := new(tally)
		r := &damageReport{tally: y}
		for _, d := range damages[:4] {
			for range trials {
				r.trial(t, dir, data, d.do(append([]byte(nil), snapshot...), rng))
			}
		}
		if r.least != records {
			t.Errorf("a damaged snapshot lost records: %d of %d", r.least, records)
		}
		y.finish(t)
	})
}

type damageReport struct {
	*tally
	kept, least, seen, unclean, unsound int
	why                                 string // the last was not sound
	cut                                 int64  // where the file is to be cut while it is open, if not 0
}

func (r *damageReport) trial(t *testing.T, dir string, data, snapshot []byte) {
	t.Helper()
	lay(t, dir, data)
	if err := os.WriteFile(filepath.Join(dir, dataFile+".snapshot"), snapshot, 0o600); err != nil {
		t.Fatal(err)
	}
	keep := append([]byte(nil), data...)
	p := start(t, childConfig{Dir: dir, Base: 1 << 32, Probe: true, Cut: r.cut})
	end := p.wait()
	r.rounds++
	done := false
	for line := range strings.Lines(p.said.String()) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseInt(rest, 10, 64)
		switch kind {
		case "B":
			r.problem(&r.corrupt, "%s", line)
		case "T":
			r.worst = max(r.worst, time.Duration(n))
		case "K":
			r.kept += int(n)
			if r.least = min(r.least, int(n)); r.rounds == 1 {
				r.least = int(n)
			}
		case "N":
			r.seen++
		case "C":
			r.unclean++
		case "U":
			r.unsound++
			r.why = rest
		case "Z":
			done = true
		}
	}
	if !done {
		log := p.log.String()
		r.problem(&r.lost, "%s: %.3000s", end, log)
	}
	if r.nproblems > 0 && os.Getenv("SEMCACHED_DRILL_KEEP") != "" {
		path := filepath.Join(os.Getenv("SEMCACHED_DRILL_KEEP"), fmt.Sprintf("damaged-%d.db", time.Now().UnixNano()))
		os.WriteFile(path, keep, 0o600)
		t.Logf("kept as %s", path)
	}
}

// soundFiles returns a data file that has seen puts, replacements and deletes, the snapshot beside it, and how many
// records are in it.
func soundFiles(t *testing.T) (data, snapshot []byte, records int) {
	t.Helper()
	dir := scratch(t)
	s, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &filler{s: s, m: make(model), y: new(tally)}
	for i := range 400 {
		if err := f.put(); err != nil {
			t.Fatal(err)
		}
		if i%8 == 7 {
			if err := f.delete(f.live[len(f.live)-3 : len(f.live)-1]); err != nil {
				t.Fatal(err)
			}
			f.live = append(f.live[:len(f.live)-3], f.live[len(f.live)-1])
		}
		if i == 300 {
			seq := s.Seq()
			if err := s.SaveSnapshot(seq, func(w io.Writer) error {
				_, err := w.Write(snapshotOf(seq))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	records = len(f.live)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*[]byte{&data, &snapshot} {
		name := filepath.Join(dir, dataFile)
		if p == &snapshot {
			name += ".snapshot"
		}
		if *p, err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return data, snapshot, records
}
