package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func cloudBody(t *testing.T, op Op, body string) string {
	t.Helper()
	r, err := DecodeRequest(op, []byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	b, err := r.CloudBody(CloudOptions{Model: "big"})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestRequestsForTheCloud(t *testing.T) {
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	png := base64.StdEncoding.EncodeToString([]byte("\x89PNG\r\n\x1a\n0000"))
	for _, c := range []struct {
		op       Op
		in, want string
	}{
		{OpChat, `{"model":"m","stream":false,` + hi + `}`, `{"messages":[{"role":"user","content":"hi"}],"model":"big","stream":false}`},
		{OpChat, `{"model":"m",` + hi + `}`, `{"messages":[{"role":"user","content":"hi"}],"model":"big","stream":true,"stream_options":{"include_usage":true}}`},
		{OpGenerate, `{"model":"m","stream":false,"system":"s","prompt":"p"}`, `{"messages":[{"role":"system","content":"s"},{"role":"user","content":"p"}],"model":"big","stream":false}`},
		{OpChat, `{"model":"m","stream":false,` + hi + `,"keep_alive":5,"think":true,"options":{"temperature":9,"top_p":0.5,"seed":3,"top_k":4,"num_ctx":8,"num_predict":7,"stop":["a","b","c","d","e"],"presence_penalty":1,"frequency_penalty":-1}}`,
			`{"frequency_penalty":-1,"max_completion_tokens":7,"messages":[{"role":"user","content":"hi"}],"model":"big","presence_penalty":1,"seed":3,"stop":["a","b","c","d"],"stream":false,"temperature":2,"top_p":0.5}`},
		{OpChat, `{"model":"m","stream":false,` + hi + `,"options":{"num_predict":-1,"stop":"x"}}`, `{"messages":[{"role":"user","content":"hi"}],"model":"big","stop":["x"],"stream":false}`},
		{OpChat, `{"model":"m","stream":false,` + hi + `,"format":"json"}`,
			`{"messages":[{"role":"system","content":"Answer in JSON."},{"role":"user","content":"hi"}],"model":"big","response_format":{"type":"json_object"},"stream":false}`},
		{OpChat, `{"model":"m","stream":false,"messages":[{"role":"user","content":"as Json"}],"format":{"type":"object"}}`,
			`{"messages":[{"role":"user","content":"as Json"}],"model":"big","response_format":{"json_schema":{"name":"schema","schema":{"type":"object"},"strict":false},"type":"json_schema"},"stream":false}`},
		{OpChat, `{"model":"m","stream":false,"messages":[{"role":"user","content":"what","images":["` + png + `"]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"what"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + png + `"}}]}],"model":"big","stream":false}`},
		{OpChat, `{"model":"m","stream":false,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none","messages":[
			{"role":"user","content":"u"},
			{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"b":1,"a":2}}},{"id":"z","function":{"name":"g","arguments":{}}}]},
			{"role":"tool","tool_name":"g","content":"G"},{"role":"tool","content":"F"}]}`,
			`{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1_0","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":2}"}},{"id":"z","type":"function","function":{"name":"g","arguments":"{}"}}]},{"role":"tool","content":"G","tool_call_id":"z"},{"role":"tool","content":"F","tool_call_id":"call_1_0"}],"model":"big","stream":false,"tool_choice":"none","tools":[{"function":{"name":"f","parameters":{"type":"object","properties":{}}},"type":"function"}]}`},
	} {
		if got := cloudBody(t, c.op, c.in); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	for _, in := range []string{
		`{"model":"m","prompt":"p","raw":true}`, `{"model":"m","prompt":"p","suffix":"s"}`, `{"model":"m","prompt":"p","template":"t"}`,
		`{"model":"m","prompt":"p","context":[1]}`, `{"model":"m","prompt":"p","logprobs":true}`, `{"model":"m","prompt":"p","images":["AAAA"]}`, `{"model":"m"}`,
	} {
		r, err := DecodeRequest(OpGenerate, []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.CloudBody(CloudOptions{Model: "big"}); !errors.Is(err, ErrUntranslatable) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

var cloudRemote = Replay{Op: OpChat, Model: "Reef", RemoteModel: "big", RemoteHost: "cloud.example"}

func cloudClock() func() time.Time {
	n := time.Unix(1_700_000_000, 0)
	return func() time.Time { n = n.Add(time.Millisecond); return n }
}

// cloudStream feeds events and collects what comes out.
func cloudStream(t *testing.T, p Replay, events ...string) (lines string, a *Answer, err error) {
	t.Helper()
	now := cloudClock()
	c := NewCloud(p, now(), now)
	var out []byte
	for _, e := range events {
		if out, err = c.Event(out, []byte(e)); err != nil {
			return string(out), nil, err
		}
	}
	if out, err = c.Close(out); err != nil {
		return string(out), nil, err
	}
	col := NewCollector(p.Op)
	for line := range strings.Lines(string(out)) {
		if err := col.Add([]byte(line)); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	return string(out), col.Joined(), nil
}

func TestAnswersFromTheCloud(t *testing.T) {
	stream := []string{
		`{"choices":[{"delta":{"role":"assistant","content":""}}]}`, `{"choices":[{"delta":{"reasoning":"hm"}}]}`,
		`{"choices":[{"delta":{"content":"Blue "}}]}`, `{"choices":[{"delta":{"content":"light."}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\""}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":": 1}"}},{"index":1,"function":{"name":"g","arguments":""}}]}}]}`,
		`{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}`, `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}`, `[DONE]`, `{"choices":[{"delta":{"content":"late"}}]}`,
	}
	whole := `{"choices":[{"message":{"content":"Blue light.","reasoning_content":"hm","tool_calls":[{"function":{"name":"f","arguments":"{\"a\": 1}"}},{"function":{"name":"g","arguments":""}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7}}`
	for _, op := range []Op{OpChat, OpGenerate} {
		p := cloudRemote
		p.Op = op
		lines, a, err := cloudStream(t, p, stream...)
		if err != nil {
			t.Fatal(err)
		}
		now := cloudClock()
		object, err := NewCloud(p, now(), now).Whole(nil, []byte(whole))
		if err != nil {
			t.Fatal(err)
		}
		col := NewCollector(op)
		col.Add(object)
		b := col.Joined()
		for _, x := range []*Answer{a, b} {
			if x.Content != "Blue light." || x.Thinking != "hm" || len(x.ToolCalls) != 2 || string(x.ToolCalls[0].Arguments) != `{"a":1}` || x.ToolCalls[1].Name != "g" ||
				x.InputTokens != 5 || x.OutputTokens != 7 || x.DoneReason != "stop" || x.Total <= 0 || x.Model != "Reef" {
				t.Errorf("%s: %+v", op, x)
			}
		}
		for line := range strings.Lines(lines + string(object)) {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil || l["remote_model"] != "big" || l["remote_host"] != "cloud.example" {
				t.Errorf("%q does not say where it is from", line)
			}
		}
	}
}

func TestBrokenCloudAnswersAreErrors(t *testing.T) {
	for name, events := range map[string][]string{
		"cut": {`{"choices":[{"delta":{"content":"a"}}]}`}, "done without a finish": {`[DONE]`}, "garbage": {`<html>`},
		"error": {`{"error":{"message":"boom"}}`}, "bad arguments": {`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a"}}]},"finish_reason":"tool_calls"}]}`},
	} {
		if _, _, err := cloudStream(t, cloudRemote, events...); !errors.Is(err, ErrCloud) || name == "error" && !strings.Contains(err.Error(), "boom") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, body := range []string{``, `<html>`, `{}`, `{"error":"down"}`, `{"choices":[{"message":{"content":"a"}}]}`, `{"choices":[]}`} {
		if _, err := NewCloud(cloudRemote, time.Time{}, time.Now).Whole(nil, []byte(body)); !errors.Is(err, ErrCloud) {
			t.Errorf("%q: %v", body, err)
		}
	}
	now := cloudClock()
	c := NewCloud(cloudRemote, now(), now)
	if _, err := c.Whole(nil, []byte(`{"choices":[{"message":{"content":"a"},"finish_reason":"content_filter"}]}`)); err != nil || !c.Censored() {
		t.Errorf("censored: %v", err)
	}
	if _, a, err := cloudStream(t, cloudRemote, `{"choices":[{"delta":{"content":"a"},"finish_reason":"length"}]}`); err != nil || a.DoneReason != "length" {
		t.Errorf("length: %v", err)
	}
}

func FuzzCloud(f *testing.F) {
	f.Add(`{"choices":[{"delta":{"content":"a","tool_calls":[{"index":-1,"function":{"arguments":"{"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":-1}}`, "[DONE]")
	f.Add(`{"error":{"message":1}}`, `{"choices":null}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		now := cloudClock()
		c := NewCloud(cloudRemote, now(), now)
		var out []byte
		var err error
		for _, e := range []string{a, b} {
			if out, err = c.Event(out, []byte(e)); err != nil {
				break
			}
		}
		if err == nil {
			out, _ = c.Close(out)
		}
		for line := range strings.Lines(string(out)) {
			if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "}\n") {
				t.Fatalf("not a line of JSON: %q", line)
			}
		}
		if whole, err := NewCloud(cloudRemote, now(), now).Whole(nil, []byte(a)); err == nil && !json.Valid(whole) {
			t.Fatalf("not JSON: %q", whole)
		}
	})
}

func FuzzCloudBody(f *testing.F) {
	f.Add(`{"model":"m","messages":[{"role":"tool","content":"x"},{"role":"assistant","tool_calls":[{"function":{"arguments":[]}}]}],"tools":[{"type":""}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := DecodeRequest(OpChat, []byte(body))
		if err != nil {
			return
		}
		b, err := r.CloudBody(CloudOptions{Model: "big"})
		if err == nil && !json.Valid(b) {
			t.Fatalf("not JSON: %s", b)
		}
	})
}
