package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// questions writes a list of questions, each asked twice: the second answer is to win.
func questions(t *testing.T, n int) string {
	t.Helper()
	var b bytes.Buffer
	for round := range 2 {
		for i := range n {
			fmt.Fprintf(&b, `{"question":"What does part number %d cost?","answer":"It costs %d in round %d.","tags":["parts"]}`+"\n", i, 10*i, round)
		}
	}
	path := filepath.Join(t.TempDir(), "parts.jsonl")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// priced checks that every question has its last answer.
func (w *world) priced(n int) {
	w.t.Helper()
	for i := range n {
		r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":"What does part number %d cost?"}`, i))
		if want := fmt.Sprintf("It costs %d in round 1.", 10*i); !strings.Contains(r.body, want) {
			w.t.Errorf("no %q in %s", want, r.body)
		}
	}
}

// An import that is killed goes on by the same command; what it says is stored survives
// the server's death as well.
func TestImportSurvivesKills(t *testing.T) {
	const n = 150
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	target, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The import is killed by the server's door when a third and when two thirds have
	// passed: it cannot be done by then.
	var passed atomic.Int64
	var importing atomic.Pointer[os.Process]
	through := quietProxy(target)
	door := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		through.ServeHTTP(rw, r)
		if k := passed.Add(1); k == n*2/3 || k == n*4/3 {
			importing.Load().Kill()
		}
	}))
	defer door.Close()
	file := questions(t, n)
	var last string
	kills := 0
	for run := 1; ; run++ {
		cmd := exec.Command(binary, "import", "--from", file, "--url", door.URL, "--jobs", "3")
		cmd.Env = environ()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		importing.Store(cmd.Process)
		err := cmd.Wait()
		if last = out.String(); err == nil {
			break
		}
		if kills++; kills > 2 {
			t.Fatalf("run %d: %v\n%s", run, err, last)
		}
		// The server dies as well, and nobody tells it to write.
		w.Kill()
		w.Restart()
		if w.URL != "http://"+target.Host {
			t.Skip("somebody has taken the server's port")
		}
	}
	wants(t, "import", last, fmt.Sprintf("%d stored, 0 left out, 0 bad; %d lines", 2*n, 2*n))
	if kills != 2 {
		t.Errorf("%d kills: the test looks at nothing", kills)
	}
	w.Kill()
	w.Restart()
	w.priced(n)
	if _, err := os.Stat(file + ".import-state"); !os.IsNotExist(err) {
		t.Errorf("the state file: %v", err)
	}
}

// A server that goes away in the middle is told of, and the import goes on later.
func TestImportGoesOnWhenTheServerIsBack(t *testing.T) {
	const n = 200
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	target, _ := url.Parse(w.URL)
	through := quietProxy(target)
	var passed atomic.Int64
	down := make(chan struct{})
	door := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if passed.Add(1) > n && !closed(down) {
			panic(http.ErrAbortHandler)
		}
		through.ServeHTTP(rw, r)
	}))
	defer door.Close()
	file := questions(t, n)
	wants(t, "broken off", w.tools("import", "--from", file, "--url", door.URL), "the same command goes on behind line", "exit 1")
	if _, err := os.Stat(file + ".import-state"); err != nil {
		t.Error(err)
	}
	close(down)
	before := passed.Load()
	wants(t, "going on", w.tools("import", "--from", file, "--url", door.URL), "going on behind line", fmt.Sprintf("%d stored, 0 left out, 0 bad", 2*n), "exit 0")
	if again := passed.Load() - before; again > 2*n-n/2 {
		t.Errorf("%d requests after going on", again)
	}
	w.priced(n)
}

// quietProxy leads to target, and is silent about clients that leave.
func quietProxy(target *url.URL) *httputil.ReverseProxy {
	p := httputil.NewSingleHostReverseProxy(target)
	p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	return p
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The log of calls warms another cache, if answers are logged, with what the answers
// were to: system prompts and histories included.
func TestImportOfTheCallLog(t *testing.T) {
	const chat = `{"model":"standin","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Who dug the canal?"}],"options":{"seed":7}}`
	const ask = `{"model":"standin","prompt":"What is an atoll?"}`
	run := func(t *testing.T, settings string) (w *world, log string) {
		w, _ = configured(t, "trace-file: on\n"+settings)
		w.do("POST", "/api/chat", chat, "X-Semcached-Namespace", "n", "X-Semcached-Tags", "dug")
		w.do("POST", "/api/chat", chat, "X-Semcached-Namespace", "n") // a hit
		w.do("POST", "/v1/chat/completions", `{"model":"standin","messages":[{"role":"user","content":"What is a lagoon?"}]}`)
		w.do("POST", "/api/generate", ask)
		w.do("POST", "/api/generate", `{"model":"standin","prompt":"What is a reef?"}`, "Cache-Control", "no-store")
		w.ollama.Fail(standin.NoDone)
		w.do("POST", "/api/generate", `{"model":"standin","prompt":"What is a shoal?"}`)
		if err := w.Stop(); err != nil {
			t.Fatal(err)
		}
		return w, filepath.Join(w.Data, "llm_traces.jsonl")
	}
	t.Run("with answers", func(t *testing.T) {
		w, log := run(t, "trace-prompts: true\ntrace-answers: true\n")
		other := newWorld(t, standin.Options{}, "--embedder", "lexical")
		wants(t, "import", w.tools("import", "--from", log, "--url", other.URL), "3 stored, 3 left out, 0 bad; 6 lines", "answer was not logged", "exit 0")
		for what, r := range map[string]reply{
			"chat":     other.do("POST", "/api/chat", chat, "X-Semcached-Namespace", "n"),
			"openai":   other.do("POST", "/v1/chat/completions", `{"model":"standin","messages":[{"role":"user","content":"What is a lagoon?"}]}`),
			"generate": other.do("POST", "/api/generate", ask),
		} {
			if r.header.Get("X-Cache") != "HIT" {
				t.Errorf("%s: %v %s", what, r.header, r.body)
			}
		}
		if r := other.do("POST", "/cache/invalidate", `{"tag":"dug","dry_run":true}`); !strings.Contains(r.body, `"matched":1`) {
			t.Errorf("the tag: %s", r.body)
		}
		if r := other.do("POST", "/api/chat", chat); r.header.Get("X-Cache") != "MISS" {
			t.Errorf("another namespace: %v", r.header)
		}
	})
	t.Run("without", func(t *testing.T) {
		w, log := run(t, "trace-prompts: true\n")
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(`"answer"`)) || bytes.Contains(raw, []byte(`"canonical"`)) || !bytes.Contains(raw, []byte("atoll")) {
			t.Errorf("%s", raw)
		}
		wants(t, "import", w.tools("import", "--from", log, "--dry-run"), "0 could be stored, 6 left out, 0 bad", "exit 0")
	})
}

