package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// The stored form of an Answer, version 1:
//
//	byte     version, 1
//	uvarint  flags: 1 = Logprobs present, 2 = Context present
//	text     Role, Content, Thinking, DoneReason, Model, Digest, Provider
//	uvarint  InputTokens, OutputTokens
//	uvarint  Total, Load, PromptEval, Eval (nanoseconds)
//	varint   Created (Unix milliseconds)
//	uvarint  number of tool calls, each: text ID, uvarint Index, text Name, text Arguments
//	text     Logprobs, if flagged
//	uvarint  number of Context tokens, if flagged, each a uvarint
//
// A text is a uvarint length and that many bytes. Nothing may follow. A change of
// the layout takes a new version; readers keep the old ones. Integrity is the
// store's business (it checksums records); the decoder only stays within bounds.
//
// Example: the answer "ok" of role "assistant" and nothing else begins
// 01 00 09 'a' 's' 's' 'i' 's' 't' 'a' 'n' 't' 02 'o' 'k' 00 00 ...
const answerVersion = 1

const (
	hasLogprobs = 1 << iota
	hasContext
)

// AppendBinary appends the stored form of a. Counters and durations below zero
// are an error.
func (a *Answer) AppendBinary(dst []byte) ([]byte, error) {
	for _, n := range [...]int64{int64(a.InputTokens), int64(a.OutputTokens),
		int64(a.Total), int64(a.Load), int64(a.PromptEval), int64(a.Eval)} {
		if n < 0 {
			return nil, fmt.Errorf("wire: negative counter or duration %d", n)
		}
	}
	flags := uint64(0)
	if a.Logprobs != nil {
		flags |= hasLogprobs
	}
	if a.Context != nil {
		flags |= hasContext
	}
	dst = append(dst, answerVersion)
	dst = binary.AppendUvarint(dst, flags)
	for _, s := range [...]string{a.Role, a.Content, a.Thinking, a.DoneReason, a.Model, a.Digest, a.Provider} {
		dst = appendText(dst, s)
	}
	for _, n := range [...]int64{int64(a.InputTokens), int64(a.OutputTokens),
		int64(a.Total), int64(a.Load), int64(a.PromptEval), int64(a.Eval)} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	dst = binary.AppendVarint(dst, a.Created.UnixMilli())
	dst = binary.AppendUvarint(dst, uint64(len(a.ToolCalls)))
	for _, c := range a.ToolCalls {
		dst = appendText(dst, c.ID)
		dst = binary.AppendUvarint(dst, uint64(max(c.Index, 0)))
		dst = appendText(dst, c.Name)
		dst = appendText(dst, c.Arguments)
	}
	if a.Logprobs != nil {
		dst = appendText(dst, a.Logprobs)
	}
	if a.Context != nil {
		dst = binary.AppendUvarint(dst, uint64(len(a.Context)))
		for _, t := range a.Context {
			dst = binary.AppendUvarint(dst, uint64(max(t, 0)))
		}
	}
	return dst, nil
}

func appendText[T string | json.RawMessage](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// DecodeAnswer reads the stored form. Damaged input gives an error that wraps
// ErrCorruptAnswer; lengths are checked before anything is allocated. The answer
// shares no memory with b.
func DecodeAnswer(b []byte) (*Answer, error) {
	if len(b) == 0 || b[0] != answerVersion {
		return nil, fmt.Errorf("%w: unknown version", ErrCorruptAnswer)
	}
	r := reader{rest: b[1:]}
	flags := r.uvarint()
	a := new(Answer)
	for _, p := range [...]*string{&a.Role, &a.Content, &a.Thinking, &a.DoneReason, &a.Model, &a.Digest, &a.Provider} {
		*p = string(r.text())
	}
	a.InputTokens, a.OutputTokens = r.count(), r.count()
	for _, p := range [...]*time.Duration{&a.Total, &a.Load, &a.PromptEval, &a.Eval} {
		*p = time.Duration(r.count())
	}
	a.Created = time.UnixMilli(r.varint()).UTC()
	for range r.items() {
		c := ToolCall{ID: string(r.text()), Index: r.count(), Name: string(r.text()), Arguments: json.RawMessage(clone(r.text()))}
		a.ToolCalls = append(a.ToolCalls, c)
		if r.bad {
			break
		}
	}
	if flags&hasLogprobs != 0 {
		a.Logprobs = clone(r.text())
	}
	if flags&hasContext != 0 {
		n := r.items()
		a.Context = make([]int, 0, n)
		for range n {
			a.Context = append(a.Context, r.count())
		}
	}
	if r.bad || len(r.rest) != 0 || flags&^(hasLogprobs|hasContext) != 0 {
		return nil, fmt.Errorf("%w: %d bytes do not make an answer", ErrCorruptAnswer, len(b))
	}
	return a, nil
}

func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// reader takes values off a byte slice and remembers whether it ran out.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	return v * uint64(r.took(n))
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	return v * int64(r.took(n))
}

// took advances by n bytes and returns 1, or 0 once the input is bad.
func (r *reader) took(n int) int {
	if n <= 0 || r.bad {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return 1
}

func (r *reader) count() int {
	v := r.uvarint()
	if v > math.MaxInt64 {
		r.bad = true
		return 0
	}
	return int(v)
}

// items is the length of a list, which cannot have more items than bytes are left.
func (r *reader) items() int {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) text() []byte {
	n := r.items()
	t := r.rest[:n]
	r.rest = r.rest[n:]
	return t
}
