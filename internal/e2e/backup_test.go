package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// report is what check --json and stats --json print, as far as we look at it.
type report struct {
	Sound, Repaired any
	Records, Format int
	Damaged         int
	Problems        []string
	By              map[string]map[string]int
}

// toolJSON runs a tool with --json and reads its standard output.
func (w *world) toolJSON(args ...string) (r report, code int) {
	w.t.Helper()
	cmd := exec.Command(binary, append(args, "--json")...)
	cmd.Env = environ()
	out, err := cmd.Output()
	if code = cmd.ProcessState.ExitCode(); err != nil && code < 0 {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil && code < 2 {
		w.t.Fatalf("%v: %v: %s", args, err, out)
	}
	return r, code
}

// adminAddr is the value of --admin.
func (w *world) adminAddr() string { return strings.TrimPrefix(w.Admin, "http://") }

// Backups that are made while four clients write are sound, and have everything that was
// durable before they began.
func TestBackupDuringWrites(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	dir := t.TempDir()
	var stored [4]atomic.Int64
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range stored {
		writers.Go(func() {
			for n := int64(1); !closed(stop); n++ {
				r := w.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":"What is in box %d of row %d?","answer":"Item %d of row %d.","durability":"sync"}`, n, i, n, i))
				if r.status != 201 {
					t.Errorf("%d %s", r.status, r.body)
					return
				}
				stored[i].Store(n)
			}
		})
	}
	for n := range 3 {
		w.Eventually("writes", func() error {
			for i := range stored {
				if stored[i].Load() < int64(20*(n+1)) {
					return fmt.Errorf("only %d", stored[i].Load())
				}
			}
			return nil
		})
		var before [4]int64
		for i := range stored {
			before[i] = stored[i].Load()
		}
		path := filepath.Join(dir, fmt.Sprintf("copy%d.db", n))
		if n < 2 {
			wants(t, "backup", w.tools("backup", "--data", w.Data, "--admin", w.adminAddr(), "--to", path), "from the running server at", "exit 0")
		} else {
			cmd := exec.Command(binary, "backup", "--data", w.Data, "--admin", w.adminAddr(), "--to", "-")
			cmd.Env = environ()
			raw, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, code := w.toolJSON("check", "--file", path)
		if code != 0 || r.Sound != true {
			t.Errorf("copy %d: exit %d %+v", n, code, r)
		}
		text := w.tools("export", "--file", path)
		for i := range before {
			for k := int64(1); k <= before[i]; k++ {
				if want := fmt.Sprintf("Item %d of row %d.", k, i); !strings.Contains(text, want) {
					t.Fatalf("copy %d has no %q", n, want)
				}
			}
		}
	}
	close(stop)
	writers.Wait()
	if files, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// With two servers on a machine no copy is made of the wrong one's data, and the tools
// that cannot work beside a server say why.
func TestToolsBesideServers(t *testing.T) {
	w, other := newWorld(t, standin.Options{}, "--embedder", "lexical"), newWorld(t, standin.Options{}, "--embedder", "lexical")
	w.do("POST", "/cache/store", `{"prompt":"Where is it?","answer":"Here.","durability":"sync"}`)
	other.do("POST", "/cache/store", `{"prompt":"Where is it?","answer":"There.","durability":"sync"}`)
	other.do("POST", "/cache/store", `{"prompt":"Where else?","answer":"Nowhere.","durability":"sync"}`)
	to := filepath.Join(t.TempDir(), "copy.db")
	own, wrong := []string{"--data", w.Data, "--admin", w.adminAddr()}, []string{"--data", w.Data, "--admin", other.adminAddr()}
	run := func(name string, flags []string, more ...string) string {
		return w.tools(append(append([]string{name}, flags...), more...)...)
	}
	var all sync.WaitGroup // side by side, for each waits a second for the lock
	say := func(name string, flags []string, more []string, want ...string) {
		all.Go(func() { wants(t, fmt.Sprint(name, more), run(name, flags, more...), want...) })
	}
	say("backup", wrong, []string{"--to", to + ".wrong"}, "is not it", "exit 1")
	say("stats", wrong, nil, "is not it", "exit 1")
	say("backup", own, []string{"--to", to}, "1 records", "exit 0")
	say("stats", own, nil, "a copy of ", "1 records, 0 expired", "exit 0")
	say("check", own, nil, "a copy of ", "sound", "exit 0")
	say("restore", own, []string{"--from", to + ".any"}, "another process has the file open", "exit 1")
	say("compact", own, nil, "another process has the file open", "exit 1")
	all.Wait()
	if r, code := w.toolJSON("stats", "--file", to); code != 0 || r.Records != 1 || r.By["tenant"]["local"] != 1 {
		t.Errorf("exit %d %+v", code, r)
	}
	if files, _ := filepath.Glob(to + "?*"); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestCheckExitCodes(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	w.do("POST", "/cache/store", `{"prompt":"Where is it?","answer":"Here.","durability":"sync"}`)
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.Data, "semcached.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		data []byte // of the file; nil: there is none
		args []string
		code int
	}{
		{"sound", raw, nil, 0}, {"nothing to repair", make([]byte, 20000), []string{"--repair", filepath.Join(t.TempDir(), "new.db")}, 1}, {"repaired onto a file", raw, []string{"--repair", path}, 3},
		{"both meta pages gone", append(make([]byte, 8192), raw[8192:]...), nil, 1}, {"cut off", raw[:8192], nil, 1},
		{"something else", []byte(strings.Repeat("x", 20000)), nil, 1}, {"missing", nil, nil, 3}, {"wrong flag", raw, []string{"--colour"}, 2},
	} {
		file := filepath.Join(t.TempDir(), "x.db")
		if c.data != nil {
			if err := os.WriteFile(file, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, code := w.toolJSON(append([]string{"check", "--file", file}, c.args...)...)
		if code != c.code || code == 0 && (r.Sound != true || r.Records != 1) || code == 1 && (r.Sound != false || len(r.Problems) == 0) {
			t.Errorf("%s: exit %d %+v", c.what, code, r)
		}
	}
	half := filepath.Join(t.TempDir(), "half.db")
	if err := os.WriteFile(half, append(make([]byte, 4096), raw[4096:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, code := w.toolJSON("check", "--file", half); code != 1 || r.Sound != false || r.Records != 1 {
		t.Errorf("one meta page gone: exit %d %+v", code, r)
	}
	fixed := half + ".fixed"
	if r, code := w.toolJSON("check", "--file", half, "--repair", fixed); code != 0 || r.Sound != false || r.Repaired == nil {
		t.Errorf("one meta page gone, repaired: exit %d %+v", code, r)
	}
	if r, code := w.toolJSON("check", "--file", fixed); code != 0 || r.Sound != true || r.Records != 1 {
		t.Errorf("repaired: exit %d %+v", code, r)
	}
}

// A restore leaves no index snapshot of the data before beside the new data, keeps the
// old data, and puts nothing in place that is not sound.
func TestRestore(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	w.do("POST", "/cache/store", `{"prompt":"Where is the pump?","answer":"Here.","durability":"sync"}`)
	const parts = 60
	wants(t, "import", w.tools("import", "--from", questions(t, parts), "--url", w.URL), "exit 0")
	copied := filepath.Join(t.TempDir(), "copy.db")
	wants(t, "backup", w.tools("backup", "--data", w.Data, "--admin", w.adminAddr(), "--to", copied), "61 records", "exit 0")
	w.do("POST", "/cache/store", `{"prompt":"Where was it?","answer":"There.","durability":"sync"}`)
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.Data, "semcached.db")
	if _, err := os.Stat(path + ".snapshot"); err != nil {
		t.Fatal(err) // shutdown makes one
	}
	raw, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, []byte(strings.ReplaceAll(string(raw), "Here.", "HERE.")), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "restore of damage", w.tools("restore", "--data", w.Data, "--from", damaged), "nothing was changed", "exit 1")
	if r, code := w.toolJSON("stats", "--data", w.Data); code != 0 || r.Records != 62 {
		t.Errorf("after a failed restore: exit %d %+v", code, r)
	}
	if _, err := os.Stat(path + ".snapshot"); err != nil {
		t.Error(err)
	}

	cmd := exec.Command(binary, "restore", "--data", w.Data, "--from", "-")
	cmd.Env, cmd.Stdin = environ(), strings.NewReader(string(raw))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wants(t, "restore", string(out), "61 records are in place; what was there is ")
	_, old, _ := strings.Cut(strings.TrimSpace(string(out)), "what was there is ")
	if r, code := w.toolJSON("stats", "--file", old); code != 0 || r.Records != 62 {
		t.Errorf("the old data: exit %d %+v", code, r)
	}
	if _, err := os.Stat(path + ".snapshot"); !os.IsNotExist(err) {
		t.Errorf("a snapshot lies beside the new data: %v", err)
	}
	for range 2 { // then also from a snapshot of what was restored
		w.Restart()
		for _, prompt := range []string{"Where is the pump?", "where is the pump"} {
			if r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":%q}`, prompt)); !strings.Contains(r.body, "Here.") {
				t.Errorf("%s %s", prompt, r.body)
			}
		}
		if r := w.do("POST", "/cache/lookup", `{"prompt":"Where was it?"}`); strings.Contains(r.body, "There.") {
			t.Errorf("%s", r.body)
		}
		w.priced(parts)
		if err := w.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(w.Log(), "by a snapshot and 0 changes") != 1 {
		t.Error("not the second start alone used a snapshot")
	}
}

// The tools work on the files of every format, and a server takes what they make of them.
func TestToolsReadEveryFormat(t *testing.T) {
	for name, c := range map[string]struct{ format, records int }{"format1.db.gz": {1, 38}, "format2.db.gz": {2, 37}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, standin.Options{}, "--embedder", "lexical")
			if err := w.Stop(); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			old, copied, fixed := filepath.Join(dir, "old.db"), filepath.Join(dir, "copy.db"), filepath.Join(dir, "fixed.db")
			if err := os.WriteFile(old, []byte(unzip(t, filepath.Join("../../testdata/store", name))), 0o600); err != nil {
				t.Fatal(err)
			}
			if r, code := w.toolJSON("check", "--file", old); code != 0 || r.Format != c.format || r.Records != c.records {
				t.Errorf("check: exit %d %+v", code, r)
			}
			if r, code := w.toolJSON("stats", "--file", old); code != 0 || r.Records != c.records || r.By["namespace"]["faq"] != 8 {
				t.Errorf("stats: exit %d %+v", code, r)
			}
			wants(t, "restore", w.tools("restore", "--data", w.Data, "--from", old), fmt.Sprintf("%d records are in place", c.records), "exit 0")
			wants(t, "backup", w.tools("backup", "--data", w.Data, "--to", copied), fmt.Sprintf("%d records", c.records), "exit 0")
			if r, code := w.toolJSON("check", "--file", copied); code != 0 || r.Format != c.format || r.Records != c.records {
				t.Errorf("check of the copy: exit %d %+v", code, r)
			}
			wants(t, "repair", w.tools("check", "--file", copied, "--repair", fixed), "records written to", "exit 0")
			if r, code := w.toolJSON("check", "--file", fixed); code != 0 || r.Format != 2 {
				t.Errorf("check of the rewritten file: exit %d %+v", code, r)
			}
			wants(t, "compact", w.tools("compact", "--data", w.Data), "bytes became", "exit 0")
			if r, code := w.toolJSON("check", "--data", w.Data); code != 0 || r.Format != 2 {
				t.Errorf("check of the compacted file: exit %d %+v", code, r)
			}
			wants(t, "restore of the copy", w.tools("restore", "--data", w.Data, "--from", copied), "exit 0")
			w.Restart() // in place of the old format
			if err := w.Stop(); err != nil {
				t.Fatal(err)
			}
			if r, code := w.toolJSON("check", "--data", w.Data); code != 0 || r.Format != 2 {
				t.Errorf("check after the server: exit %d %+v", code, r)
			}
		})
	}
}
