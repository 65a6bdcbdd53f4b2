package wire

import (
	"crypto/rand"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxLineText bounds the text of one replayed line: some clients read lines into
// small buffers.
const maxLineText = 4 << 10

// Replay renders a stored answer for one client of a native route.
type Replay struct {
	Op      Op
	Model   string        // the client's own spelling
	Now     time.Time     // becomes created_at
	Elapsed time.Duration // becomes total_duration, at least 1 ns

	// Load, PromptEval and Eval become the durations of their names, at
	// least 1 ns; a stored answer takes no time to evaluate.
	Load, PromptEval, Eval time.Duration
	// RemoteModel and RemoteHost name another server's model that answered
	// in the local one's place; "" if none did.
	RemoteModel, RemoteHost string
}

// AppendObject appends the answer as the one object of a stream:false reply,
// without a newline.
func (p Replay) AppendObject(dst []byte, a *Answer) []byte {
	dst = p.appendHead(dst)
	if p.Op == OpChat {
		dst = p.appendMessage(dst, a.Content, a.Thinking, a.ToolCalls)
	} else {
		dst = p.appendResponse(dst, a.Content, a.Thinking)
	}
	dst = append(dst, `,"done":true`...)
	dst = p.appendEnd(dst, a)
	if p.Op == OpChat {
		return append(p.appendCounters(appendLogprobs(dst, a), a), '}')
	}
	dst = appendToolCalls(p.appendCounters(dst, a), a.ToolCalls)
	return append(appendLogprobs(dst, a), '}')
}

// Lines calls yield with each line of a streamed reply, its newline included:
// thinking, content, tool calls, and the final object last. yield must not keep
// the slice. Lines stops at the first error and returns it.
func (p Replay) Lines(a *Answer, yield func(line []byte) error) error {
	var buf []byte
	emit := func(content, thinking string, calls []ToolCall, withLogprobs bool) error {
		var logprobs json.RawMessage
		if withLogprobs {
			logprobs = a.Logprobs
		}
		buf = p.AppendChunk(buf[:0], content, thinking, calls, logprobs)
		return yield(buf)
	}
	for text := range pieces(a.Thinking) {
		if err := emit("", text, nil, false); err != nil {
			return err
		}
	}
	first := true
	for text := range pieces(a.Content) {
		if err := emit(text, "", nil, first); err != nil {
			return err
		}
		first = false
	}
	if len(a.ToolCalls) > 0 {
		if err := emit("", "", a.ToolCalls, first); err != nil {
			return err
		}
	}
	return yield(p.AppendFinal(buf[:0], a))
}

// AppendChunk appends one line of a streamed answer that is not its last, with its
// newline. logprobs is a JSON array or nil.
func (p Replay) AppendChunk(dst []byte, content, thinking string, calls []ToolCall, logprobs json.RawMessage) []byte {
	dst = p.appendHead(dst)
	if p.Op == OpChat {
		dst = p.appendMessage(dst, content, thinking, calls)
	} else {
		dst = p.appendResponse(dst, content, thinking)
	}
	dst = append(dst, `,"done":false`...)
	if p.Op == OpGenerate {
		dst = appendToolCalls(dst, calls)
	}
	if len(logprobs) > 0 {
		dst = append(append(dst, `,"logprobs":`...), logprobs...)
	}
	return append(dst, "}\n"...)
}

// AppendFinal appends the last line of a streamed answer, with its newline: the end
// and the counters of a, no text.
func (p Replay) AppendFinal(dst []byte, a *Answer) []byte {
	dst = p.appendHead(dst)
	if p.Op == OpChat {
		dst = p.appendMessage(dst, "", "", nil)
	} else {
		dst = p.appendResponse(dst, "", "")
	}
	dst = append(dst, `,"done":true`...)
	dst = p.appendCounters(p.appendEnd(dst, a), a)
	return append(dst, "}\n"...)
}

// pieces yields s in parts of at most maxLineText bytes that end between runes.
func pieces(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for len(s) > 0 {
			n := len(s)
			if n > maxLineText {
				n = maxLineText
				for n > maxLineText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
					n--
				}
			}
			if !yield(s[:n]) {
				return
			}
			s = s[n:]
		}
	}
}

func (p Replay) appendHead(dst []byte) []byte {
	dst = append(dst, `{"model":`...)
	dst = appendString(dst, p.Model)
	if p.RemoteHost != "" {
		dst = appendString(append(dst, `,"remote_model":`...), p.RemoteModel)
		dst = appendString(append(dst, `,"remote_host":`...), p.RemoteHost)
	}
	dst = append(dst, `,"created_at":"`...)
	dst = p.Now.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

func (p Replay) appendMessage(dst []byte, content, thinking string, calls []ToolCall) []byte {
	dst = append(dst, `,"message":{"role":"assistant","content":`...)
	dst = appendString(dst, content)
	if thinking != "" {
		dst = append(dst, `,"thinking":`...)
		dst = appendString(dst, thinking)
	}
	return append(appendToolCalls(dst, calls), '}')
}

func (p Replay) appendResponse(dst []byte, content, thinking string) []byte {
	dst = append(dst, `,"response":`...)
	dst = appendString(dst, content)
	if thinking != "" {
		dst = append(dst, `,"thinking":`...)
		dst = appendString(dst, thinking)
	}
	return dst
}

func appendToolCalls(dst []byte, calls []ToolCall) []byte {
	if len(calls) == 0 {
		return dst
	}
	dst = append(dst, `,"tool_calls":[`...)
	for i, c := range calls {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":"`...)
		dst = append(dst, newToolCallID()...)
		dst = append(dst, `","function":{"index":`...)
		dst = strconv.AppendInt(dst, int64(c.Index), 10)
		dst = append(dst, `,"name":`...)
		dst = appendString(dst, c.Name)
		dst = append(dst, `,"arguments":`...)
		if len(c.Arguments) == 0 {
			dst = append(dst, "{}"...)
		}
		dst = append(dst, c.Arguments...)
		dst = append(dst, "}}"...)
	}
	return append(dst, ']')
}

// newToolCallID makes an ID like Ollama's: ids that repeat within a conversation
// break clients that look calls up by them.
func newToolCallID() string {
	return "call_" + strings.ToLower(rand.Text()[:8])
}

// appendEnd writes what only the final object has, up to the counters.
func (p Replay) appendEnd(dst []byte, a *Answer) []byte {
	dst = append(dst, `,"done_reason":`...)
	dst = appendString(dst, a.DoneReason)
	if p.Op == OpGenerate && len(a.Context) > 0 {
		dst = append(dst, `,"context":`...)
		dst = appendInts(dst, a.Context)
	}
	return dst
}

func appendLogprobs(dst []byte, a *Answer) []byte {
	if len(a.Logprobs) == 0 {
		return dst
	}
	dst = append(dst, `,"logprobs":`...)
	return append(dst, a.Logprobs...)
}

// appendCounters writes the original token counts and the durations of this
// reply, which are never left out: clients divide by them.
func (p Replay) appendCounters(dst []byte, a *Answer) []byte {
	field := func(name string, n int64) {
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = strconv.AppendInt(dst, n, 10)
	}
	field("total_duration", max(int64(p.Elapsed), 1))
	field("load_duration", max(int64(p.Load), 1))
	if a.InputTokens > 0 {
		field("prompt_eval_count", int64(a.InputTokens))
	}
	field("prompt_eval_duration", max(int64(p.PromptEval), 1))
	if a.OutputTokens > 0 {
		field("eval_count", int64(a.OutputTokens))
	}
	field("eval_duration", max(int64(p.Eval), 1))
	return dst
}
