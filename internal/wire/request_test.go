package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Requests that the tests change in one place at a time.
const (
	chatBody = `{"model":"llama3.2","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sea salty?"}],"options":{"temperature":0.7,"seed":3}}`
	genBody  = `{"model":"llama3.2","prompt":"Why is the sea salty?","system":"Be brief.","options":{"num_ctx":4096}}`
)

func decode(t testing.TB, op Op, body string) *Request {
	t.Helper()
	r, err := DecodeRequest(op, []byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return r
}

func TestDecodeReadsLikeOllama(t *testing.T) {
	want := decode(t, OpChat, chatBody)
	for name, body := range map[string]string{
		"case of keys":     `{"MODEL":"llama3.2","Messages":[{"ROLE":"system","Content":"Be brief."},{"role":"user","content":"Why is the sea salty?"}],"Options":{"temperature":0.7,"seed":3}}`,
		"last duplicate":   `{"model":"other","messages":[],` + chatBody[1:],
		"trailing garbage": chatBody + `}{]garbage`,
		"null is absent":   `{"format":null,"stream":null,"tools":null,"think":null,"keep_alive":null,` + chatBody[1:],
		"empty format":     `{"format":"","tools":[],` + chatBody[1:],
		"numbers":          strings.NewReplacer("0.7", "7e-1", `"seed":3`, `"seed":3.0`).Replace(chatBody),
		"order of options": strings.Replace(chatBody, `"temperature":0.7,"seed":3`, `"seed":3,"temperature":0.70`, 1),
		"role in capitals": strings.Replace(chatBody, `"user"`, `"User"`, 1),
		"white space":      strings.ReplaceAll(chatBody, ",", " ,\n\t"),
		"escapes":          strings.Replace(chatBody, "salty", `s\u0061lty`, 1),
		"speed options":    strings.Replace(chatBody, `"seed":3`, `"seed":3,"num_thread":8,"num_gpu":1`, 1),
		"stream":           `{"stream":false,` + chatBody[1:],
		"keep_alive":       `{"keep_alive":"5m",` + chatBody[1:],
		"truncate":         `{"truncate":true,"shift":true,` + chatBody[1:],
		"model folded":     strings.Replace(chatBody, "llama3.2", "LLAMA3.2:latest", 1),
		"long s":           strings.Replace(chatBody, `"messages"`, `"meſſageſ"`, 1),
	} {
		got := decode(t, OpChat, body)
		if !bytes.Equal(got.Canonical, want.Canonical) || !bytes.Equal(got.Scope, want.Scope) || got.Prompt != want.Prompt {
			t.Errorf("%s:\n%s\nwant\n%s", name, got.Canonical, want.Canonical)
		}
	}
}

func TestEveryFieldThatMattersIsInTheKey(t *testing.T) {
	changes := map[Op]map[string]string{
		OpChat: {
			"model": `{"model":"b"}`, "tools": `{"tools":[{"type":"function"}]}`, "format": `{"format":"json"}`,
			"think": `{"think":true}`, "think off": `{"think":false}`, "truncate": `{"truncate":false}`, "shift": `{"shift":false}`,
			"logprobs": `{"logprobs":true}`, "top_logprobs": `{"top_logprobs":2}`, "unknown": `{"colour":"red"}`,
			"temperature": `{"options":{"temperature":0.8,"seed":3}}`, "seed": `{"options":{"temperature":0.7,"seed":4}}`,
			"unset temperature": `{"options":{"seed":3}}`, "stop": `{"options":{"temperature":0.7,"seed":3,"stop":["x"]}}`,
			"unknown option":  `{"options":{"temperature":0.7,"seed":3,"colour":1}}`,
			"case of options": `{"options":{"Temperature":0.7,"seed":3}}`,
			"system prompt":   `{"messages":[{"role":"system","content":"Be long."},{"role":"user","content":"Why is the sea salty?"}]}`,
			"no system":       `{"messages":[{"role":"user","content":"Why is the sea salty?"}]}`,
			"space at end":    `{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sea salty? "}]}`,
			"role":            `{"messages":[{"role":"user","content":"Be brief."},{"role":"user","content":"Why is the sea salty?"}]}`,
			"thinking":        `{"messages":[{"role":"system","content":"Be brief.","thinking":"x"},{"role":"user","content":"Why is the sea salty?"}]}`,
			"image":           `{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sea salty?","images":["YQ=="]}]}`,
			"other image":     `{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sea salty?","images":["Yg=="]}]}`,
			"tool name":       `{"messages":[{"role":"system","content":"Be brief.","tool_name":"x"},{"role":"user","content":"Why is the sea salty?"}]}`,
			"tool call":       `{"messages":[{"role":"system","content":"Be brief.","tool_calls":[{"function":{"name":"f"}}]},{"role":"user","content":"Why is the sea salty?"}]}`,
			"unknown part":    `{"messages":[{"role":"system","content":"Be brief.","colour":1},{"role":"user","content":"Why is the sea salty?"}]}`,
		},
		OpGenerate: {
			"prompt": `{"prompt":"Why is the sky blue?"}`, "system": `{"system":""}`, "template": `{"template":"{{ .Prompt }}"}`,
			"suffix": `{"suffix":"end"}`, "raw": `{"raw":true}`, "context": `{"context":[1,2]}`, "images": `{"images":["YQ=="]}`,
			"num_ctx": `{"options":{"num_ctx":8192}}`, "unknown": `{"colour":1}`,
		},
	}
	for op, bodies := range changes {
		base := map[Op]string{OpChat: chatBody, OpGenerate: genBody}[op]
		seen := map[string]string{string(decode(t, op, base).Canonical): "the base"}
		for name, change := range bodies {
			canonical := string(decode(t, op, base[:len(base)-1]+","+change[1:]).Canonical)
			if twin, dup := seen[canonical]; dup && name != "no system" {
				t.Errorf("%s: %s has the same key as %s", op, name, twin)
			}
			seen[canonical] = name
		}
	}
}

func TestScopeIsEverythingButThePrompt(t *testing.T) {
	a := decode(t, OpChat, chatBody)
	b := decode(t, OpChat, strings.Replace(chatBody, "Why is the sea salty?", "null", 1))
	if !bytes.Equal(a.Scope, b.Scope) || bytes.Equal(a.Canonical, b.Canonical) || b.Prompt != "null" {
		t.Errorf("scopes\n%s\n%s", a.Scope, b.Scope)
	}
	c := decode(t, OpChat, strings.Replace(chatBody, "brief", "long", 1))
	if bytes.Equal(a.Scope, c.Scope) {
		t.Error("the system prompt is not in the scope")
	}
	g := decode(t, OpGenerate, genBody)
	if g.Prompt != "Why is the sea salty?" || bytes.Contains(g.Scope, []byte("salty")) {
		t.Errorf("scope %s", g.Scope)
	}
}

func TestForwardedBodyIsWhatWasKeyed(t *testing.T) {
	r := decode(t, OpChat, `{"MODEL":"Llama","model":"LLaMA","stream":false,"keep_alive":"5m","messages":[{"role":"USER","content":"<b>","images":["YWI="]}],"options":{"num_thread":4,"x":null},"new_field":[1, 2]}`)
	want := `{"model":"LLaMA","messages":[{"role":"user","content":"\u003cb\u003e","images":["YWI="]}],"options":{"num_thread":4},"stream":false,"keep_alive":"5m","new_field":[1,2]}`
	if string(r.Body()) != want {
		t.Errorf("forwarded\n%s\nwant\n%s", r.Body(), want)
	}
}

func TestGate(t *testing.T) {
	user := `"messages":[{"role":"user","content":"x"}]`
	for _, c := range []struct {
		op                Op
		body              string
		bypass, exactOnly string
	}{
		{OpChat, `{"model":"m",` + user + `}`, "", ""},
		{OpChat, `{"model":"m"}`, "load", "no-user-text"},
		{OpChat, `{"model":"m","messages":[]}`, "load", "no-user-text"},
		{OpChat, `{"model":"m","keep_alive":0}`, "unload", "no-user-text"},
		{OpChat, `{"model":"m","keep_alive":"0s",` + user + `}`, "keep-alive-0", ""},
		{OpChat, `{"model":"m","keep_alive":-1,` + user + `}`, "", ""},
		{OpChat, `{"messages":[]}`, "model", "no-user-text"},
		{OpChat, `{"model":"m","_debug_render_only":true,` + user + `}`, "debug", ""},
		{OpChat, `{"model":"m","n":2,` + user + `}`, "n", ""},
		{OpChat, `{"model":"m","n":1,` + user + `}`, "", ""},
		{OpChat, `{"model":"m","logit_bias":{"1":2},` + user + `}`, "logit-bias", ""},
		{OpChat, `{"model":"m","store":true,` + user + `}`, "store", ""},
		{OpChat, `{"model":"m","tools":[{"type":"web_search_preview"}],` + user + `}`, "web-search", "tools"},
		{OpChat, `{"model":"m","tools":[{"type":"function"}],` + user + `}`, "", "tools"},
		{OpChat, `{"model":"m","logprobs":true,` + user + `}`, "", "logprobs"},
		{OpChat, `{"model":"m","messages":[{"role":"user","content":"x"},{"role":"tool","content":"22"}]}`, "tool-result", "no-user-text"},
		{OpChat, `{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}`, "", "assistant-prefill"},
		{OpChat, `{"model":"m","messages":[{"role":"user","content":" "}]}`, "", "no-user-text"},
		{OpChat, `{"model":"m","messages":[{"role":"user","content":"x","images":["YQ=="]},{"role":"user","content":"y"}]}`, "", "images"},
		{OpGenerate, `{"model":"m","prompt":"x"}`, "", ""},
		{OpGenerate, `{"model":"m"}`, "load", "no-user-text"},
		{OpGenerate, `{"model":"m","keep_alive":0}`, "unload", "no-user-text"},
		{OpGenerate, `{"model":"m","prompt":"x","context":[1]}`, "context", ""},
		{OpGenerate, `{"model":"m","prompt":"x","raw":true}`, "", "raw"},
		{OpGenerate, `{"model":"m","prompt":"x","suffix":"y"}`, "", "suffix"},
		{OpGenerate, `{"model":"m","prompt":"x","template":"y"}`, "", "template"},
		{OpGenerate, `{"model":"m","prompt":"` + strings.Repeat("x", maxSemanticPrompt+1) + `"}`, "", "too-long"},
	} {
		r := decode(t, c.op, c.body)
		if r.Bypass != c.bypass || r.ExactOnly != c.exactOnly {
			t.Errorf("%.120s: bypass %q, exact only %q; want %q, %q", c.body, r.Bypass, r.ExactOnly, c.bypass, c.exactOnly)
		}
		if (r.Scope == nil) != (c.exactOnly != "") {
			t.Errorf("%.120s: scope %q", c.body, r.Scope)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	for _, body := range []string{
		"", "{", "[]", "null", `"x"`, `{"model":`, `{"model":1}`, `{"messages":"x"}`, `{"messages":[1]}`,
		`{"messages":[{"content":["x"]}]}`, `{"messages":[{"images":["not base64!"]}]}`, `{"options":[]}`,
		`{"keep_alive":"soon"}`, `{"keep_alive":true}`, `{"tools":{}}`, `{"stream":"yes"}`, `{"truncate":1}`,
		`{"top_logprobs":"3"}`, `{"messages":[{"tool_calls":{}}]}`, `{"model":"m" "x":1}`,
		strings.Repeat(`{"a":`, 20000),
	} {
		if _, err := DecodeRequest(OpChat, []byte(body)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60s: %v, want ErrMalformed", body, err)
		}
	}
}

func TestFoldModel(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "llama3": "llama3:latest", "Llama3:8B": "llama3:8b", "library/llama3": "llama3:latest",
		"registry.ollama.ai/library/llama3:latest": "llama3:latest", "https://registry.ollama.ai/library/x": "x:latest",
		"hf.co/Bart/Model:Q4": "hf.co/bart/model:q4", "me/mine": "me/mine:latest", "gpt-oss:cloud": "gpt-oss:cloud",
		"host:5000/ns/m": "host:5000/ns/m:latest",
	} {
		if got := FoldModel(in); got != want {
			t.Errorf("FoldModel(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{chatBody, genBody, `{"model":"m","MODEL":null,"prompt":"\ud800"}`, `{"options":{"seed":1e3}}`} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, chat bool) {
		op := OpGenerate
		if chat {
			op = OpChat
		}
		r, err := DecodeRequest(op, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("unnamed error %v", err)
			}
			return
		}
		// What is forwarded must decode to what was keyed.
		again, err := DecodeRequest(op, r.Body())
		if err != nil {
			t.Fatalf("%s does not decode again: %v", r.Body(), err)
		}
		if !bytes.Equal(r.Canonical, again.Canonical) || !bytes.Equal(r.Scope, again.Scope) ||
			r.Prompt != again.Prompt || r.Stream != again.Stream || r.Bypass != again.Bypass {
			t.Fatalf("forwarding changes the request:\n%s\n%s", r.Canonical, again.Canonical)
		}
		compareWithGo(t, r, chat)
	})
}

// compareWithGo reads the forwarded body with Go's own decoder, as Ollama does.
func compareWithGo(t *testing.T, r *Request, chat bool) {
	var ref struct {
		Model    string
		Prompt   string
		Stream   *bool
		Messages []struct{ Role, Content string }
	}
	if err := json.Unmarshal(r.Body(), &ref); err != nil && !chat {
		return // a generate request may have an unknown field "messages" of any type
	} else if err != nil && !strings.Contains(err.Error(), "prompt") && !strings.Contains(err.Error(), "Prompt") {
		t.Fatalf("%s: %v", r.Body(), err)
	}
	if ref.Model != r.Model || *ref.Stream != r.Stream {
		t.Fatalf("%s: model %q stream %v", r.Body(), r.Model, r.Stream)
	}
	if r.ExactOnly == "" {
		last := ref.Prompt
		if chat {
			last = ref.Messages[len(ref.Messages)-1].Content
		}
		if last != r.Prompt {
			t.Fatalf("prompt %q, the upstream reads %q", r.Prompt, last)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("<&>\u2028\x00\xff\"\\\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := json.Marshal(s)
		if got := appendString(nil, s); !bytes.Equal(got, want) {
			t.Fatalf("%q: %s, encoding/json writes %s", s, got, want)
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	var messages []string
	for i := range 5 {
		messages = append(messages, fmt.Sprintf(`{"role":"user","content":"%s %d"}`, strings.Repeat("the tide comes and goes ", 10), i))
	}
	body := []byte(`{"model":"llama3.2","messages":[` + strings.Join(messages, ",") + `],"options":{"temperature":0.2},"stream":false}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRequest(OpChat, body); err != nil {
			b.Fatal(err)
		}
	}
}
