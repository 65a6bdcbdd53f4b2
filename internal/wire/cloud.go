package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// This file translates between the native protocol and OpenAI's chat completions
// in the other direction than openai.go: requests to, and answers from, a server
// that stands in for Ollama.

// ErrCloud: an OpenAI-compatible server answered with an error or with something
// that is no answer. The wrapped text is fit for clients.
var ErrCloud = errors.New("wire: no usable answer")

// CloudOptions say how a server wants to be asked.
type CloudOptions struct {
	Model string // its own name of the model
	// MaxTokens is the field that bounds the answer: "max_completion_tokens"
	// (OpenAI; the default) or "max_tokens" (older servers).
	MaxTokens string
}

// maxStops is how many stop sequences OpenAI accepts.
const maxStops = 4

// CloudBody returns the body of the chat completion that asks the same as r.
// Settings without a counterpart (top_k, num_ctx, think, ...) are left out; what
// would change the question itself (raw, suffix, template, context, logprobs, an
// image of unknown format) is ErrUntranslatable.
func (r *Request) CloudBody(o CloudOptions) ([]byte, error) {
	fields, err := foldObject(r.forward)
	if err != nil {
		return nil, err
	}
	d := decoded{op: r.Op}
	if err := d.read(fields); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if what := d.noCloud(); what != "" {
		return nil, fmt.Errorf("%w: %s", ErrUntranslatable, what)
	}
	body := map[string]any{"model": o.Model, "stream": r.Stream}
	if r.Stream {
		body["stream_options"] = map[string]bool{"include_usage": true} // the final counters come from there
	}
	messages, err := d.cloudMessages()
	if err != nil {
		return nil, err
	}
	if err := d.cloudTools(body); err != nil {
		return nil, err
	}
	d.cloudOptions(body, o)
	body["messages"] = d.cloudFormat(body, messages)
	return json.Marshal(body)
}

// noCloud names what has no counterpart.
func (d *decoded) noCloud() string {
	switch {
	case d.debug:
		return "_debug_render_only"
	case d.raw:
		return "raw"
	case d.suffix != "":
		return "suffix"
	case d.template != "":
		return "template"
	case len(d.context) > 0:
		return "context"
	case d.logprobs || d.topLogprobs > 0:
		return "logprobs"
	case d.op == OpChat && len(d.messages) == 0, d.op == OpGenerate && d.text == "":
		return "no question"
	}
	return ""
}

// cloudMessage is one turn.
type cloudMessage struct {
	Role       string      `json:"role"`
	Content    any         `json:"content"` // string or []cloudPart; null beside tool calls
	ToolCalls  []cloudCall `json:"tool_calls,omitempty"`
	ToolCallID string      `json:"tool_call_id,omitempty"`
}

type cloudPart struct {
	Type  string         `json:"type"`
	Text  string         `json:"text,omitempty"`
	Image *cloudImageURL `json:"image_url,omitempty"`
}

type cloudImageURL struct {
	URL string `json:"url"`
}

type cloudCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"` // JSON in a string
	} `json:"function"`
}

