package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/wire"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	exported = `{"id":"0000000000000001","tenant":"local","operation":"chat","model":"reef:latest","provider":"ollama","tags":["a"],` +
		`"request":{"model":"reef:latest","messages":[{"role":"user","content":"Who?"}],"options":{"seed":7}},` +
		`"answer":{"model":"reef","message":{"role":"assistant","content":"Me."},"done":true,"done_reason":"stop"},"created":"2026-03-01T11:00:00Z","expires":"2026-03-01T13:00:00Z"}`
	logged = `{"trace_id":"0123","timestamp":"2026-03-01T11:00:00Z","tenant":"local","route":"/api/generate","status":200,` +
		`"request":{"model":"reef","prompt":"Why?","canonical":{"model":"reef:latest","prompt":"Why?"},"namespace":"n","tags":["b"]},` +
		`"response":{"source":"ollama-local","answer":{"model":"reef","response":"So.","done":true,"done_reason":"stop"}},"cache":{"result":"miss"},"error":null}`
)

func TestImportLines(t *testing.T) {
	change := func(line, old, new string) string {
		if !strings.Contains(line, old) {
			t.Fatalf("no %s in %s", old, line)
		}
		return strings.Replace(line, old, new, 1)
	}
	for _, c := range []struct {
		what, line string
		kind       string
		body       []string // parts of what is sent
		err        string   // part of the error
		left       bool     // the error is a leftOut
	}{
		{what: "export", line: exported, kind: kindExport, body: []string{`"messages":[{"role":"user","content":"Who?"}]`, `"ttl_seconds":3600`, `"tags":["a"]`, `"seed":7`, `"content":"Me."`}},
		{what: "question", line: `{"question":"Why?","answer":"So."}`, kind: kindList, body: []string{`"prompt":"Why?"`, `"answer":"So."`}},
		{what: "prompt", line: `{"prompt":"Why?","system":"Be brief.","model":"reef","answer":"So.","namespace":"n"}`, kind: kindList, body: []string{`"system":"Be brief."`, `"model":"reef"`, `"namespace":"n"`}},
		{what: "call", line: logged, kind: kindCall, body: []string{`"prompt":"Why?"`, `"namespace":"n"`, `"tags":["b"]`, `"response":"So."`}},
		{what: "call without answer", line: `{"trace_id":"0123","request":{"model":"reef","prompt":"Why?"},"response":{"source":"cache-exact"}}`, err: "answer was not logged", left: true},
		{what: "call of the fallback", line: change(logged, "ollama-local", "openai-cloud-fallback"), err: "fallback", left: true},
		{what: "kept for years", line: change(exported, `"2026-03-01T13:00:00Z"`, `"2999-03-01T12:00:00Z"`), kind: kindExport, body: []string{fmt.Sprintf(`"ttl_seconds":%d`, proxy.MaxTTL/time.Second)}},
		{what: "expired", line: change(exported, `"2026-03-01T13:00:00Z"`, `"2026-03-01T12:00:00Z"`), err: "expired", left: true},
		{what: "fallback", line: change(exported, `"provider":"ollama"`, `"provider":"cloud.example/big"`), err: "fallback", left: true},
		{what: "images", line: change(exported, `"content":"Who?"`, `"content":"Who?","images":["00ff"]`), err: "images", left: true},
		{what: "the word images", line: change(exported, `"Who?"`, `"images"`), kind: kindExport, body: []string{`"content":"images"`}},
		{what: "our field", line: change(exported, `"options"`, `"threshold":1,"options"`), err: "for its own", left: true},
		{what: "tool result", line: change(exported, `"role":"user"`, `"role":"tool"`), err: "never cached", left: true},
		{what: "cut off", line: change(exported, `"stop"`, `"length"`), err: "done_reason"},
		{what: "empty answer", line: `{"question":"Why?","answer":" "}`, err: "answer: is empty"},
		{what: "number for an answer", line: `{"question":"Why?","answer":1}`, err: "neither a text nor an answer object"},
		{what: "null answer", line: `{"question":"Why?","answer":null}`, err: "no answer"},
		{what: "no question", line: `{"answer":"So.","model":"reef"}`, err: "neither a request nor a prompt"},
		{what: "request of the wrong shape", line: change(exported, `"request":{`, `"request":[{`), err: "not an entry"},
		{what: "messages of the wrong shape", line: `{"request":{"messages":1},"answer":"So."}`, err: "malformed"},
		{what: "no JSON", line: `question,answer`, err: "not an entry"},
		{what: "an array", line: `["Why?","So."]`, err: "not an entry"},
	} {
		q, err := readLine([]byte(c.line), noon, new(selection))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || errors.As(err, new(leftOut)) != c.left {
				t.Errorf("%s: %v %v", c.what, q, err)
			}
			continue
		}
		if err != nil || q.kind != c.kind {
			t.Errorf("%s: %v %v", c.what, q, err)
			continue
		}
		for _, part := range append(c.body, `"durability":"sync"`) {
			if !strings.Contains(string(q.body), part) {
				t.Errorf("%s: no %s in %s", c.what, part, q.body)
			}
		}
	}
}

