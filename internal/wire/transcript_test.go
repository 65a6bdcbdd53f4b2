package wire

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a replay makes anew: times, durations, and the IDs of tool calls.
var fresh = regexp.MustCompile(`"(created_at|id)":"[^"]*"|"(total|load|prompt_eval|eval)_duration":\d+`)

// TestTranscripts reads recorded streams and plays them back: but for what is
// made anew, and for text that comes in fewer pieces, the bytes are the same.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/wire/*.ndjson")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			op := OpChat
			if strings.HasPrefix(filepath.Base(name), "generate") {
				op = OpGenerate
			}
			c := NewCollector(op)
			recorded, _ := readLines(strings.NewReader(string(raw)), 1<<20)
			for _, l := range recorded {
				c.Add([]byte(l))
			}
			a, err := c.Answer()
			if strings.Contains(name, "_cut") {
				if !errors.Is(err, ErrIncomplete) {
					t.Errorf("%v, want ErrIncomplete", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			replayed, _ := readLines(strings.NewReader(lines(t, Replay{Op: op, Model: "reef"}, a)), 1<<20)
			want, got := fresh.ReplaceAllString(merge(recorded), "FRESH"), fresh.ReplaceAllString(strings.Join(replayed, "\n"), "FRESH")
			if got != want {
				t.Errorf("replayed\n%s\nrecorded\n%s", got, want)
			}
		})
	}
}

// merge joins the pieces of text that a replay sends at once.
func merge(lines []string) string {
	text := strings.Join(lines, "\n")
	piece := regexp.MustCompile(`("(?:content|response)":"[^"]+)"(\}?,"done":false\})\n\{"model":"reef","created_at":"[^"]*","(?:message":\{"role":"assistant","content|response)":"([^"]+)"`)
	return piece.ReplaceAllString(text, `$1$3"`)
}
