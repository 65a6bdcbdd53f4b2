package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/semcached/semcached/internal/standin"
)

// Whatever has happened to a file, the tools that look at it say so and do not die, what
// they read of it is true, and what they write is sound.
func TestToolsOnDamagedFiles(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 8
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 4))
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	const n = 80
	wants(t, "import", w.tools("import", "--from", questions(t, n), "--url", w.URL), "exit 0")
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(w.Data, "semcached.db"))
	if err != nil {
		t.Fatal(err)
	}
	used := len(strings.TrimRight(string(whole), "\x00"))
	exit := regexp.MustCompile(`exit ([013])$`)
	codes := make(map[string]int)
	for range rounds {
		raw := []byte(string(whole))
		const page = 4096
		at := rng.IntN(used)
		what := ""
		switch rng.IntN(5) {
		case 0:
			what = fmt.Sprintf("a bit at %d", at)
			raw[at] ^= 1 << rng.IntN(8)
		case 1:
			what = fmt.Sprintf("a page of zeros at %d", at/page)
			clear(raw[at/page*page : (at/page+1)*page])
		case 2:
			what = fmt.Sprintf("a sector of garbage at %d", at)
			for i := at / 512 * 512; i < at/512*512+512; i++ {
				raw[i] = byte(rng.Uint32())
			}
		case 3:
			what = fmt.Sprintf("cut off at %d", at)
			raw = raw[:at]
		case 4: // page by page, as a disk without a barrier may leave it
			what = "pages in each other's places"
			for range 3 {
				a, b := rng.IntN(used/page), rng.IntN(used/page)
				copy(raw[a*page:(a+1)*page], whole[b*page:(b+1)*page])
			}
		}
		dir := t.TempDir()
		file, fixed, out := filepath.Join(dir, "x.db"), filepath.Join(dir, "fixed.db"), filepath.Join(dir, "out.jsonl")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"check"}, {"check", "--repair", fixed}, {"stats"}, {"export", "--to", out}, {"backup", "--data", dir, "--to", filepath.Join(dir, "copy.db")},
		} {
			if args[0] == "backup" {
				if err := os.WriteFile(filepath.Join(dir, "semcached.db"), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				args = append(args, "--file", file)
			}
			said := w.tools(args...)
			code := exit.FindString(said)
			if codes[args[0]+" "+code]++; code == "" || strings.Contains(said, "goroutine ") || strings.Contains(said, "fatal error") {
				t.Fatalf("%s: %v: %s", what, args, said)
			}
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != string(raw) {
			t.Fatalf("%s: a tool that only looks has changed the file: %v", what, err)
		}
		for _, made := range []string{fixed, filepath.Join(dir, "copy.db")} {
			if _, err := os.Stat(made); err == nil {
				if r, code := w.toolJSON("check", "--file", made); code != 0 || r.Sound != true {
					t.Fatalf("%s: %s: exit %d %+v", what, made, code, r)
				}
			}
		}
		exported, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(exported)) {
			var e struct {
				Request struct{ Prompt string }
				Answer  struct{ Response string }
			}
			var part, price int
			if err := json.Unmarshal([]byte(l), &e); err != nil {
				t.Fatalf("%s: %s: %v", what, l, err)
			}
			fmt.Sscanf(e.Request.Prompt, "What does part number %d cost?", &part)
			fmt.Sscanf(e.Answer.Response, "It costs %d in round", &price)
			if price != 10*part {
				t.Fatalf("%s: %s", what, l)
			}
		}
	}
	t.Logf("%v", codes)
}
