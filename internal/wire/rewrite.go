package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// TextFilter changes a text that comes in pieces. It may hold pieces back; Close
// returns what it still has and begins a new text. After an error nothing more of
// the text may be shown.
type TextFilter interface {
	Write(text string) (string, error)
	Close() (string, error)
}

// Rewriter passes the lines of a native answer through filters. What tells the
// filtered text in another form (logprobs, context) is dropped. Not safe for
// concurrent use.
type Rewriter struct {
	op                         Op
	content, thinking, toolArg TextFilter
	last                       Replay // of the line before, for what comes between lines
}

// NewRewriter returns a rewriter of answers to op with a filter for each kind of
// text: the answer, the reasoning, and tool calls' arguments.
func NewRewriter(op Op, content, thinking, toolArgs TextFilter) *Rewriter {
	return &Rewriter{op: op, content: content, thinking: thinking, toolArg: toolArgs}
}

// Line returns the lines, each with its newline, that take the place of one: none
// while a filter holds everything back, several at the end. Lines that are not
// answers (errors) pass as they are. Errors are the filters' own.
func (w *Rewriter) Line(raw []byte) ([][]byte, error) {
	var l line
	if json.Unmarshal(raw, &l) != nil || l.Error != nil {
		return [][]byte{append(append([]byte(nil), raw...), '\n')}, nil
	}
	content, thinking, calls := l.Response, l.Thinking, l.ToolCalls
	if w.op == OpChat {
		content, thinking, calls = "", "", nil
		if l.Message != nil {
			content, thinking, calls = l.Message.Content, l.Message.Thinking, l.Message.ToolCalls
		}
	}
	w.last = l.replay(w.op)
	var out [][]byte
	thought, err := w.thinking.Write(thinking)
	if err != nil {
		return nil, err
	}
	if content != "" || len(calls) > 0 || l.Done { // the thinking is over
		rest, err := w.thinking.Close()
		if err != nil {
			return nil, err
		}
		thought += rest
	}
	text, err := w.content.Write(content)
	if err != nil {
		return nil, err
	}
	if len(calls) > 0 || l.Done {
		rest, err := w.content.Close()
		if err != nil {
			return nil, err
		}
		text += rest
	}
	if thought != "" {
		out = append(out, w.last.AppendChunk(nil, "", thought, nil, nil))
	}
	if text != "" {
		out = append(out, w.last.AppendChunk(nil, text, "", nil, nil))
	}
	if len(calls) > 0 {
		clean, err := w.calls(calls)
		if err != nil {
			return nil, err
		}
		out = append(out, w.last.AppendChunk(nil, "", "", clean, nil))
	}
	if l.Done {
		out = append(out, w.last.AppendFinal(nil, &Answer{DoneReason: l.DoneReason, InputTokens: l.PromptEvalCount, OutputTokens: l.EvalCount}))
	}
	return out, nil
}

// replay returns what renders lines like l.
func (l *line) replay(op Op) Replay {
	return Replay{
		Op: op, Model: l.Model, Now: l.CreatedAt, RemoteModel: l.RemoteModel, RemoteHost: l.RemoteHost,
		Elapsed: time.Duration(l.TotalDuration), Load: time.Duration(l.LoadDuration),
		PromptEval: time.Duration(l.PromptEvalDuration), Eval: time.Duration(l.EvalDuration),
	}
}

func (w *Rewriter) calls(in []lineToolCall) ([]ToolCall, error) {
	var out []ToolCall
	for _, c := range in {
		args, err := filterArguments(w.toolArg, c.Function.Arguments)
		if err != nil {
			return nil, err
		}
		out = append(out, ToolCall{ID: c.ID, Index: c.Function.Index, Name: c.Function.Name, Arguments: args})
	}
	return out, nil
}

// filterArguments filters a JSON text. If it is none afterwards, nothing of it may
// be shown.
func filterArguments(f TextFilter, raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return raw, nil
	}
	text, err := whole(f, string(raw))
	if err != nil {
		return nil, err
	}
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("%w: a tool call's arguments do not survive the output filter", ErrIncomplete)
	}
	return compact(json.RawMessage(text)), nil
}

func whole(f TextFilter, text string) (string, error) {
	head, err := f.Write(text)
	if err != nil {
		return "", err
	}
	tail, err := f.Close()
	return head + tail, err
}

// Object filters an answer that came in one piece and returns its new body.
func (w *Rewriter) Object(raw []byte) ([]byte, error) {
	c := NewCollector(w.op)
	if c.Add(raw) != nil || c.Failed() != "" {
		return raw, nil
	}
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return raw, nil
	}
	a := c.Joined()
	if err := w.Answer(a); err != nil {
		return nil, err
	}
	p := l.replay(w.op)
	if !c.Done() { // incomplete: one chunk says so
		b := p.AppendChunk(nil, a.Content, a.Thinking, a.ToolCalls, nil)
		return b[:len(b)-1], nil
	}
	return p.AppendObject(nil, a), nil
}

// Answer filters a stored answer in place.
func (w *Rewriter) Answer(a *Answer) (err error) {
	if a.Content, err = whole(w.content, a.Content); err != nil {
		return err
	}
	if a.Thinking, err = whole(w.thinking, a.Thinking); err != nil {
		return err
	}
	for i, c := range a.ToolCalls {
		if a.ToolCalls[i].Arguments, err = filterArguments(w.toolArg, c.Arguments); err != nil {
			return err
		}
	}
	a.Logprobs, a.Context = nil, nil
	return nil
}

// Close returns the lines for what is still held back when a stream ends without
// its final line.
func (w *Rewriter) Close() ([][]byte, error) {
	var out [][]byte
	thought, err := w.thinking.Close()
	if err != nil {
		return nil, err
	}
	text, err := w.content.Close()
	if err != nil {
		return nil, err
	}
	if thought != "" {
		out = append(out, w.last.AppendChunk(nil, "", thought, nil, nil))
	}
	if text != "" {
		out = append(out, w.last.AppendChunk(nil, text, "", nil, nil))
	}
	return out, nil
}
