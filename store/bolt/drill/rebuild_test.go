package drill

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKillDuringRebuild kills the process at every call while it makes a new file out of one of format 1, or out of
// a damaged one. Whatever is left, the next start ends up with the same records.
func TestKillDuringRebuild(t *testing.T) {
	needDrill(t)
	needStrace(t)
	for _, c := range []struct {
		name string
		file []byte
		kept string // the name under which the old file is kept
	}{
		{"upgrade", unpack(t, "../../../testdata/store/format1.db.gz"), ".format1-"},
		{"salvage", salvageable(t), ".corrupt-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y, dir := new(tally), filepath.Join(scratch(t), "data")
			lay(t, dir, c.file)
			want := contents(t, dir)
			for _, call := range calls {
				for n := 1; ; n += scale(0, 5, 1) {
					lay(t, dir, c.file)
					p := start(t, childConfig{Dir: dir}, inject(fmt.Sprintf("%s:signal=KILL:when=%d", call, n))...)
					end := p.wait()
					if end != "killed" && end != "exit 0" {
						t.Fatalf("%s %d: %s\n%s", call, n, end, p.log.String())
					}
					y.rounds++
					if got := contents(t, dir); !maps.Equal(got, want) {
						y.problem(&y.lost, "%s %d: %d records, not the same as %d", call, n, len(got), len(want))
					}
					y.leftovers(t, dir, c.kept)
					if end == "exit 0" {
						break
					}
				}
			}
			y.note("%d records each time", len(want))
			y.finish(t)
		})
	}
}

// lay makes a folder with a data file.
func lay(t *testing.T, dir string, file []byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, dataFile), file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// salvageable returns a data file with damaged pages that make the store replace it by the most of it.
func salvageable(t *testing.T) []byte {
	t.Helper()
	data, _, records := soundFiles(t)
	dir, rng := filepath.Join(scratch(t), "data"), rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		b := append([]byte(nil), data...)
		clear(page(b, 2, rng))
		lay(t, dir, b)
		n := len(contents(t, dir))
		if aside, _ := filepath.Glob(filepath.Join(dir, "*.corrupt-*")); len(aside) > 0 && n > records/2 {
			return b
		}
	}
	t.Fatal("no damage is salvaged")
	return nil
}

// contents returns the prompt and answer of every record that can be read. The data are opened twice: the first time
// they are rebuilt, if that is due.
func contents(t *testing.T, dir string) (found map[uint64]string) {
	t.Helper()
	for range 2 {
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.all()
		if err != nil {
			t.Fatal(err)
		}
		found = make(map[uint64]string)
		for id, r := range all {
			if answer, err := s.Answer(id); err == nil {
				found[id] = r.Prompt + "\x00" + string(answer)
			}
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	return found
}

// leftovers judges what lies beside the data file: the old file must have been kept, half-made ones must not.
func (y *tally) leftovers(t *testing.T, dir, kept string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := 0
	for _, f := range files {
		switch suffix := strings.TrimPrefix(f.Name(), dataFile); {
		case suffix == "", suffix == ".reserve":
		case strings.HasPrefix(suffix, kept):
			old++
		default:
			y.problem(&y.unsound, "left behind: %s", f.Name())
		}
	}
	if old == 0 {
		y.problem(&y.lost, "the old file was not kept")
	}
}

// unpack reads a compressed file.
func unpack(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
