package wire

import (
	"encoding/json"
	"errors"
	"time"
)

// Errors about answers.
var (
	// ErrIncomplete: the upstream's answer may not be stored: it was cut
	// short, carried an error, or ended for another reason than "stop". The
	// wrapped text says which.
	ErrIncomplete = errors.New("wire: answer is not complete")
	// ErrCorruptAnswer: the stored form of an answer is damaged.
	ErrCorruptAnswer = errors.New("wire: stored answer is corrupt")
)

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