// An export is cut off and gone on with, gzipped, while the server runs.
func TestExportOfARunningServer(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	const n = 40
	for i := range n {
		w.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":"What is room %d for?","answer":"For %d people.","model":"m%d","namespace":"n%d","tags":["t%d"],"durability":"sync"}`, i, i, i%2, i%4, i%5))
	}
	from := []string{"--data", w.Data, "--admin", strings.TrimPrefix(w.Admin, "http://")}
	run := func(args ...string) string { return w.tools(append(append(args[:1:1], from...), args[1:]...)...) }
	path := filepath.Join(t.TempDir(), "rooms.jsonl.gz")
	wants(t, "export", run("export", "--to", path), "40 entries exported", "exit 0")
	whole := unzip(t, path)
	ids := make(map[string]bool)
	for line := range strings.Lines(whole) {
		var l struct{ ID string }
		if err := json.Unmarshal([]byte(line), &l); err != nil || ids[l.ID] {
			t.Fatalf("%s: %v", line, err)
		}
		ids[l.ID] = true
	}
	if len(ids) != n {
		t.Errorf("%d entries", len(ids))
	}
	wants(t, "onto a file", run("export", "--to", path), "file exists", "exit 1")

	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/cache/store", `{"prompt":"What is the hall for?","answer":"For all.","durability":"sync"}`)
	wants(t, "going on", run("export", "--to", path, "--resume"), "going on behind entry", "exit 0")
	wants(t, "and again", run("export", "--to", path, "--resume"), "0 entries exported", "exit 0")
	got := unzip(t, path)
	if !strings.HasPrefix(got, whole) || strings.Count(got, "\n") != n+1 || !strings.Contains(got, "What is the hall for?") {
		t.Errorf("%d lines instead of %d", strings.Count(got, "\n"), n+1)
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--model", "m1"}, 20}, {[]string{"--namespace", "n3"}, 10}, {[]string{"--tag", "t0"}, 8}, {[]string{"--tenant", "local"}, 41}, {[]string{"--tenant", "x"}, 0},
		{[]string{"--since", "1h"}, 41}, {[]string{"--since", "2999-01-01"}, 0}, {[]string{"--model", "m0", "--tag", "t0"}, 4},
	} {
		out := run(append([]string{"export"}, c.args...)...)
		if !strings.HasSuffix("\n"+out, fmt.Sprintf("\n%d entries exported\nexit 0", c.want)) || strings.Count(out, "\n") != c.want+1 {
			t.Errorf("%v: %s", c.args, out)
		}
	}
	wants(t, "format", run("export", "--format", "parquet"), "is not jsonl", "exit 2")
}

func unzip(t *testing.T, path string) string {
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
	var b bytes.Buffer
	if _, err := b.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// With keys, what is imported becomes the key's tenant's, at the pace that tenant has.
func TestImportWithAKey(t *testing.T) {
	key := "sc-test-key"
	hash := func(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }
	w, _ := configured(t, fmt.Sprintf("tenants:\n- {name: a, key_sha256: %q, rate: 200, burst: 5}\n- {name: a, key_sha256: %q}\n- {name: b, key_sha256: %q, roles: [read]}\n", hash(key), hash(key+"a"), hash(key+"b")))
	file := questions(t, 20)
	wants(t, "no key", w.tools("import", "--from", file, "--url", w.URL), "401 Unauthorized", "0 stored", "exit 1")
	wants(t, "a key that may not write", w.tools("import", "--from", file, "--url", w.URL, "--key", key+"b"), "403 Forbidden", "0 stored", "exit 1")
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "a key", w.tools("import", "--from", file, "--url", w.URL, "--key-file", secret), "40 stored, 0 left out, 0 bad", "exit 0")
	for i := range 20 {
		r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":"What does part number %d cost?"}`, i), "Authorization", "Bearer "+key+"a")
		if !strings.Contains(r.body, fmt.Sprintf("It costs %d in round 1.", 10*i)) {
			t.Errorf("%d: %s", i, r.body)
		}
	}
	if r := w.do("POST", "/cache/lookup", `{"prompt":"What does part number 1 cost?"}`, "Authorization", "Bearer "+key+"b"); !strings.Contains(r.body, `"hit":false`) {
		t.Errorf("the other tenant: %s", r.body)
	}
}
