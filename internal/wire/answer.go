package wire

import (
	"encoding/json"
	"errors"
	"time"
)

// ErrIncomplete: the upstream's answer may not be stored: it was cut short,
// carried an error, or ended for another reason than "stop". The wrapped text
// says which.
var ErrIncomplete = errors.New("wire: answer is not complete")

// Answer is a complete answer, free of any protocol: every renderer works from
// it, whatever route it was captured from.
type Answer struct {
	Role      string // "assistant"
	Content   string
	Thinking  string
	ToolCalls []ToolCall
	Logprobs  json.RawMessage // JSON array of token entries, nil if none
	Context   []int           // /api/generate's deprecated context, nil if none

	DoneReason string // "stop"

	InputTokens  int // prompt_eval_count
	OutputTokens int // eval_count

	// Durations of the original run.
	Total, Load, PromptEval, Eval time.Duration

	Model    string // model that answered, as the upstream named it
	Digest   string // its digest, "" if unknown
	Provider string // "ollama", "api", or the fallback's name
	Created  time.Time
}

// ToolCall is one function call that the model asked for.
type ToolCall struct {
	ID        string // as the upstream gave it; replays make a fresh one
	Index     int
	Name      string
	Arguments json.RawMessage // compact JSON object, key order kept
}

// AppendBinary appends the stored form of a: a version byte, then
// length-prefixed fields (layout in the file comment of codec.go).
func (a *Answer) AppendBinary(dst []byte) ([]byte, error) { panic("wire") }

// DecodeAnswer reads the stored form. Damaged input gives an error that wraps
// ErrCorruptAnswer; lengths are checked before anything is allocated.
func DecodeAnswer(b []byte) (*Answer, error) { panic("wire") }

// ErrCorruptAnswer: the stored form of an answer is damaged.
var ErrCorruptAnswer = errors.New("wire: stored answer is corrupt")

// Collector joins the lines of an upstream's native answer, streamed or not,
// into an Answer. Not safe for concurrent use.
type Collector struct {
	op Op
}

// NewCollector returns a collector for answers to op.
func NewCollector(op Op) *Collector { return &Collector{op: op} }

// Add takes the next NDJSON line, or the only object of an answer that is not
// streamed. It does not keep line. A line that is no JSON object is an error,
// and so is everything after it.
func (c *Collector) Add(line []byte) error { panic("wire") }

// Failed returns the text of an {"error":...} line, "" if there was none.
func (c *Collector) Failed() string { panic("wire") }

// Done reports whether the final object (done:true) has been added.
func (c *Collector) Done() bool { panic("wire") }

// Answer returns the joined answer when it may be stored: the final object came
// last, done_reason is "stop", there was no error line, and there is content or
// a tool call. Otherwise the error wraps ErrIncomplete. Model, Digest and
// Provider are for the caller to fill in (Model is set from the lines).
func (c *Collector) Answer() (*Answer, error) { panic("wire") }

// Replay renders a stored answer for one client.
type Replay struct {
	Op      Op
	Model   string        // the client's own spelling
	Now     time.Time     // becomes created_at
	Elapsed time.Duration // becomes total_duration, at least 1 ns
}

// AppendObject appends the answer as the one object of a stream:false reply,
// without a newline.
func (p Replay) AppendObject(dst []byte, a *Answer) []byte { panic("wire") }

// Lines calls yield with each line of a streamed reply, its newline included,
// the final object last. yield must not keep the slice. Lines stops at the
// first error and returns it.
func (p Replay) Lines(a *Answer, yield func(line []byte) error) error { panic("wire") }
