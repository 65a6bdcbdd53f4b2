package wire

import (
	"errors"
	"strings"
	"testing"
)

// upper is a filter that holds one byte back, writes capitals, and refuses '!'.
type upper struct{ held string }

func (u *upper) Write(s string) (string, error) {
	if strings.Contains(s, "!") {
		return "", errors.New("refused")
	}
	s = u.held + s
	if s == "" {
		return "", nil
	}
	u.held = s[len(s)-1:]
	return strings.ToUpper(s[:len(s)-1]), nil
}

func (u *upper) Close() (string, error) {
	s := strings.ToUpper(u.held)
	u.held = ""
	return s, nil
}

func rewriter(op Op) *Rewriter { return NewRewriter(op, new(upper), new(upper), new(upper)) }

const rewriteHead = `{"model":"m","created_at":"2026-01-02T03:04:05Z",`

func TestRewrittenStreams(t *testing.T) {
	in := []string{
		`"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}`,
		`"message":{"role":"assistant","content":"ab"},"logprobs":[{"token":"ab"}],"done":false}`,
		`"message":{"role":"assistant","content":"c"},"done":false}`,
		`"message":{"role":"assistant","content":"","tool_calls":[{"id":"x","function":{"index":0,"name":"f","arguments":{"k":"v"}}}]},"done":false}`,
		`"message":{"role":"assistant","content":"d"},"done":true,"done_reason":"stop","total_duration":9,"prompt_eval_count":3,"eval_count":4,"eval_duration":7}`,
	}
	w := rewriter(OpChat)
	c := NewCollector(OpChat)
	var all strings.Builder
	for _, l := range in {
		lines, err := w.Line([]byte(rewriteHead + l))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			all.Write(line)
			if err := c.Add(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, err := c.Answer()
	if err != nil {
		t.Fatal(err)
	}
	if a.Content != "ABCD" || a.Thinking != "HM" || string(a.ToolCalls[0].Arguments) != `{"K":"V"}` || a.Logprobs != nil ||
		a.InputTokens != 3 || a.OutputTokens != 4 || a.Total != 9 || a.Eval != 7 || a.Model != "m" {
		t.Errorf("%+v\n%s", a, all.String())
	}
	if lines, err := w.Line([]byte(`{"error":"boom"}`)); err != nil || string(lines[0]) != "{\"error\":\"boom\"}\n" {
		t.Errorf("%q %v", lines, err)
	}
	if _, err := w.Line([]byte(rewriteHead + `"message":{"content":"!"}}`)); err == nil {
		t.Error("a refusal is ignored")
	}
	w = rewriter(OpGenerate)
	w.Line([]byte(rewriteHead + `"response":"ab","done":false}`))
	if lines, err := w.Close(); err != nil || len(lines) != 1 || !strings.Contains(string(lines[0]), `"response":"B"`) {
		t.Errorf("%q %v", lines, err)
	}
}

func TestRewrittenObjects(t *testing.T) {
	out, err := rewriter(OpGenerate).Object([]byte(rewriteHead + `"response":"ab","done":true,"done_reason":"stop","context":[1,2],"eval_count":4}`))
	if err != nil || !strings.Contains(string(out), `"response":"AB","done":true`) || strings.Contains(string(out), "context") || !strings.Contains(string(out), `"eval_count":4`) {
		t.Errorf("%s %v", out, err)
	}
	out, err = rewriter(OpChat).Object([]byte(rewriteHead + `"message":{"role":"assistant","content":"ab"},"done":false}`))
	if err != nil || !strings.Contains(string(out), `"AB"`) || !strings.Contains(string(out), `"done":false`) {
		t.Errorf("%s %v", out, err)
	}
	for _, as := range []string{`{"error":"x"}`, `garbage`} {
		if out, err := rewriter(OpChat).Object([]byte(as)); string(out) != as || err != nil {
			t.Errorf("%s %v", out, err)
		}
	}
	if _, err := rewriter(OpChat).Object([]byte(rewriteHead + `"message":{"content":"!"},"done":true}`)); err == nil {
		t.Error("a refusal is ignored")
	}
}