func (d *decoded) cloudMessages() ([]cloudMessage, error) {
	if d.op == OpGenerate {
		var out []cloudMessage
		if d.system != "" {
			out = append(out, cloudMessage{Role: "system", Content: d.system})
		}
		content, err := cloudContent(d.text, d.images)
		return append(out, cloudMessage{Role: "user", Content: content}), err
	}
	var out []cloudMessage
	var open []cloudCall // calls without a result so far
	for i, m := range d.messages {
		content, err := cloudContent(m.content, m.images)
		if err != nil {
			return nil, err
		}
		c := cloudMessage{Role: m.role, Content: content}
		switch m.role {
		case "system", "developer", "user", "assistant", "tool":
		default:
			c.Role = "user"
		}
		if m.toolCalls != nil {
			if c.ToolCalls, err = cloudCalls(i, m.toolCalls); err != nil {
				return nil, err
			}
			open = append(open, c.ToolCalls...)
			if m.content == "" {
				c.Content = nil
			}
		}
		if c.Role == "tool" {
			if c.ToolCallID, open = answered(open, m); c.ToolCallID == "" {
				return nil, fmt.Errorf("%w: a tool's result without its call", ErrUntranslatable)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// cloudCalls translates the tool calls of message i. Calls without an ID get one
// that is the same every time.
func cloudCalls(i int, raw json.RawMessage) ([]cloudCall, error) {
	var calls []lineToolCall
	if err := json.Unmarshal(raw, &calls); err != nil {
		return nil, fmt.Errorf("%w: tool_calls: %w", ErrMalformed, err)
	}
	out := make([]cloudCall, len(calls))
	for j, call := range calls {
		c := cloudCall{ID: call.ID, Type: "function"}
		if c.ID == "" {
			c.ID = fmt.Sprintf("call_%d_%d", i, j)
		}
		c.Function.Name, c.Function.Arguments = call.Function.Name, "{}"
		if len(call.Function.Arguments) > 0 {
			c.Function.Arguments = string(compact(call.Function.Arguments))
		}
		out[j] = c
	}
	return out, nil
}

// answered finds the call that a tool message answers: by ID, else by name, else
// the first one open.
func answered(open []cloudCall, m message) (id string, rest []cloudCall) {
	i := slices.IndexFunc(open, func(c cloudCall) bool { return m.toolCallID != "" && c.ID == m.toolCallID })
	if i < 0 && m.toolCallID == "" && m.toolName != "" {
		i = slices.IndexFunc(open, func(c cloudCall) bool { return c.Function.Name == m.toolName })
	}
	if i < 0 && m.toolCallID == "" && len(open) > 0 {
		i = 0
	}
	if i < 0 {
		return "", open
	}
	return open[i].ID, slices.Delete(slices.Clone(open), i, i+1)
}

// cloudContent returns a text, or its parts when there are images.
func cloudContent(text string, images [][]byte) (any, error) {
	if len(images) == 0 {
		return text, nil
	}
	var parts []cloudPart
	if text != "" {
		parts = append(parts, cloudPart{Type: "text", Text: text})
	}
	for _, img := range images {
		kind := http.DetectContentType(img)
		if !slices.Contains([]string{"image/png", "image/jpeg", "image/gif", "image/webp"}, kind) {
			return nil, fmt.Errorf("%w: an image of unknown format", ErrUntranslatable)
		}
		parts = append(parts, cloudPart{Type: "image_url", Image: &cloudImageURL{"data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(img)}})
	}
	return parts, nil
}

// cloudTools adds the tools and what a caller of /v1 said about them.
func (d *decoded) cloudTools(body map[string]any) error {
	if d.tools == nil {
		return nil
	}
	var tools []map[string]json.RawMessage
	if err := json.Unmarshal(d.tools, &tools); err != nil {
		return fmt.Errorf("%w: tools: %w", ErrMalformed, err)
	}
	for i, t := range tools {
		if d.toolTypes[i] != "function" && d.toolTypes[i] != "" {
			return fmt.Errorf("%w: a tool of type %.20q", ErrUntranslatable, d.toolTypes[i])
		}
		tools[i] = map[string]json.RawMessage{"type": json.RawMessage(`"function"`), "function": withParameters(t["function"])}
	}
	body["tools"] = tools
	for _, name := range [...]string{"tool_choice", "parallel_tool_calls"} {
		if v, ok := d.unknown[name]; ok {
			body[name] = v
		}
	}
	return nil
}

// withParameters gives a function without parameters an empty list of them.
func withParameters(function json.RawMessage) json.RawMessage {
	var f map[string]json.RawMessage
	if json.Unmarshal(function, &f) != nil || f == nil || len(f["parameters"]) > 0 {
		return function
	}
	f["parameters"] = json.RawMessage(`{"type":"object","properties":{}}`)
	b, err := json.Marshal(f)
	if err != nil {
		return function
	}
	return b
}

func (d *decoded) cloudOptions(body map[string]any, o CloudOptions) {
	for _, name := range [...]string{"top_p", "seed", "presence_penalty", "frequency_penalty"} {
		if v, ok := d.options[name]; ok {
			body[name] = v
		}
	}
	var f float64
	if v, ok := d.options["temperature"]; ok && json.Unmarshal(v, &f) == nil {
		body["temperature"] = min(max(f, 0), 2)
	}
	limit := o.MaxTokens
	if limit == "" {
		limit = "max_completion_tokens"
	}
	var n int
	if v, ok := d.options["num_predict"]; ok && json.Unmarshal(v, &n) == nil && n > 0 {
		body[limit] = n
	} else if v, ok := d.unknown["max_completion_tokens"]; ok {
		body[limit] = v
	}
	var stop string
	var stops []string
	if v, ok := d.options["stop"]; ok {
		if json.Unmarshal(v, &stop) == nil {
			stops = []string{stop}
		} else if json.Unmarshal(v, &stops) != nil {
			stops = nil
		}
		if len(stops) > 0 {
			body["stop"] = stops[:min(len(stops), maxStops)]
		}
	}
}

// cloudFormat adds the response format. OpenAI refuses the JSON mode unless the
// word occurs in the conversation.
func (d *decoded) cloudFormat(body map[string]any, messages []cloudMessage) []cloudMessage {
	switch {
	case d.format == nil:
	case string(d.format) == `"json"`:
		body["response_format"] = map[string]string{"type": "json_object"}
		if b, _ := json.Marshal(messages); !bytes.Contains(bytes.ToLower(b), []byte("json")) {
			messages = append([]cloudMessage{{Role: "system", Content: "Answer in JSON."}}, messages...)
		}
	default:
		body["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "schema", "schema": d.format, "strict": false}}
	}
	return messages
}

// cloudAnswer is a chat completion or a chunk of one.
type cloudAnswer struct {
	Error   json.RawMessage `json:"error"`
	Model   string          `json:"model"`
	Choices []struct {
		Message      cloudText `json:"message"`
		Delta        cloudText `json:"delta"`
		FinishReason string    `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
}

type cloudText struct {
	Content          string `json:"content"`
	Refusal          string `json:"refusal"`
	Reasoning        string `json:"reasoning"`
	ReasoningContent string `json:"reasoning_content"`
	ToolCalls        []struct {
		Index    *int `json:"index"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

func (t cloudText) content() string  { return t.Content + t.Refusal }
func (t cloudText) thinking() string { return t.Reasoning + t.ReasoningContent }

// CloudError returns the text of an error body of an OpenAI-compatible server,
// "" if there is none.
func CloudError(body []byte) string {
	var a cloudAnswer
	if json.Unmarshal(body, &a) != nil || a.Error == nil || isNull(a.Error) {
		return ""
	}
	var e struct{ Message string }
	if json.Unmarshal(a.Error, &e) == nil && e.Message != "" {
		return e.Message
	}
	return errorText(a.Error)
}

// Cloud turns one answer of an OpenAI-compatible server into the native form. Not
// safe for concurrent use.
type Cloud struct {
	p        Replay
	start    time.Time
	first    time.Time // of the first text
	now      func() time.Time
	a        Answer
	calls    []ToolCall
	finish   string
	ended    bool
	anything bool
}

// NewCloud returns a translator that writes as p says; p.Now and the durations are
// its own affair. start is when the server was asked.
func NewCloud(p Replay, start time.Time, now func() time.Time) *Cloud {
	return &Cloud{p: p, start: start, now: now}
}

// Whole translates an answer that came in one piece. The error wraps ErrCloud.
func (c *Cloud) Whole(dst, body []byte) ([]byte, error) {
	var in cloudAnswer
	switch err := json.Unmarshal(body, &in); {
	case err != nil:
		return dst, fmt.Errorf("%w: not JSON", ErrCloud)
	case CloudError(body) != "":
		return dst, fmt.Errorf("%w: %s", ErrCloud, CloudError(body))
	case len(in.Choices) == 0 || in.Choices[0].FinishReason == "":
		return dst, fmt.Errorf("%w: no finished choice", ErrCloud)
	}
	choice := in.Choices[0]
	c.take(&in)
	c.finish = choice.FinishReason
	c.a.Content, c.a.Thinking = choice.Message.content(), choice.Message.thinking()
	c.addCalls(choice.Message)
	if err := c.complete(); err != nil {
		return dst, err
	}
	c.p.Now, c.p.Elapsed = c.now(), c.now().Sub(c.start)
	c.p.Eval = c.p.Elapsed
	return c.p.AppendObject(dst, &c.a), nil
}

// Event appends the native lines, if any, that the data of one server-sent event
// amounts to. The error wraps ErrCloud; nothing may follow it.
func (c *Cloud) Event(dst, data []byte) ([]byte, error) {
	if c.ended {
		return dst, nil
	}
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		return c.Close(dst)
	}
	var in cloudAnswer
	if err := json.Unmarshal(data, &in); err != nil {
		return dst, fmt.Errorf("%w: an event is not JSON", ErrCloud)
	}
	if text := CloudError(data); text != "" {
		return dst, fmt.Errorf("%w: %s", ErrCloud, text)
	}
	c.take(&in)
	if len(in.Choices) == 0 {
		return dst, nil
	}
	choice := in.Choices[0]
	c.addCalls(choice.Delta)
	c.p.Now = c.now()
	if text, thought := choice.Delta.content(), choice.Delta.thinking(); text != "" || thought != "" {
		if !c.anything {
			c.anything, c.first = true, c.p.Now
		}
		if thought != "" {
			dst = c.p.AppendChunk(dst, "", thought, nil, nil)
		}
		if text != "" {
			dst = c.p.AppendChunk(dst, text, "", nil, nil)
		}
	}
	if choice.FinishReason != "" {
		c.finish = choice.FinishReason
	}
	return dst, nil
}

// Close appends the native final line; it is called at the end of the stream. A
// stream that ends before its finish reason is ErrCloud.
func (c *Cloud) Close(dst []byte) ([]byte, error) {
	if c.ended {
		return dst, nil
	}
	if c.finish == "" {
		return dst, fmt.Errorf("%w: the stream ended before the answer was complete", ErrCloud)
	}
	if err := c.complete(); err != nil {
		return dst, err
	}
	c.ended = true
	c.p.Now = c.now()
	if len(c.a.ToolCalls) > 0 {
		dst = c.p.AppendChunk(dst, "", "", c.a.ToolCalls, nil) // clients expect whole calls
	}
	c.p.Elapsed, c.p.Eval = c.p.Now.Sub(c.start), c.p.Now.Sub(c.start)
	if c.anything {
		c.p.PromptEval, c.p.Eval = c.first.Sub(c.start), c.p.Now.Sub(c.first)
	}
	return c.p.AppendFinal(dst, &c.a), nil
}

// Censored reports whether the server cut the answer for its content: it may be
// shown, not kept.
func (c *Cloud) Censored() bool { return c.finish == "content_filter" }

// take reads what comes beside the choices.
func (c *Cloud) take(in *cloudAnswer) {
	if in.Usage != nil {
		c.a.InputTokens, c.a.OutputTokens = max(in.Usage.Prompt, 0), max(in.Usage.Completion, 0)
	}
}

// addCalls collects the pieces of tool calls by index.
func (c *Cloud) addCalls(t cloudText) {
	for i, part := range t.ToolCalls {
		if part.Index != nil {
			i = *part.Index
		}
		j := slices.IndexFunc(c.calls, func(k ToolCall) bool { return k.Index == i })
		if j < 0 {
			c.calls = append(c.calls, ToolCall{Index: i})
			j = len(c.calls) - 1
		}
		c.calls[j].Name += part.Function.Name
		c.calls[j].Arguments = append(c.calls[j].Arguments, part.Function.Arguments...)
	}
}

// complete checks the tool calls and sets the reason of the end.
func (c *Cloud) complete() error {
	c.a.ToolCalls = c.calls
	for i, call := range c.calls {
		if strings.TrimSpace(string(call.Arguments)) == "" {
			call.Arguments = json.RawMessage("{}")
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(call.Arguments, &object) != nil || call.Name == "" {
			return fmt.Errorf("%w: a tool call's arguments are not a JSON object", ErrCloud)
		}
		c.calls[i].Arguments = compact(call.Arguments)
	}
	if c.a.DoneReason = "stop"; c.finish == "length" {
		c.a.DoneReason = "length"
	}
	return nil
}
