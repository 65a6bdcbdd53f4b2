package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Op names what a request asks for. It is part of every key.
type Op string

// The operations that can be cached.
const (
	OpChat     Op = "chat"     // POST /api/chat
	OpGenerate Op = "generate" // POST /api/generate
)

// ErrMalformed: the body is not a request that Ollama would decode. The caller
// passes it through untouched, so that Ollama itself words the error.
var ErrMalformed = errors.New("wire: malformed request")

// maxSemanticPrompt bounds the text that is looked up by meaning. Embedding
// models cut longer texts off, and prompts that differ after the cut would then
// look the same.
const maxSemanticPrompt = 8 << 10

// Request is a decoded native inference request. It is immutable after
// DecodeRequest and safe for concurrent use.
type Request struct {
	Op     Op
	Model  string // as the client spelled it; echoed in answers
	Folded string // FoldModel(Model)
	Stream bool   // Ollama's default (true) applied
	Turns  int    // messages of a chat; 1 for a generate

	// Bypass says why the request may be neither looked up nor stored
	// ("load", "unload", "tool-result", ...); "" if it may.
	Bypass string
	// ExactOnly says why semantic lookup is not allowed ("images",
	// "tools", ...); "" if it is.
	ExactOnly string

	// Canonical is the key material: the canonical JSON of everything that
	// can change the answer, unknown fields included, the model folded;
	// without stream, keep_alive and settings that only change speed.
	Canonical []byte
	// Scope is Canonical with the last user text taken out; nil if
	// ExactOnly is set. Requests with equal Scope differ only in Prompt.
	Scope []byte
	// Prompt is the text taken out of Canonical to make Scope.
	Prompt string

	forward []byte
}

// DecodeRequest decodes the body of a native request as Ollama does: keys
// match case-insensitively, the last duplicate wins, null means absent, and
// bytes after the first JSON value are ignored. The error wraps ErrMalformed.
func DecodeRequest(op Op, body []byte) (*Request, error) {
	fields, err := foldObject(body)
	if err != nil {
		return nil, err
	}
	d := decoded{op: op}
	if err := d.read(fields); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	r := &Request{
		Op: op, Model: d.model, Folded: FoldModel(d.model),
		Stream: d.stream == nil || *d.stream, Turns: 1,
	}
	if op == OpChat {
		r.Turns = len(d.messages)
	}
	r.Bypass = d.bypass()
	r.Prompt, r.ExactOnly = d.prompt()
	r.Canonical = d.append(nil, writeKey)
	if r.ExactOnly == "" {
		r.Scope = d.append(nil, writeScope)
	}
	r.forward = d.append(nil, writeForward)
	return r, nil
}

// Body returns the body to send upstream: the decoded request written out
// again, so that what was keyed is what is asked. The caller must not change it.
func (r *Request) Body() []byte { return r.forward }

// FoldModel returns the form of a model name under which Ollama finds it:
// lower case, with default host and namespace removed and ":latest" added when
// there is no tag.
func FoldModel(name string) string {
	name = strings.ToLower(name)
	if _, after, ok := strings.Cut(name, "://"); ok {
		name = after
	}
	name = strings.TrimPrefix(name, "registry.ollama.ai/")
	if rest, ok := strings.CutPrefix(name, "library/"); ok && !strings.Contains(rest, "/") {
		name = rest
	}
	if last := name[strings.LastIndex(name, "/")+1:]; name != "" && !strings.Contains(last, ":") {
		name += ":latest"
	}
	return name
}

// decoded is a request in Ollama's terms.
type decoded struct {
	op        Op
	model     string
	stream    *bool
	keepAlive json.RawMessage // as given
	unload    bool            // keep_alive is zero

	messages []message // chat
	text     string    // generate: prompt
	images   [][]byte  // generate

	system, suffix, template string
	raw, logprobs, debug     bool
	topLogprobs              int
	context                  []int
	truncate, shift          *bool
	think, format, tools     json.RawMessage // compact; nil if absent
	toolTypes                []string
	options                  map[string]json.RawMessage // normalised
	unknown                  map[string]json.RawMessage // compact
}

// message is one turn of a chat.
type message struct {
	role, content, thinking string
	images                  [][]byte
	toolCalls               json.RawMessage // compact; nil if absent
	toolName, toolCallID    string
	unknown                 map[string]json.RawMessage
}