func TestImportSelects(t *testing.T) {
	for _, c := range []struct {
		sel  selection
		want bool
	}{
		{selection{}, true}, {selection{tenant: "local", model: "reef:latest", tag: "a", since: noon.Add(-2 * time.Hour)}, true},
		{selection{tenant: "b"}, false}, {selection{namespace: "n"}, false}, {selection{model: "shoal:latest"}, false}, {selection{tag: "b"}, false}, {selection{since: noon}, false},
	} {
		_, err := readLine([]byte(exported), noon, &c.sel)
		if c.want && err != nil || !c.want && err != notSelected {
			t.Errorf("%+v: %v", c.sel, err)
		}
	}
}

// What must go through one job, in order, has one hash.
func TestOneQuestionHasOneHash(t *testing.T) {
	same := []string{
		`{"prompt":"Why?","model":"reef","answer":"1"}`, `{"model":"reef:latest","question":"Why?","answer":"2","tags":["x"]}`,
		`{"request":{"prompt":"Why?","MODEL":"library/reef"},"answer":"3"}`, `{"request":{"stream":true,"model":"reef","prompt":"Why?"},"answer":"4","expires":"2027-01-01T00:00:00Z"}`,
	}
	other := []string{
		`{"prompt":"Why not?","model":"reef","answer":"1"}`, `{"prompt":"Why?","answer":"1"}`, `{"prompt":"Why?","model":"reef","namespace":"n","answer":"1"}`,
		`{"prompt":"Why?","model":"reef","system":"s","answer":"1"}`,
	}
	hash := func(line string) uint64 {
		q, err := readLine([]byte(line), noon, new(selection))
		if err != nil {
			t.Fatal(line, err)
		}
		return q.hash
	}
	seen := map[uint64]bool{hash(same[0]): true}
	for _, l := range same {
		if !seen[hash(l)] {
			t.Errorf("another hash: %s", l)
		}
	}
	for _, l := range other {
		if seen[hash(l)] {
			t.Errorf("a hash twice: %s", l)
		}
		seen[hash(l)] = true
	}
}

func FuzzImportLine(f *testing.F) {
	for _, l := range []string{exported, logged, `{"question":"Why?","answer":"So."}`, `{"prompt":"Why?","system":"s","answer":{"response":"So.","done":true,"done_reason":"stop"}}`} {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := readLine([]byte(raw), noon, new(selection))
		if err != nil {
			return
		}
		var sent map[string]any
		if err := json.Unmarshal(q.body, &sent); err != nil {
			t.Fatalf("%q: %q is sent: %v", raw, q.body, err)
		}
		answer, _ := json.Marshal(sent["answer"])
		if sent["durability"] != "sync" || sent["answer"] == nil {
			t.Fatalf("%q: %q is sent", raw, q.body)
		}
		// What is sent must be as good as what was read: the server will find the same.
		for _, name := range ours {
			delete(sent, name)
		}
		if !named(sent, "model") {
			sent["model"] = "-"
		}
		op := wire.OpGenerate
		if named(sent, "messages") {
			op = wire.OpChat
		}
		body, _ := json.Marshal(sent)
		r, err := wire.DecodeRequest(op, body)
		if err != nil || r.Bypass != "" {
			t.Fatalf("%q: %q is sent: %v %+v", raw, q.body, err, r)
		}
		if err := checkAnswer(op, answer); err != nil {
			t.Fatalf("%q: %q is sent: %v", raw, q.body, err)
		}
	})
}
