package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shelf is a server that keeps answers by prompt.
type shelf struct {
	url string

	mu     sync.Mutex // guards everything below
	kept   map[string]string
	order  []string // prompts, as stored
	refuse func(n int, prompt string) (status int)
	n      int // requests
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{kept: make(map[string]string)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Prompt, Durability string
		Answer             any
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	status := http.StatusCreated
	if s.refuse != nil {
		if code := s.refuse(s.n, in.Prompt); code != 0 {
			status = code
		}
	}
	if err != nil || r.URL.Path != "/cache/store" || in.Durability != "sync" {
		status = http.StatusBadRequest
	}
	if status == http.StatusCreated {
		s.kept[in.Prompt] = fmt.Sprint(in.Answer)
		s.order = append(s.order, in.Prompt)
	}
	w.Header().Set("Retry-After-Ms", "1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"status":%d,"detail":"because of %d"}`, status, status)
}

// list writes n lines of questions that repeat, and returns the last answer to each.
func list(n, questions int, rng *rand.Rand) (text string, last map[string]string) {
	var b strings.Builder
	last = make(map[string]string)
	for i := range n {
		q, a := fmt.Sprintf("Question %d?", rng.IntN(questions)), fmt.Sprintf("Answer %d.", i)
		fmt.Fprintf(&b, `{"question":%q,"answer":%q}`+"\n", q, a)
		last[q] = a
	}
	return b.String(), last
}

// tryImport imports a file, or text as standard input if file is "".
func tryImport(t *testing.T, file, text, url string, args ...string) (code int, said string) {
	t.Helper()
	from := file
	if from == "" {
		from = standardStream
	}
	var errs bytes.Buffer
	code = run(t.Context(), environment{
		args:   append([]string{"import", "--from", from, "--url", url}, args...),
		getenv: func(string) (string, bool) { return "", false }, stdin: strings.NewReader(text), stdout: io.Discard, stderr: &errs,
	})
	return code, errs.String()
}

func has(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s: no %q in\n%s", what, p, text)
		}
	}
}

func save(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d questions are kept, want %d", len(got), len(want))
	}
	for q, a := range want {
		if got[q] != a {
			t.Errorf("%s %q is kept, want %q", q, got[q], a)
		}
	}
}

// Whenever an import breaks off, and however often, the next one goes on, and at the end
// the last answer to every question has won.
func TestImportGoesOnWhereItBrokeOff(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	text, last := list(600, 150, rng)
	file, s := save(t, text), newShelf(t)
	runs := 0
	for code := exitFailed; code != exitOK; runs++ {
		left := 1 + rng.IntN(200)
		s.refuse = func(int, string) int {
			if left--; left < 0 {
				return http.StatusInsufficientStorage
			}
			return 0
		}
		var said string
		code, said = tryImport(t, file, "", s.url, "--jobs", fmt.Sprint(1+rng.IntN(20)))
		if code == exitFailed {
			has(t, "broken off", said, "507 Insufficient Storage: because of 507")
		} else {
			has(t, "whole", said, "600 stored, 0 left out, 0 bad; 600 lines")
		}
		if runs > 1000 {
			t.Fatal("it does not come on")
		}
	}
	if runs < 3 {
		t.Errorf("%d runs: the test looks at nothing", runs)
	}
	same(t, s.kept, last)
	if len(s.order) > 600+runs*20*(jobQueue+1) {
		t.Errorf("%d stores for 600 lines in %d runs: it does not go on, it begins again", len(s.order), runs)
	}
	if _, err := os.Stat(file + stateSuffix); !os.IsNotExist(err) {
		t.Errorf("the state file is still there: %v", err)
	}
}

