package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// A tool that is killed at any of its calls that change the disk leaves sound data under
// the right names, and does its work when it is run again.
func TestToolsSurviveKills(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: five seconds of strace")
	}
	strace := tool(t, "strace")
	if out, err := exec.Command(strace, "-D", "-f", "-o", "/dev/null", "true").CombinedOutput(); err != nil && os.Getenv("SEMCACHED_REQUIRE_TOOLS") == "" {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	dir := t.TempDir()
	copied := filepath.Join(dir, "copy.db")
	for _, q := range []string{"one", "two", "three"} {
		w.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":"What is %s?","answer":"A number.","tags":[%q],"durability":"sync"}`, q, q))
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	wants(t, "backup", w.tools("backup", "--data", w.Data, "--to", copied), "3 records", "exit 0")
	w.Restart()
	w.do("POST", "/cache/invalidate", `{"tag":"two"}`)
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.Data, "semcached.db")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "to.db")
	for _, c := range []struct {
		args    []string
		records []int // that the data may have afterwards
	}{
		{[]string{"compact", "--data", w.Data}, []int{2}},
		{[]string{"restore", "--data", w.Data, "--from", copied}, []int{2, 3}},
		{[]string{"backup", "--data", w.Data, "--to", to}, []int{2}},
	} {
		kills := 0
		for _, call := range []string{"linkat", "unlinkat", "renameat", "fsync", "fdatasync", "ftruncate", "pwrite64", "write"} {
			for n := 1; ; n++ {
				os.RemoveAll(w.Data)
				os.Remove(to)
				if err := os.Mkdir(w.Data, 0o700); err != nil {
					t.Fatal(err)
				}
				for name, what := range map[string][]byte{path: before, path + ".snapshot": []byte("an index")} {
					if err := os.WriteFile(name, what, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				// -D: the tool is our child, and strace its own; -f: threads too, of
				// which each counts its own calls.
				cmd := exec.Command(strace, append([]string{"-D", "-f", "-o", "/dev/null", "-e", "trace=" + call,
					"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), binary}, c.args...)...)
				cmd.Env = append(environ(), "GOMAXPROCS=1")
				out, err := cmd.CombinedOutput()
				killed := err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
				if err != nil && !killed {
					t.Fatalf("%s %d: %v: %s", call, n, err, out)
				}
				where := fmt.Sprintf("%s, killed at %s %d", c.args[0], call, n)
				r, code := w.toolJSON("check", "--data", w.Data)
				if code != 0 || r.Records != c.records[0] && r.Records != c.records[len(c.records)-1] {
					t.Fatalf("%s: exit %d %+v", where, code, r)
				}
				if _, err := os.Stat(to); err == nil {
					if r, code := w.toolJSON("check", "--file", to); code != 0 || r.Records != 2 {
						t.Fatalf("%s: the copy: exit %d %+v", where, code, r)
					}
					os.Remove(to)
				}
				if !killed {
					break
				}
				kills++
				wants(t, where+", again", w.tools(c.args...), fmt.Sprintf("%d records", c.records[len(c.records)-1]), "exit 0")
				if r, code := w.toolJSON("check", "--data", w.Data); code != 0 || r.Records != c.records[len(c.records)-1] {
					t.Fatalf("%s, again: exit %d %+v", where, code, r)
				}
			}
		}
		t.Logf("%s: killed at %d calls", c.args[0], kills)
		if kills < 3 {
			t.Errorf("%s: %d kills: the test looks at nothing", c.args[0], kills)
		}
	}
}