// read takes the known fields of op; all others become unknown.
func (d *decoded) read(fields map[string]json.RawMessage) error {
	into := map[string]any{
		"model": &d.model, "stream": &d.stream, "system": &d.system, "truncate": &d.truncate,
		"shift": &d.shift, "logprobs": &d.logprobs, "top_logprobs": &d.topLogprobs,
		"_debug_render_only": &d.debug,
	}
	if d.op == OpGenerate {
		into["prompt"], into["suffix"], into["template"] = &d.text, &d.suffix, &d.template
		into["raw"], into["context"], into["images"] = &d.raw, &d.context, &d.images
	} else {
		delete(into, "system") // not a field of a chat
	}
	for name, raw := range fields {
		if isNull(raw) {
			continue
		}
		if err := d.readField(name, raw, into[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (d *decoded) readField(name string, raw json.RawMessage, into any) (err error) {
	if into != nil {
		return json.Unmarshal(raw, into)
	}
	switch {
	case name == "keep_alive":
		d.keepAlive = compact(raw)
		d.unload, err = isZeroDuration(raw)
	case name == "format":
		if string(raw) != `""` {
			d.format = compact(raw)
		}
	case name == "think":
		d.think = compact(raw)
	case name == "options":
		d.options, err = readOptions(raw)
	case name == "messages" && d.op == OpChat:
		d.messages, err = readMessages(raw)
	case name == "tools" && d.op == OpChat:
		d.tools, d.toolTypes, err = readTools(raw)
	default:
		if d.unknown == nil {
			d.unknown = make(map[string]json.RawMessage)
		}
		d.unknown[name] = compact(raw)
	}
	return err
}

func readMessages(raw json.RawMessage) ([]message, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, err
	}
	out := make([]message, 0, len(items))
	for _, item := range items {
		m, err := readMessage(item)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func readMessage(raw json.RawMessage) (m message, err error) {
	if isNull(raw) {
		return m, nil // encoding/json leaves the zero value
	}
	fields, err := foldObject(raw)
	if err != nil {
		return m, err
	}
	into := map[string]any{
		"role": &m.role, "content": &m.content, "thinking": &m.thinking, "images": &m.images,
		"tool_name": &m.toolName, "tool_call_id": &m.toolCallID,
	}
	for name, raw := range fields {
		if isNull(raw) {
			continue
		}
		switch p := into[name]; {
		case p != nil:
			if err := json.Unmarshal(raw, p); err != nil {
				return m, fmt.Errorf("%s: %w", name, err)
			}
		case name == "tool_calls":
			var calls []json.RawMessage
			if err := json.Unmarshal(raw, &calls); err != nil {
				return m, fmt.Errorf("tool_calls: %w", err)
			}
			if len(calls) > 0 {
				m.toolCalls = compact(raw)
			}
		default:
			if m.unknown == nil {
				m.unknown = make(map[string]json.RawMessage)
			}
			m.unknown[name] = compact(raw)
		}
	}
	m.role = strings.ToLower(m.role)
	return m, nil
}

// readTools returns the tools in compact form, nil if there are none, and their types.
func readTools(raw json.RawMessage) (json.RawMessage, []string, error) {
	var tools []struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &tools); err != nil {
		return nil, nil, err
	}
	if len(tools) == 0 {
		return nil, nil, nil
	}
	types := make([]string, len(tools))
	for i, t := range tools {
		types[i] = t.Type
	}
	return compact(raw), types, nil
}

// isZeroDuration reads a keep_alive as Ollama does: a number of seconds or a Go
// duration.
func isZeroDuration(raw json.RawMessage) (bool, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return false, err
	}
	switch v := v.(type) {
	case float64:
		return time.Duration(v*float64(time.Second)) == 0, nil
	case string:
		d, err := time.ParseDuration(v)
		return d == 0, err
	}
	return false, errors.New("neither a number nor a duration")
}

// bypass returns why the request may not be cached at all.
func (d *decoded) bypass() string {
	empty := len(d.messages) == 0
	if d.op == OpGenerate {
		empty = d.text == ""
	}
	switch {
	case d.model == "":
		return "model"
	case d.debug:
		return "debug"
	case empty && d.unload:
		return "unload"
	case empty:
		return "load"
	case d.unload:
		return "keep-alive-0"
	case len(d.context) > 0:
		return "context"
	case d.op == OpChat && d.messages[len(d.messages)-1].role == "tool":
		return "tool-result"
	}
	for _, t := range d.toolTypes {
		if strings.HasPrefix(t, "web_search") {
			return "web-search"
		}
	}
	return d.bypassUnknown()
}

// bypassUnknown looks at fields that Ollama ignores but other servers honour.
func (d *decoded) bypassUnknown() string {
	for name, raw := range d.unknown {
		switch {
		case name == "n" && string(raw) != "1":
			return "n"
		case name == "logit_bias" && string(raw) != "{}":
			return "logit-bias"
		case (name == "store" || name == "background") && string(raw) != "false",
			name == "previous_response_id", name == "conversation":
			return "store"
		}
	}
	return ""
}

// prompt returns the last user text, and why it may not be looked up by meaning.
func (d *decoded) prompt() (text, exactOnly string) {
	text = d.text
	images := len(d.images) > 0
	if d.op == OpChat {
		if len(d.messages) == 0 {
			return "", "no-user-text"
		}
		last := d.messages[len(d.messages)-1]
		switch {
		case last.role == "assistant":
			return "", "assistant-prefill"
		case last.role != "user":
			return "", "no-user-text"
		}
		text = last.content
		for _, m := range d.messages {
			images = images || len(m.images) > 0
		}
	}
	switch {
	case images:
		exactOnly = "images"
	case d.tools != nil:
		exactOnly = "tools"
	case d.logprobs || d.topLogprobs != 0:
		exactOnly = "logprobs"
	case d.suffix != "":
		exactOnly = "suffix"
	case d.raw:
		exactOnly = "raw"
	case d.template != "":
		exactOnly = "template"
	case strings.TrimSpace(text) == "":
		exactOnly = "no-user-text"
	case len(text) > maxSemanticPrompt:
		exactOnly = "too-long"
	}
	return text, exactOnly
}