func TestChangedFileIsNotGoneOnWith(t *testing.T) {
	text, _ := list(40, 40, rand.New(rand.NewPCG(1, 2)))
	s := newShelf(t)
	breakOff := func() string {
		file := save(t, text)
		s.refuse = func(n int, _ string) int {
			if len(s.order)%100 == 20 {
				return http.StatusUnauthorized
			}
			return 0
		}
		s.order = nil
		if code, said := tryImport(t, file, "", s.url, "--jobs", "1"); code != exitFailed {
			t.Fatalf("%d %s", code, said)
		} else {
			has(t, "broken off", said, "20 stored", "401", "goes on behind line 20")
		}
		s.refuse = nil
		return file
	}
	for what, c := range map[string]struct {
		change func(string) string
		url    string
		says   string
	}{
		"an early line":  {func(s string) string { return strings.Replace(s, "Answer 3.", "Answer 3!", 1) }, s.url, "the first 20 lines are not those"},
		"a line less":    {func(s string) string { return s[strings.Index(s, "\n")+1:] }, s.url, "the first 20 lines are not those"},
		"a short file":   {func(s string) string { return s[:100] }, s.url, "it has changed"},
		"another server": {func(s string) string { return s }, "http://127.0.0.1:1", "is of an import into " + s.url},
	} {
		t.Run(what, func(t *testing.T) {
			file := breakOff()
			if err := os.WriteFile(file, []byte(c.change(text)), 0o600); err != nil {
				t.Fatal(err)
			}
			before := len(s.order)
			code, said := tryImport(t, file, "", c.url)
			has(t, what, said, c.says, "--restart")
			if code != exitFailed || len(s.order) != before {
				t.Errorf("exit %d, %d stored", code, len(s.order)-before)
			}
			if c.url == s.url {
				if code, said := tryImport(t, file, "", c.url, "--restart"); code == exitFailed || strings.Contains(said, "going on") {
					t.Errorf("%d %s", code, said)
				}
			}
		})
	}
	// What comes after the mark may change.
	file := breakOff()
	if err := os.WriteFile(file, []byte(text+`{"question":"More?","answer":"Yes."}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, said := tryImport(t, file, "", s.url); code != exitOK || s.kept["More?"] != "Yes." {
		t.Errorf("%d %s", code, said)
	}
	if err := os.WriteFile(file+stateSuffix, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, said := tryImport(t, file, "", s.url)
	if code != exitFailed {
		t.Errorf("a broken state file: %d", code)
	}
	has(t, "a broken state file", said, "--restart")
}

func TestWrongLinesAreToldAndGoneOver(t *testing.T) {
	text := "\xef\xbb\xbf" + `{"question":"First?","answer":"1"}` + "\r\n\n   \nnonsense\n" + `{"question":"Second?"}` + "\n" +
		`{"question":"Refused?","answer":"x"}` + "\n" + `{"question":"Old?","answer":"x","expires":"2020-01-01T00:00:00Z"}` + "\n" + `{"question":"Last?","answer":"2"}`
	refuse := func(_ int, prompt string) int {
		if prompt == "Refused?" {
			return http.StatusUnprocessableEntity
		}
		return 0
	}
	t.Run("gone over", func(t *testing.T) {
		s := newShelf(t)
		s.refuse = refuse
		code, said := tryImport(t, "", text, s.url)
		has(t, "report", said, "line 4: not an entry", "line 5: there is no answer", "line 6: the server refuses it: because of 422", "2 stored, 1 left out, 3 bad; 8 lines", "1 left out: expired")
		if code != exitPartly {
			t.Errorf("exit %d", code)
		}
		same(t, s.kept, map[string]string{"First?": "1", "Last?": "2"})
	})
	t.Run("strict", func(t *testing.T) {
		s := newShelf(t)
		file := save(t, text)
		code, said := tryImport(t, file, "", s.url, "--strict")
		has(t, "report", said, "line 4: not an entry", "--strict was asked for", "goes on behind line 3", "1 bad; 3 lines")
		if code != exitFailed {
			t.Errorf("exit %d", code)
		}
		fixed := strings.Replace(strings.Replace(text, "nonsense", `{"question":"Third?","answer":"3"}`, 1), `"Second?"`, `"Second?","answer":"2"`, 1)
		if err := os.WriteFile(file, []byte(fixed), 0o600); err != nil {
			t.Fatal(err)
		}
		code, said = tryImport(t, file, "", s.url, "--strict")
		has(t, "report", said, "going on behind line 3", "5 stored, 1 left out, 0 bad; 8 lines")
		if code != exitOK || s.kept["Third?"] != "3" {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("many", func(t *testing.T) {
		s := newShelf(t)
		_, said := tryImport(t, "", strings.Repeat("x\n", 500), s.url)
		has(t, "report", said, "line 100:", "further lines that are wrong are only counted", "500 bad; 500 lines")
		if strings.Contains(said, "line 101:") {
			t.Error("all are told")
		}
	})
	t.Run("dry run", func(t *testing.T) {
		s := newShelf(t)
		file := save(t, text)
		code, said := tryImport(t, file, "", s.url, "--dry-run")
		has(t, "report", said, "line 4:", "line 5:", "3 could be stored, 1 left out, 2 bad")
		if _, err := os.Stat(file + stateSuffix); code != exitPartly || s.n != 0 || err == nil {
			t.Errorf("exit %d, %d requests, state %v", code, s.n, err)
		}
	})
}

func TestImportReadsGzip(t *testing.T) {
	text, last := list(100, 30, rand.New(rand.NewPCG(3, 4)))
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
	io.WriteString(z, text)
	z.Close()
	s := newShelf(t)
	if code, said := tryImport(t, "", b.String(), s.url); code != exitOK {
		t.Errorf("%d %s", code, said)
	}
	same(t, s.kept, last)
	// Half of a stream, and then all of it.
	state := filepath.Join(t.TempDir(), "state")
	code, said := tryImport(t, "", b.String()[:b.Len()-20], s.url, "--state", state)
	has(t, "a stream that was cut off", said, "unexpected EOF", "goes on behind line")
	if code != exitFailed {
		t.Errorf("a stream that was cut off: %d %s", code, said)
	}
	code, said = tryImport(t, "", b.String(), s.url, "--state", state)
	has(t, "the whole stream", said, "going on behind line", "100 stored")
	if code != exitOK {
		t.Errorf("the whole stream: %d %s", code, said)
	}
	same(t, s.kept, last)
}

func TestImportWaitsWhenItIsToldTo(t *testing.T) {
	text, last := list(60, 20, rand.New(rand.NewPCG(5, 6)))
	s := newShelf(t)
	s.refuse = func(n int, _ string) int {
		return []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, 0}[n%3]
	}
	if code, said := tryImport(t, "", text, s.url); code != exitOK {
		t.Errorf("%d %s", code, said)
	}
	same(t, s.kept, last)
}

// Tenants' entries must not get mixed by an import with one key.
func TestImportIsOfOneTenant(t *testing.T) {
	of := func(tenant string) string {
		return strings.ReplaceAll(exported, `"tenant":"local"`, fmt.Sprintf(`"tenant":%q`, tenant)) + "\n"
	}
	text := strings.ReplaceAll(of("a")+of("a")+of("b")+of("a"), `"expires":"2026-03-01T13:00:00Z"`, `"expires":"2999-01-01T00:00:00Z"`)
	s := newShelf(t)
	code, said := tryImport(t, "", text, s.url)
	has(t, "two tenants", said, "line 3: the entry is another tenant's", "--tenant")
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
	code, said = tryImport(t, "", text, s.url, "--tenant", "b")
	has(t, "one of them", said, "1 stored, 3 left out", "not selected")
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
}

func TestImportUsage(t *testing.T) {
	for _, args := range [][]string{{"import"}, {"import", "--from"}, {"import", "--from", "x", "--jobs", "0"}, {"import", "--from", "x", "--since", "soon"},
		{"import", "--from", "x", "--key-file", "/no/such"}, {"import", "--from", "x", "--strict=maybe"}, {"import", "--from", "x", "--sricter"}} {
		if code, _, said := tryRun(t.Context(), args...); code != exitUsage {
			t.Errorf("%v: exit %d\n%s", args, code, said)
		}
	}
	code, _, said := tryRun(t.Context(), "import", "-h")
	has(t, "help", said, "-dry-run", "-max-bytes")
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, _, said = tryRun(ctx, "import", "--from", save(t, `{"question":"Why?","answer":"So."}`), "--url", "http://127.0.0.1:1")
	has(t, "cancelled", said, "broken off")
	if code != exitFailed {
		t.Errorf("exit %d", code)
	}
}

// The mark never passes a line that is not done, and its hash is that of the lines.
func TestLedger(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	text, _ := list(500, 10, rng)
	lines, err := newLineReader(strings.NewReader(text), maxImportLine)
	if err != nil {
		t.Fatal(err)
	}
	var told []int64
	l := &ledger{bad: func(n int64, _ error) { told = append(told, n) }, room: make(chan struct{}, 500)}
	var open []*task
	ended := make(map[int64]bool)
	bad := 0
	for more := true; more || len(open) > 0; {
		if _, err := lines.next(); err == nil {
			t := &task{n: lines.n, digest: lines.digest()}
			l.begin(context.Background(), t)
			open = append(open, t)
		} else {
			more = false
		}
		for len(open) > 0 && (rng.IntN(2) == 0 || !more) {
			i := rng.IntN(len(open))
			var err error
			if rng.IntN(10) == 0 {
				err = refusal("no")
				bad++
			}
			ended[open[i].n] = true
			l.end(open[i], err)
			open[i] = open[len(open)-1]
			open = open[:len(open)-1]
		}
		m := l.now()
		for n := int64(1); n <= m.Lines; n++ {
			if !ended[n] {
				t.Fatalf("the mark is at %d, and line %d is not done", m.Lines, n)
			}
		}
		if !ended[m.Lines+1] == false {
			t.Fatalf("line %d is done, and the mark stays at %d", m.Lines+1, m.Lines)
		}
		if m.Lines > 0 {
			again, _ := newLineReader(strings.NewReader(text), maxImportLine)
			if err := (importState{mark: m}).resume(again, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	full := &ledger{room: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	if !full.begin(ctx, new(task)) {
		t.Error("no room for the first line")
	}
	cancel()
	if full.begin(ctx, new(task)) {
		t.Error("room for more than fits")
	}
	m := l.now()
	if m.Lines != 500 || m.Bad != bad || m.Stored+m.Bad != 500 || len(told) != bad {
		t.Errorf("%+v, %d bad, %d told", m, bad, len(told))
	}
}

func TestLongLinesAreSkipped(t *testing.T) {
	text := "one\n" + strings.Repeat("x", 900<<10) + "\ntwo\n" + strings.Repeat("y", 50)
	lines, err := newLineReader(strings.NewReader(text), 40)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		l, err := lines.next()
		if err == io.EOF {
			break
		}
		got = append(got, fmt.Sprint(string(l), err))
	}
	if fmt.Sprint(got) != "[one<nil> the line is too long two<nil> the line is too long]" || lines.n != 4 {
		t.Errorf("%v %d", got, lines.n)
	}
}
