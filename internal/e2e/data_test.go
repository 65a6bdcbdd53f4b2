package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// tools runs a subcommand and returns what it printed, its exit code included.
func (w *world) tools(args ...string) string {
	w.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = environ()
	out, err := cmd.CombinedOutput()
	code := 0
	if err != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return fmt.Sprintf("%sexit %d", out, code)
}

func wants(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(got, p) {
			t.Errorf("%s: no %q in\n%s", what, p, got)
		}
	}
}

func TestDataTools(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	const river, chat = "Where does the river begin?", `{"model":"standin","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Who built the bridge?"}],"options":{"seed":7}}`
	w.ask(river, "")
	w.do("POST", "/api/chat", chat)
	w.do("POST", "/cache/store", `{"prompt":"Where is the canteen?","answer":"Second floor.","tags":["office"],"durability":"sync"}`)
	dir := t.TempDir()
	data, admin := []string{"--data", w.Data}, []string{"--admin", strings.TrimPrefix(w.Admin, "http://")}
	run := func(name string, more ...string) string {
		return w.tools(append(append([]string{name}, data...), more...)...)
	}

	wants(t, "check beside a server", run("check"), "no server answers at", "exit 3")
	copied := filepath.Join(dir, "copy.db")
	wants(t, "online backup", run("backup", append(admin, "--to", copied)...), "3 records", "from the running server at", "exit 0")
	wants(t, "backup onto a file", run("backup", append(admin, "--to", copied)...), "exit 1")
	w.do("POST", "/cache/invalidate", `{"tag":"office"}`)
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}

	wants(t, "check", run("check"), "2 records", "sound", "exit 0")
	wants(t, "stats", run("stats"), "2 records", "standin:latest", "ollama", "exit 0")
	wants(t, "compact", run("compact"), "2 records", "exit 0")
	wants(t, "offline backup", run("backup", append(admin, "--to", filepath.Join(dir, "offline.db"))...), "2 records", "semcached.db", "exit 0")
	exported := filepath.Join(dir, "all.jsonl")
	wants(t, "restore", run("restore", "--from", copied), "3 records are in place", "before-", "exit 0")
	wants(t, "export", run("export", "--to", exported), "3 entries exported", "exit 0")
	wants(t, "restore of nonsense", run("restore", "--from", exported), "exit 1")
	wants(t, "stats afterwards", run("stats"), "3 records")

	w.Restart()
	if r := w.do("POST", "/cache/lookup", `{"prompt":"where is the canteen"}`); !strings.Contains(r.body, "Second floor.") {
		t.Errorf("the backup was not restored: %s", r.body)
	}

	// Into another server, which embeds anew, and with a plain list beside.
	other := newWorld(t, standin.Options{}, "--embedder", "lexical")
	into := []string{"--url", other.URL}
	wants(t, "import", other.tools(append([]string{"import", "--from", exported}, into...)...), "3 stored, 0 left out, 0 bad", "exit 0")
	list := filepath.Join(dir, "list.jsonl")
	text := `{"question":"When does the shop open?","answer":"At nine."}` + "\n\n" + `{"prompt":"Who has the key?","answer":"The porter.","model":"standin","tags":["faq"]}` + "\n" +
		`{"question":"Old?","answer":"Gone.","expires":"2020-01-01T00:00:00Z"}` + "\n" + `{"question":"Cloud?","answer":"Remote.","provider":"cloud.example/big"}` + "\n"
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "import of a list", other.tools(append([]string{"import", "--from", list}, into...)...), "2 stored, 2 left out", "exit 0")
	if err := os.WriteFile(list, []byte(text+"nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "a broken line", other.tools(append([]string{"import", "--from", list}, into...)...), "line 6: not an entry", "exit 3")
	calls := other.ollama.Calls("/api/chat")
	for what, r := range map[string]reply{
		"exact":    other.ask(river, ""),
		"semantic": other.ask("where does the river begin", ""),
		"system":   other.do("POST", "/api/chat", chat),
		"list":     other.do("POST", "/api/generate", `{"model":"standin","prompt":"Who has the key?"}`),
	} {
		if r.header.Get("X-Cache") != "HIT" {
			t.Errorf("%s: %v %s", what, r.header, r.body)
		}
	}
	if n := other.ollama.Calls("/api/chat"); n != calls {
		t.Errorf("%d calls of the model", n-calls)
	}
}

// A file that is damaged on disk is told about and repaired into a new one.
func TestRepair(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	for i := range 30 {
		w.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":"Question %d of a long list?","answer":"The answer with the number %d.","durability":"sync"}`, i, i))
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.Data, "semcached.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(raw), "The answer with the number 17.")
	if at < 0 {
		t.Fatal("the answer is not in the file")
	}
	for i := range raw { // every copy of it, in old pages as well
		if strings.HasPrefix(string(raw[i:min(len(raw), i+30)]), "The answer with the number 17.") {
			raw[i] ^= 0x20
		}
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	fixed := filepath.Join(t.TempDir(), "fixed.db")
	wants(t, "check", w.tools("check", "--data", w.Data), "1 damaged", "not sound", "exit 1")
	wants(t, "export of what is sound", w.tools("export", "--data", w.Data, "--to", filepath.Join(t.TempDir(), "x")), "29 entries exported", "not all could be read", "exit 3")
	wants(t, "stats of what is sound", w.tools("stats", "--data", w.Data), "29 records", "in 1 places", "exit 3")
	wants(t, "repair", w.tools("check", "--data", w.Data, "--repair", fixed), "29 records written", "1 left out", "exit 0")
	wants(t, "restore", w.tools("restore", "--data", w.Data, "--from", fixed), "29 records", "exit 0")
	w.Restart()
	for i := range 30 {
		r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":"Question %d of a long list?"}`, i))
		if hit := strings.Contains(r.body, fmt.Sprintf("The answer with the number %d.", i)); hit != (i != 17) {
			t.Errorf("%d: %s", i, r.body)
		}
	}
}
