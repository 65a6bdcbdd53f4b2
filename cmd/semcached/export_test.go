package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Wherever an export is cut off, going on keeps the whole lines before, and says which
// entry was the last.
func TestEndOfExport(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	entry := func(id int) string {
		return fmt.Sprintf(`{"id":"%016x","request":{"prompt":%q},"answer":"x"}`+"\n", id, strings.Repeat("a", rng.IntN(40)))
	}
	for _, name := range []string{"all.jsonl", "all.jsonl.gz"} {
		path := filepath.Join(t.TempDir(), name)
		tool := &dataTool{environment: environment{stderr: io.Discard}, given: map[string]string{}}
		out, _, err := tool.openExport(path)
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for id := 1; id <= 60; id++ {
			if id%7 == 0 {
				out.room = 0 // a member ends
			}
			l := entry(id)
			want.WriteString(l)
			out.Write([]byte(l))
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tool.given["resume"] = "on"
		for cut := 0; cut <= len(whole); cut = max(cut+1, min(cut+1+rng.IntN(len(whole)/50), len(whole))) {
			if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			out, after, err := tool.openExport(path)
			if err != nil {
				t.Fatalf("%s cut at %d: %v", name, cut, err)
			}
			out.Write([]byte(entry(int(after) + 1)))
			out.Close()
			got := text(t, path)
			lines := strings.SplitAfter(got, "\n")
			if n := len(lines) - 1; n != int(after)+1 || lines[n] != "" {
				t.Fatalf("%s cut at %d: %d lines, and the last entry was %d", name, cut, n, after)
			}
			if before := strings.Join(lines[:after], ""); !strings.HasPrefix(want.String(), before) {
				t.Fatalf("%s cut at %d: %s", name, cut, got)
			}
			if cut == len(whole) && after != 60 || cut == 0 && after != 0 {
				t.Errorf("%s cut at %d: the last entry was %d", name, cut, after)
			}
		}
		for what, other := range map[string]string{"a list": `{"question":"Why?","answer":"So."}` + "\n", "nonsense": "nonsense\n"} {
			if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := tool.openExport(path); err == nil {
				t.Errorf("%s: %s was gone on with", name, what)
			}
			if raw, _ := os.ReadFile(path); string(raw) != other {
				t.Errorf("%s: %s was changed", name, what)
			}
		}
	}
}

// text reads a file, gzipped or not.
func text(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return string(raw)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProgress(t *testing.T) {
	n := 0
	state := func() []any { n++; return []any{"lines", n, "bad", 0} }
	var b bytes.Buffer
	m := &meter{name: "import", w: &b, watch: true, state: state}
	m.show()
	m.show()
	m.note("line 3: wrong")
	m.show()
	m.note("")
	if want := "import  lines 1  bad 0\r\x1b[Kimport  lines 2  bad 0\r\x1b[Kline 3: wrong\nimport  lines 3  bad 0\r\x1b[K"; b.String() != want {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	tool := &dataTool{environment: environment{stderr: &b}}
	tool.c, _, _ = load(environment{getenv: func(string) (string, bool) { return "", false }, stderr: io.Discard})
	m = tool.meter("export", state)
	m.show()
	m.note("")
	has(t, "log", b.String(), "level=INFO msg=export lines=4 bad=0\n")
	if m.watch || percent(5, 0) != "?" || percent(5, 10) != "50%" {
		t.Error("a buffer is no terminal")
	}
}

func TestOwnFlags(t *testing.T) {
	options := []option{{"from", "FILE", ""}, {"json", "", ""}}
	for _, c := range []struct{ args, given, rest string }{
		{"--from x --data d --json", "map[from:x json:on]", "[--data d]"}, {"-from=x -json=false", "map[from:x]", "[]"}, {"--json --from=", "map[from: json:on]", "[]"}, {"from", "map[]", "[from]"},
	} {
		given, rest, err := own(strings.Fields(c.args), options)
		if err != nil || fmt.Sprint(given) != c.given || fmt.Sprint(rest) != c.rest {
			t.Errorf("%s: %v %v %v", c.args, given, rest, err)
		}
	}
	for _, args := range []string{"--from", "--json=x"} {
		if _, _, err := own(strings.Fields(args), options); err == nil {
			t.Errorf("%s was accepted", args)
		}
	}
}
