package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const (
	head = `{"model":"reef","created_at":"2026-03-01T09:30:00.5Z",`
	tail = `"done":true,"done_reason":"stop","total_duration":90,"load_duration":10,"prompt_eval_count":12,"prompt_eval_duration":20,"eval_count":3,"eval_duration":60}`
)

func chatLine(message string) string { return head + `"message":` + message + `,"done":false}` }

var chatStream = []string{
	chatLine(`{"role":"assistant","content":"","thinking":"Tides."}`),
	chatLine(`{"role":"assistant","content":"The "}`),
	chatLine(`{"role":"assistant","content":"moon \u003cpulls\u003e."}`),
	head + `"message":{"role":"assistant","content":""},` + tail,
}

func collect(op Op, lines ...string) (*Answer, error) {
	c := NewCollector(op)
	for _, l := range lines {
		c.Add([]byte(l))
	}
	return c.Answer()
}

func TestCollectorJoinsAStream(t *testing.T) {
	a, err := collect(OpChat, chatStream...)
	if err != nil {
		t.Fatal(err)
	}
	want := &Answer{
		Role: "assistant", Content: "The moon <pulls>.", Thinking: "Tides.", DoneReason: "stop",
		InputTokens: 12, OutputTokens: 3, Total: 90, Load: 10, PromptEval: 20, Eval: 60,
		Model: "reef", Created: time.Date(2026, 3, 1, 9, 30, 0, 5e8, time.UTC),
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("%+v\nwant\n%+v", a, want)
	}
	g, err := collect(OpGenerate, head+`"response":"The ","done":false}`, head+`"response":"moon.","thinking":"T","done":false}`,
		head+`"response":"","context":[1,2],`+tail)
	if err != nil || g.Content != "The moon." || g.Thinking != "T" || !reflect.DeepEqual(g.Context, []int{1, 2}) {
		t.Errorf("%+v %v", g, err)
	}
	tool, err := collect(OpChat, chatLine(`{"role":"assistant","content":"","tool_calls":[{"id":"call_1","function":{"index":0,"name":"tide","arguments":{"port": "Brest","b":1}}}]}`), chatStream[3])
	if err != nil || len(tool.ToolCalls) != 1 || tool.ToolCalls[0].Name != "tide" || string(tool.ToolCalls[0].Arguments) != `{"port":"Brest","b":1}` {
		t.Errorf("%+v %v", tool, err)
	}
}

func TestOnlyCompleteAnswersMayBeStored(t *testing.T) {
	end := chatStream[3]
	for name, lines := range map[string][]string{
		"nothing":         {},
		"cut short":       chatStream[:3],
		"error line":      {chatStream[1], `{"error":"out of memory"}`},
		"error then done": {chatStream[1], `{"error":"out of memory"}`, end},
		"odd error":       {chatStream[1], `{"error":{"code":5}}`, end},
		"length":          {chatStream[1], strings.Replace(end, `"stop"`, `"length"`, 1)},
		"no reason":       {chatStream[1], strings.Replace(end, `"done_reason":"stop",`, "", 1)},
		"load":            {strings.Replace(end, `"stop"`, `"load"`, 1)},
		"empty":           {end},
		"only thinking":   {chatStream[0], end},
		"after the end":   {chatStream[1], end, chatStream[1]},
		"not JSON":        {chatStream[1], "{broken", end},
		"user's words":    {chatLine(`{"role":"user","content":"x"}`), end},
		"no message":      {head + `"done":false}`, chatStream[1], end},
		"done false":      {strings.Replace(strings.Replace(end, `"content":""`, `"content":"x"`, 1), `"done":true`, `"done":false`, 1)},
	} {
		if a, err := collect(OpChat, lines...); !errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %+v, %v; want ErrIncomplete", name, a, err)
		}
	}
	c := NewCollector(OpChat)
	c.Add([]byte(`{"error":"out of memory"}`))
	if c.Failed() != "out of memory" || c.Done() || c.Chunks() != 1 {
		t.Errorf("failed %q, done %v, chunks %d", c.Failed(), c.Done(), c.Chunks())
	}
}

var at = Replay{Op: OpChat, Model: "Reef", Now: time.Date(2026, 4, 2, 8, 0, 0, 120, time.UTC), Elapsed: 5000}

const counters = `"total_duration":5000,"load_duration":1,"prompt_eval_count":12,"prompt_eval_duration":1,"eval_count":3,"eval_duration":1}`

