package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ErrUntranslatable: an OpenAI request asks for something that cannot be put
// into a native request without loss. The caller passes it through untouched.
var ErrUntranslatable = errors.New("wire: request cannot be translated")

// OpenAIRequest is a decoded POST /v1/chat/completions.
type OpenAIRequest struct {
	// Native is the chat request that means the same: it is keyed and asked
	// in its place, so that both routes share their entries.
	Native       *Request
	IncludeUsage bool // stream_options.include_usage
}

// openAIDefaults are the settings that Ollama's own /v1 layer forces when the
// caller names none; the native route would leave them to the model.
const openAIDefaultTemperature, openAIDefaultTopP = 1.0, 1.0

// openAIMoved are the fields of a chat completion that have a native form, or
// that only say how the answer is to be written.
var openAIMoved = []string{
	"model", "messages", "stream", "stream_options", "max_tokens", "seed", "stop", "temperature",
	"frequency_penalty", "presence_penalty", "top_p", "response_format", "tools", "reasoning",
	"reasoning_effort", "user", "metadata",
}

// DecodeOpenAI decodes the body of a chat completion and translates it as
// Ollama's compatibility layer does. Fields that Ollama does not know are kept in
// the native request, and so in its key. Errors wrap ErrMalformed (the body is
// not one that Ollama would decode) or ErrUntranslatable.
func DecodeOpenAI(body []byte) (*OpenAIRequest, error) {
	fields, err := foldObject(body)
	if err != nil {
		return nil, err
	}
	native := make(map[string]any)
	for name, raw := range fields {
		if !slices.Contains(openAIMoved, name) {
			native[name] = raw
		}
	}
	var req openAIBody
	if err := req.decode(fields); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := req.translate(fields, native); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(native)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r, err := DecodeRequest(OpChat, raw)
	if err != nil {
		return nil, err
	}
	return &OpenAIRequest{Native: r, IncludeUsage: req.StreamOptions.IncludeUsage}, nil
}

// openAIBody has the fields of a chat completion that are translated.
type openAIBody struct {
	Model            string
	Stream           bool
	StreamOptions    struct{ IncludeUsage bool }
	Messages         []map[string]json.RawMessage
	MaxTokens        *int
	Seed             *int
	Stop             any
	Temperature      *float64
	FrequencyPenalty *float64
	PresencePenalty  *float64
	TopP             *float64
	ResponseFormat   *struct {
		Type       string
		JSONSchema *struct{ Schema json.RawMessage }
	}
	Reasoning       *struct{ Effort string }
	ReasoningEffort *string
}

