package wire

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestOpenAIRequestSharesTheNativeKey(t *testing.T) {
	for _, c := range []struct{ openai, native string }{
		{`{"model":"m","messages":[{"role":"user","content":"x"}]}`,
			`{"model":"m","messages":[{"role":"user","content":"x"}],"options":{"temperature":1,"top_p":1}}`},
		{`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],"temperature":0,"top_p":0.5,"seed":4,"max_tokens":9,"stop":"s","frequency_penalty":1,"presence_penalty":2,"user":"u","metadata":{}}`,
			`{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}],"options":{"temperature":0,"top_p":0.5,"seed":4,"num_predict":9,"stop":["s"],"frequency_penalty":1,"presence_penalty":2}}`},
		{`{"MODEL":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"},"reasoning_effort":"low"}`,
			`{"model":"m","messages":[{"role":"user","content":"x"}],"options":{"temperature":1,"top_p":1},"format":"json","think":"low"}`},
		{`{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}},"reasoning":{"effort":"none"},"tools":[{"type":"function"}]}`,
			`{"model":"m","messages":[{"role":"user","content":"x"}],"options":{"temperature":1,"top_p":1},"format":{"type":"object"},"think":false,"tools":[{"type":"function"}]}`},
	} {
		r, err := DecodeOpenAI([]byte(c.openai))
		if err != nil {
			t.Errorf("%s: %v", c.openai, err)
			continue
		}
		if want := decode(t, OpChat, c.native); !bytes.Equal(r.Native.Canonical, want.Canonical) {
			t.Errorf("%s\n%s\nwant\n%s", c.openai, r.Native.Canonical, want.Canonical)
		}
		if r.Native.Stream {
			t.Errorf("%s: chat completions do not stream unless asked", c.openai)
		}
	}
	r, err := DecodeOpenAI([]byte(`{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`))
	if err != nil || !r.Native.Stream || !r.IncludeUsage {
		t.Errorf("%+v %v", r, err)
	}
	a, _ := DecodeOpenAI([]byte(`{"model":"m","tool_choice":"auto","messages":[{"role":"user","content":"x"}]}`))
	b, _ := DecodeOpenAI([]byte(`{"model":"m","tool_choice":"none","messages":[{"role":"user","content":"x"}]}`))
	if bytes.Equal(a.Native.Canonical, b.Native.Canonical) {
		t.Error("a field that Ollama ignores today is not in the key")
	}
}

func TestWhatCannotBeTranslatedIsLeftAlone(t *testing.T) {
	msg := `"messages":[{"role":"user","content":"x"}]`
	for body, want := range map[string]error{
		`{"model":"m","messages":[]}`: ErrUntranslatable,
		`{"model":"m"}`:               ErrUntranslatable,
		`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}`: ErrUntranslatable,
		`{"model":"m","messages":[{"role":"assistant","content":"","tool_calls":[{}]}]}`:             ErrUntranslatable,
		`{"model":"m","messages":[{"role":"user","content":"x","name":"bob"}]}`:                      ErrUntranslatable,
		`{"model":"m","messages":[{"role":"user"}]}`:                                                 ErrUntranslatable,
		`{"model":"m","logprobs":true,` + msg + `}`:                                                  ErrUntranslatable,
		`{"model":"m","think":true,` + msg + `}`:                                                     ErrUntranslatable,
		`{"model":"m","options":{"seed":1},` + msg + `}`:                                             ErrUntranslatable,
		`{"model":"m","response_format":{"type":"xml"},` + msg + `}`:                                 ErrUntranslatable,
		`{"model":"m","reasoning_effort":"extreme",` + msg + `}`:                                     ErrUntranslatable,
		`{"model":5,` + msg + `}`:                                                                    ErrMalformed,
		`{"model":"m","stop":{},` + msg + `}`:                                                        ErrMalformed,
		`{"model":"m","stop":[1],` + msg + `}`:                                                       ErrMalformed,
		`{"model":"m","temperature":"hot",` + msg + `}`:                                              ErrMalformed,
		`{`: ErrMalformed,
	} {
		if _, err := DecodeOpenAI([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", body, err, want)
		}
	}
}

var openAIAt = OpenAIReplay{ID: "chatcmpl-7", Model: "Reef", Now: time.Unix(1_700_000_000, 0), IncludeUsage: true}

const chunkHead = `data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1700000000,"model":"Reef","system_fingerprint":"fp_ollama","choices":[`

func TestOpenAIObject(t *testing.T) {
	a, err := collect(OpChat, chatStream...)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"chatcmpl-7","object":"chat.completion","created":1700000000,"model":"Reef","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"The moon \u003cpulls\u003e.","reasoning":"Tides."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}` + "\n"
	if got := string(openAIAt.AppendObject(nil, a)); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func events(lines ...string) string {
	s := NewOpenAIStream(openAIAt)
	var out []byte
	for _, l := range lines {
		out = s.Append(out, []byte(l))
	}
	return string(s.Close(out))
}

func TestOpenAIStream(t *testing.T) {
	want := chunkHead + `{"index":0,"delta":{"role":"assistant","content":"","reasoning":"Tides."},"finish_reason":null}]}` + "\n\n" +
		chunkHead + `{"index":0,"delta":{"content":"The "},"finish_reason":null}]}` + "\n\n" +
		chunkHead + `{"index":0,"delta":{"content":"moon \u003cpulls\u003e."},"finish_reason":null}]}` + "\n\n" +
		chunkHead + `{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n" +
		chunkHead + `],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}` + "\n\ndata: [DONE]\n\n"
	if got := events(chatStream...); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	tool := events(chatLine(`{"role":"assistant","content":"","tool_calls":[{"function":{"index":0,"name":"tide","arguments":{"port": "Brest"}}}]}`), chatStream[3])
	if !regexp.MustCompile(`"delta":\{"role":"assistant","content":"","tool_calls":\[\{"id":"call_[a-z0-9]{8}","index":0,"type":"function","function":\{"name":"tide","arguments":"\{\\"port\\":\\"Brest\\"\}"\}\}\]\}`).MatchString(tool) ||
		!strings.Contains(tool, `"finish_reason":"tool_calls"`) {
		t.Error(tool)
	}
}

func TestOpenAIStreamNeverHidesAnError(t *testing.T) {
	for name, lines := range map[string][]string{
		"error line":  {chatStream[1], `{"error":"out of memory"}`, chatStream[3]},
		"cut short":   chatStream[:2],
		"no reason":   {chatStream[1], strings.Replace(chatStream[3], `"done_reason":"stop",`, "", 1)},
		"not JSON":    {chatStream[1], "<html>"},
		"no line yet": {},
	} {
		got := events(lines...)
		if strings.Count(got, `data: {"error":{"message":`) != 1 || strings.Contains(got, "[DONE]") || strings.Contains(got, `"finish_reason":"stop"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func FuzzDecodeOpenAI(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stop":["x"]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeOpenAI(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntranslatable) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		if again, err := DecodeRequest(OpChat, r.Native.Body()); err != nil || !bytes.Equal(again.Canonical, r.Native.Canonical) {
			t.Fatalf("%s: %v", r.Native.Body(), err)
		}
	})
}