func TestReplayWritesOllamasBytes(t *testing.T) {
	a, err := collect(OpChat, chatStream...)
	if err != nil {
		t.Fatal(err)
	}
	const head = `{"model":"Reef","created_at":"2026-04-02T08:00:00.00000012Z",`
	want := head + `"message":{"role":"assistant","content":"The moon \u003cpulls\u003e.","thinking":"Tides."},"done":true,"done_reason":"stop",` + counters
	if got := string(at.AppendObject(nil, a)); got != want {
		t.Errorf("object\n%s\nwant\n%s", got, want)
	}
	wantLines := head + `"message":{"role":"assistant","content":"","thinking":"Tides."},"done":false}` + "\n" +
		head + `"message":{"role":"assistant","content":"The moon \u003cpulls\u003e."},"done":false}` + "\n" +
		head + `"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",` + counters + "\n"
	if got := lines(t, at, a); got != wantLines {
		t.Errorf("lines\n%s\nwant\n%s", got, wantLines)
	}
	gen := at
	gen.Op = OpGenerate
	a.Context = []int{5, 6}
	wantGen := head + `"response":"The moon \u003cpulls\u003e.","thinking":"Tides.","done":true,"done_reason":"stop","context":[5,6],` + counters
	if got := string(gen.AppendObject(nil, a)); got != wantGen {
		t.Errorf("generate\n%s\nwant\n%s", got, wantGen)
	}
}

func lines(t *testing.T, p Replay, a *Answer) string {
	var b strings.Builder
	if err := p.Lines(a, func(l []byte) error { b.Write(l); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReplayMakesNewToolCallIDs(t *testing.T) {
	a := &Answer{DoneReason: "stop", ToolCalls: []ToolCall{{ID: "call_old", Name: "tide", Arguments: json.RawMessage(`{"p":1}`)}}}
	id := regexp.MustCompile(`"tool_calls":\[\{"id":"(call_[a-z0-9]{8})","function":\{"index":0,"name":"tide","arguments":\{"p":1\}\}\}\]`)
	first, second := id.FindSubmatch(at.AppendObject(nil, a)), id.FindStringSubmatch(lines(t, at, a))
	if first == nil || second == nil || string(first[1]) == second[1] {
		t.Errorf("%q %q", first, second)
	}
}

func TestReplayStopsWithItsReader(t *testing.T) {
	stop := errors.New("gone")
	calls := 0
	err := at.Lines(&Answer{Content: strings.Repeat("x", 3*maxLineText)}, func([]byte) error { calls++; return stop })
	if err != stop || calls != 1 {
		t.Errorf("%v after %d lines", err, calls)
	}
}

// randomAnswer has everything an answer may have.
func randomAnswer(rng *rand.Rand) *Answer {
	text := func() string {
		runes := []rune("abc <>&\"\\\n\u2028é汉字🙂")
		var b strings.Builder
		for range rng.IntN(3000) {
			b.WriteRune(runes[rng.IntN(len(runes))])
		}
		return b.String()
	}
	a := &Answer{
		Role: "assistant", Content: "x" + text(), Thinking: text(), DoneReason: "stop", Model: "m",
		InputTokens: rng.IntN(1000), OutputTokens: rng.IntN(1000), Total: 9, Load: 1, PromptEval: 3, Eval: 5,
		Digest: text(), Provider: "ollama", Created: time.UnixMilli(rng.Int64N(1 << 40)).UTC(),
	}
	for i := range rng.IntN(3) {
		a.ToolCalls = append(a.ToolCalls, ToolCall{ID: "call_x", Index: i, Name: text(), Arguments: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))})
	}
	if rng.IntN(2) == 0 {
		a.Logprobs = json.RawMessage(`[{"token":"x","logprob":-0.5}]`)
	}
	return a
}

func TestAnswersSurviveStorageAndReplay(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		a := randomAnswer(rng)
		b, err := a.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeAnswer(b)
		if err != nil || !reflect.DeepEqual(a, back) {
			t.Fatalf("%v\n%+v\n%+v", err, a, back)
		}
		for _, op := range []Op{OpChat, OpGenerate} {
			p := Replay{Op: op, Model: "m", Now: a.Created, Elapsed: 1}
			streamed := NewCollector(op)
			p.Lines(a, streamed.Add)
			whole := NewCollector(op)
			whole.Add(p.AppendObject(nil, a))
			for _, c := range []*Collector{streamed, whole} {
				got, err := c.Answer()
				if err != nil {
					t.Fatal(err)
				}
				if got.Content != a.Content || got.Thinking != a.Thinking || len(got.ToolCalls) != len(a.ToolCalls) ||
					got.InputTokens != a.InputTokens || got.OutputTokens != a.OutputTokens || string(got.Logprobs) != string(a.Logprobs) {
					t.Fatalf("%s: replay lost something:\n%+v\n%+v", op, a, got)
				}
			}
		}
	}
}

func TestNegativeNumbersAreNotStored(t *testing.T) {
	if _, err := (&Answer{OutputTokens: -1}).AppendBinary(nil); err == nil {
		t.Error("a negative counter was stored")
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		b, _ := randomAnswer(rng).AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnswer(b)
		if err != nil {
			if !errors.Is(err, ErrCorruptAnswer) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		again, err := a.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeAnswer(again); err != nil || !reflect.DeepEqual(a, back) {
			t.Fatalf("%v: %+v, %+v", err, a, back)
		}
	})
}