func (b *openAIBody) decode(fields map[string]json.RawMessage) error {
	var options struct {
		IncludeUsage bool `json:"include_usage"`
	}
	var format *struct {
		Type       string `json:"type"`
		JSONSchema *struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	for name, into := range map[string]any{
		"model": &b.Model, "stream": &b.Stream, "stream_options": &options, "messages": &b.Messages,
		"max_tokens": &b.MaxTokens, "seed": &b.Seed, "stop": &b.Stop, "temperature": &b.Temperature,
		"frequency_penalty": &b.FrequencyPenalty, "presence_penalty": &b.PresencePenalty, "top_p": &b.TopP,
		"response_format": &format, "reasoning": &b.Reasoning, "reasoning_effort": &b.ReasoningEffort,
	} {
		if raw, ok := fields[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	b.StreamOptions.IncludeUsage = options.IncludeUsage
	if format != nil {
		b.ResponseFormat = &struct {
			Type       string
			JSONSchema *struct{ Schema json.RawMessage }
		}{Type: format.Type}
		if format.JSONSchema != nil {
			b.ResponseFormat.JSONSchema = &struct{ Schema json.RawMessage }{format.JSONSchema.Schema}
		}
	}
	return nil
}

// translate fills the native request.
func (b *openAIBody) translate(fields map[string]json.RawMessage, native map[string]any) error {
	messages, err := b.messages()
	if err != nil {
		return err
	}
	// Lossy or unproven: logprobs are written differently, and settings of
	// the native protocol are unknown to Ollama's /v1 layer, which ignores
	// what the native route would honour.
	for _, name := range []string{"logprobs", "top_logprobs", "options", "format", "think", "keep_alive", "truncate", "shift", "template", "raw", "_debug_render_only"} {
		if _, ok := fields[name]; ok && !isFalse(fields[name]) {
			return fmt.Errorf("%w: %s", ErrUntranslatable, name)
		}
		delete(native, name)
	}
	native["model"], native["stream"], native["messages"] = b.Model, b.Stream, messages
	if tools, ok := fields["tools"]; ok {
		native["tools"] = tools
	}
	if native["options"], err = b.options(); err != nil {
		return err
	}
	if err := b.format(native); err != nil {
		return err
	}
	return b.think(native)
}

func isFalse(raw json.RawMessage) bool { s := string(raw); return s == "false" || s == "null" }

func (b *openAIBody) options() (map[string]any, error) {
	o := map[string]any{"temperature": openAIDefaultTemperature, "top_p": openAIDefaultTopP}
	set := func(name string, v *float64) {
		if v != nil {
			o[name] = *v
		}
	}
	set("temperature", b.Temperature)
	set("top_p", b.TopP)
	set("frequency_penalty", b.FrequencyPenalty)
	set("presence_penalty", b.PresencePenalty)
	if b.Seed != nil {
		o["seed"] = *b.Seed
	}
	if b.MaxTokens != nil {
		o["num_predict"] = *b.MaxTokens
	}
	switch stop := b.Stop.(type) {
	case nil:
	case string:
		o["stop"] = []string{stop}
	case []any:
		for _, s := range stop {
			if _, ok := s.(string); !ok {
				return nil, fmt.Errorf("%w: stop is not a list of strings", ErrMalformed)
			}
		}
		o["stop"] = stop
	default:
		return nil, fmt.Errorf("%w: stop", ErrMalformed)
	}
	return o, nil
}

func (b *openAIBody) format(native map[string]any) error {
	switch f := b.ResponseFormat; {
	case f == nil, f.Type == "text":
	case f.Type == "json_object":
		native["format"] = "json"
	case f.Type == "json_schema" && f.JSONSchema != nil && len(f.JSONSchema.Schema) > 0:
		native["format"] = f.JSONSchema.Schema
	default:
		return fmt.Errorf("%w: response_format %q", ErrUntranslatable, f.Type)
	}
	return nil
}

func (b *openAIBody) think(native map[string]any) error {
	effort := ""
	if b.ReasoningEffort != nil {
		effort = *b.ReasoningEffort
	}
	if b.Reasoning != nil {
		effort = b.Reasoning.Effort
	}
	switch effort {
	case "":
	case "none":
		native["think"] = false
	case "low", "medium", "high":
		native["think"] = effort
	default:
		return fmt.Errorf("%w: reasoning effort %q", ErrUntranslatable, effort)
	}
	return nil
}

// messages translates the conversation. Parts of one message become messages of
// their own, as in Ollama's layer. Tool calls and their results are left to it.
func (b *openAIBody) messages() ([]map[string]any, error) {
	if len(b.Messages) == 0 {
		// An error on /v1, but a request to load the model on the native route.
		return nil, fmt.Errorf("%w: no messages", ErrUntranslatable)
	}
	var out []map[string]any
	for _, m := range b.Messages {
		m, err := foldKeys(m)
		if err != nil {
			return nil, err
		}
		var role string
		if err := unmarshalField(m, "role", &role); err != nil {
			return nil, err
		}
		for name := range m {
			if name != "role" && name != "content" && !isFalse(m[name]) {
				return nil, fmt.Errorf("%w: messages have %s", ErrUntranslatable, name)
			}
		}
		parts, err := contentParts(m["content"])
		if err != nil {
			return nil, err
		}
		for _, text := range parts {
			out = append(out, map[string]any{"role": role, "content": text})
		}
	}
	return out, nil
}

// contentParts returns the texts of a message's content.
func contentParts(raw json.RawMessage) ([]string, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil && len(raw) > 0 && raw[0] == '"' {
		return []string{text}, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("%w: content is neither text nor a list of texts", ErrUntranslatable)
	}
	var texts []string
	for _, p := range parts {
		if p.Type != "text" || p.Text == nil {
			return nil, fmt.Errorf("%w: content of type %q", ErrUntranslatable, p.Type)
		}
		texts = append(texts, *p.Text)
	}
	return texts, nil
}

func unmarshalField(m map[string]json.RawMessage, name string, into any) error {
	raw, ok := m[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return nil
}

// foldKeys lower-cases the names of m. Two names that differ only in case are
// refused: their order is lost.
func foldKeys(m map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	out := make(map[string]json.RawMessage, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		low := foldName(name)
		if _, twice := out[low]; twice {
			return nil, fmt.Errorf("%w: %q is there twice", ErrUntranslatable, low)
		}
		out[low] = m[name]
	}
	return out, nil
}

// OpenAIReplay renders answers for one caller of /v1/chat/completions.
type OpenAIReplay struct {
	ID           string // "chatcmpl-" and a number, new for each answer
	Model        string // the client's own spelling
	Now          time.Time
	IncludeUsage bool // of a stream: end with the token counts
}

type openAIUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

type openAIMessage struct {
	Role      string           `json:"role,omitempty"`
	Content   *string          `json:"content,omitempty"`
	Reasoning string           `json:"reasoning,omitempty"`
	ToolCalls []openAIToolCall `json:"tool_calls,omitempty"`
}

type openAIToolCall struct {
	ID       string `json:"id"`
	Index    int    `json:"index"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type openAIChoice struct {
	Index        int            `json:"index"`
	Message      *openAIMessage `json:"message,omitempty"`
	Delta        *openAIMessage `json:"delta,omitempty"`
	FinishReason *string        `json:"finish_reason"`
}

type openAIObject struct {
	ID          string         `json:"id"`
	Object      string         `json:"object"`
	Created     int64          `json:"created"`
	Model       string         `json:"model"`
	Fingerprint string         `json:"system_fingerprint"`
	Choices     []openAIChoice `json:"choices"`
	Usage       *openAIUsage   `json:"usage,omitempty"`
}

func (p OpenAIReplay) object(kind string, choices ...openAIChoice) openAIObject {
	if choices == nil {
		choices = []openAIChoice{}
	}
	return openAIObject{
		ID: p.ID, Object: kind, Created: p.Now.Unix(), Model: p.Model,
		Fingerprint: "fp_ollama", Choices: choices,
	}
}

// AppendObject appends the answer as one chat.completion object with its newline.
func (p OpenAIReplay) AppendObject(dst []byte, a *Answer) []byte {
	reason := finishReason(a.DoneReason, len(a.ToolCalls) > 0)
	msg := &openAIMessage{Role: "assistant", Content: &a.Content, Reasoning: a.Thinking, ToolCalls: openAIToolCalls(a.ToolCalls)}
	o := p.object("chat.completion", openAIChoice{Message: msg, FinishReason: &reason})
	o.Usage = usageOf(a.InputTokens, a.OutputTokens)
	return append(appendJSON(dst, o), '\n')
}

func usageOf(in, out int) *openAIUsage { return &openAIUsage{in, out, in + out} }

func finishReason(done string, tools bool) string {
	if tools && done == "stop" {
		return "tool_calls"
	}
	return done
}

func openAIToolCalls(calls []ToolCall) []openAIToolCall {
	var out []openAIToolCall
	for _, c := range calls {
		t := openAIToolCall{ID: newToolCallID(), Index: c.Index, Type: "function"}
		t.Function.Name, t.Function.Arguments = c.Name, string(c.Arguments)
		out = append(out, t)
	}
	return out
}

func appendJSON(dst []byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("wire: " + err.Error()) // only strings, numbers and valid raw JSON
	}
	return append(dst, b...)
}

// OpenAIStream turns the lines of a native chat stream into server-sent events,
// one call for each line. Unlike Ollama's own layer it reports errors that come
// in mid-stream and streams that end early, in the form that SDKs raise.
type OpenAIStream struct {
	p       OpenAIReplay
	started bool
	tools   bool
	done    bool
	failed  bool
}

// NewOpenAIStream returns a stream that writes as p says.
func NewOpenAIStream(p OpenAIReplay) *OpenAIStream { return &OpenAIStream{p: p} }

// nativeChunk is what the events need of a native line.
type nativeChunk struct {
	Error   string `json:"error"`
	Message struct {
		Content   string `json:"content"`
		Thinking  string `json:"thinking"`
		ToolCalls []struct {
			ID       string `json:"id"`
			Function struct {
				Index     int             `json:"index"`
				Name      string          `json:"name"`
				Arguments json.RawMessage `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
	} `json:"message"`
	Done       bool   `json:"done"`
	DoneReason string `json:"done_reason"`
	Input      int    `json:"prompt_eval_count"`
	Output     int    `json:"eval_count"`
}

// Append appends the events of one native line to dst.
func (s *OpenAIStream) Append(dst, line []byte) []byte {
	if s.done || s.failed {
		return dst
	}
	var c nativeChunk
	if err := json.Unmarshal(line, &c); err != nil {
		return s.fail(dst, "the upstream sent a line that is not JSON")
	}
	if c.Error != "" {
		return s.fail(dst, c.Error)
	}
	if c.Message.Thinking != "" {
		dst = s.delta(dst, openAIMessage{Reasoning: c.Message.Thinking})
	}
	if c.Message.Content != "" {
		dst = s.delta(dst, openAIMessage{Content: &c.Message.Content})
	}
	if calls := c.Message.ToolCalls; len(calls) > 0 {
		empty := ""
		m := openAIMessage{Content: &empty}
		for _, call := range calls {
			m.ToolCalls = append(m.ToolCalls, openAIToolCalls([]ToolCall{{
				Index: call.Function.Index, Name: call.Function.Name, Arguments: compact(call.Function.Arguments)}})...)
		}
		s.tools = true
		dst = s.delta(dst, m)
	}
	if c.Done {
		dst = s.finish(dst, c)
	}
	return dst
}

// delta appends one chunk event; the first names the role.
func (s *OpenAIStream) delta(dst []byte, m openAIMessage) []byte {
	if !s.started {
		m.Role, s.started = "assistant", true
		if m.Content == nil {
			m.Content = new(string)
		}
	}
	return s.event(dst, s.p.object("chat.completion.chunk", openAIChoice{Delta: &m}))
}

// finish appends the finish reason, the usage if asked for, and [DONE]. An
// answer whose end Ollama does not explain is an error: it has been cut short.
func (s *OpenAIStream) finish(dst []byte, c nativeChunk) []byte {
	if c.DoneReason == "" {
		return s.fail(dst, "the model's answer was cut short")
	}
	reason := finishReason(c.DoneReason, s.tools)
	s.done = true
	dst = s.event(dst, s.p.object("chat.completion.chunk", openAIChoice{Delta: &openAIMessage{}, FinishReason: &reason}))
	if s.p.IncludeUsage {
		o := s.p.object("chat.completion.chunk")
		o.Usage = usageOf(c.Input, c.Output)
		dst = s.event(dst, o)
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// Close appends what the end of the native stream still calls for: nothing after
// a complete answer, else an error event.
func (s *OpenAIStream) Close(dst []byte) []byte {
	if s.done || s.failed {
		return dst
	}
	return s.fail(dst, "the upstream ended the stream before the answer was complete")
}

func (s *OpenAIStream) fail(dst []byte, message string) []byte {
	s.failed = true
	return append(dst, ErrorLine(OpenAI, message)...)
}

func (s *OpenAIStream) event(dst []byte, o openAIObject) []byte {
	dst = append(dst, "data: "...)
	return append(appendJSON(dst, o), "\n\n"...)
}