func FuzzCollector(f *testing.F) {
	f.Add([]byte(strings.Join(chatStream, "\n")), true)
	f.Add([]byte(`{"error":"x"}`), false)
	f.Fuzz(func(t *testing.T, stream []byte, chat bool) {
		op := OpGenerate
		if chat {
			op = OpChat
		}
		c := NewCollector(op)
		for _, l := range bytes.Split(stream, []byte("\n")) {
			c.Add(l)
		}
		a, err := c.Answer()
		if err != nil {
			return
		}
		if !c.Done() || c.Failed() != "" || a.DoneReason != "stop" || a.Content == "" && len(a.ToolCalls) == 0 {
			t.Fatalf("an incomplete answer was let through: %+v", a)
		}
		if obj := (Replay{Op: op}).AppendObject(nil, a); !json.Valid(obj) {
			t.Fatalf("replay is not JSON: %s", obj)
		}
	})
}

func readLines(r io.Reader, max int) (out []string, err error) {
	lr := NewLineReader(r, max)
	for {
		l, err := lr.Next()
		if err != nil {
			return out, err
		}
		out = append(out, string(l))
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	got, err := readLines(strings.NewReader("a\n\r\nb\r\n \n"+long+"\nlast"), 200<<10)
	if want := []string{"a", "b", long, "last"}; err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Errorf("%d lines, %v", len(got), err)
	}
	if _, err := readLines(strings.NewReader(long), 1000); err != ErrLineTooLong {
		t.Errorf("%v, want ErrLineTooLong", err)
	}
	if got, err := readLines(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc\nd"))), 10); err != iotest.ErrTimeout || len(got) != 0 {
		t.Errorf("%q, %v: a cut line is no line", got, err)
	}
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\n\nb\r\nc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err1 := readLines(bytes.NewReader(in), 64)
		single, err2 := readLines(iotest.OneByteReader(bytes.NewReader(in)), 64)
		if !reflect.DeepEqual(whole, single) || err1 != err2 {
			t.Fatalf("chunks matter: %q %v, %q %v", whole, err1, single, err2)
		}
	})
}

func readEvents(r io.Reader, max int) (out []Event, err error) {
	er := NewEventReader(r, max)
	for {
		ev, err := er.Next()
		if err != nil {
			return out, err
		}
		out = append(out, ev)
	}
}

func TestEventReader(t *testing.T) {
	in := "\uFEFFdata: one\n\n: comment\nevent: note\r\ndata: two\rdata:three\n\nid: 5\nretry: 1\n\ndata\n\ndata: dropped"
	got, err := readEvents(strings.NewReader(in), 1000)
	want := []Event{{"", []byte("one")}, {"note", []byte("two\nthree")}, {"", []byte{}}}
	if err != io.EOF || len(got) != len(want) {
		t.Fatalf("%q %v", got, err)
	}
	for i := range want {
		if got[i].Name != want[i].Name || !bytes.Equal(got[i].Data, want[i].Data) {
			t.Errorf("event %d: %q, want %q", i, got[i], want[i])
		}
	}
	if _, err := readEvents(strings.NewReader("data: "+strings.Repeat("x", 100)+"\n\n"), 50); err != ErrLineTooLong {
		t.Errorf("%v, want ErrLineTooLong", err)
	}
}

func FuzzEventReader(f *testing.F) {
	f.Add([]byte("event: a\r\ndata: b\r\r\ndata: c\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err1 := readEvents(bytes.NewReader(in), 64)
		single, err2 := readEvents(iotest.OneByteReader(bytes.NewReader(in)), 64)
		if !reflect.DeepEqual(whole, single) || err1 != err2 {
			t.Fatalf("chunks matter: %q %v, %q %v", whole, err1, single, err2)
		}
	})
}

func TestErrorsInEveryProtocol(t *testing.T) {
	for _, c := range []struct {
		path, body, line, kind string
	}{
		{"/api/chat", `{"error":"too \"big\""}`, "{\"error\":\"too \\\"big\\\"\"}\n", "application/json; charset=utf-8"},
		{"/v1/chat/completions", `{"error":{"message":"too \"big\"","type":"invalid_request_error","param":null,"code":null}}` + "\n",
			`data: {"error":{"message":"too \"big\"","type":"api_error","param":null,"code":null}}` + "\n\n", "application/json"},
		{"/v1/messages", `{"type":"error","error":{"type":"request_too_large","message":"too \"big\""}}` + "\n",
			"event: error\n" + `data: {"type":"error","error":{"type":"api_error","message":"too \"big\""}}` + "\n\n", "application/json"},
		{"/cache/lookup", `{"type":"about:blank","title":"Request Entity Too Large","status":413,"detail":"too \"big\""}`,
			"{\"error\":\"too \\\"big\\\"\"}\n", "application/problem+json"},
	} {
		p := ProtocolOf(c.path)
		kind, body := ErrorBody(p, 413, `too "big"`)
		if kind != c.kind || string(body) != c.body || string(ErrorLine(p, `too "big"`)) != c.line {
			t.Errorf("%s: %s %s %s", c.path, kind, body, ErrorLine(p, `too "big"`))
		}
	}
}

func BenchmarkReplayObject(b *testing.B) {
	a := &Answer{Content: strings.Repeat("the tide comes and goes ", 80), DoneReason: "stop", InputTokens: 10, OutputTokens: 300}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = at.AppendObject(buf[:0], a)
	}
}
