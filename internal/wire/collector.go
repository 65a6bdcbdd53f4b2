package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Collector joins the lines of an upstream's native answer, streamed or not,
// into an Answer. Not safe for concurrent use.
type Collector struct {
	op                Op
	content, thinking strings.Builder
	logprobs          []byte // items of the array, with commas
	a                 Answer
	chunks            int
	done              bool
	failed            string // text of an error line
	broken            string // why there can be no answer, other than an error line
}

// NewCollector returns a collector for answers to op.
func NewCollector(op Op) *Collector { return &Collector{op: op} }

// line is one object of a native answer: chat and generate together.
type line struct {
	Model       string          `json:"model"`
	RemoteModel string          `json:"remote_model"`
	RemoteHost  string          `json:"remote_host"`
	CreatedAt   time.Time       `json:"created_at"`
	Error       json.RawMessage `json:"error"`
	Message     *struct {
		Role      string         `json:"role"`
		Content   string         `json:"content"`
		Thinking  string         `json:"thinking"`
		ToolCalls []lineToolCall `json:"tool_calls"`
	} `json:"message"`
	Response   string          `json:"response"`
	Thinking   string          `json:"thinking"`
	ToolCalls  []lineToolCall  `json:"tool_calls"`
	Logprobs   json.RawMessage `json:"logprobs"`
	Context    []int           `json:"context"`
	Done       bool            `json:"done"`
	DoneReason string          `json:"done_reason"`

	TotalDuration      int64 `json:"total_duration"`
	LoadDuration       int64 `json:"load_duration"`
	PromptEvalCount    int   `json:"prompt_eval_count"`
	PromptEvalDuration int64 `json:"prompt_eval_duration"`
	EvalCount          int   `json:"eval_count"`
	EvalDuration       int64 `json:"eval_duration"`
}

type lineToolCall struct {
	ID       string `json:"id"`
	Function struct {
		Index     int             `json:"index"`
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

// Add takes the next NDJSON line, or the only object of an answer that is not
// streamed. It does not keep raw. A line that is no answer object is an error,
// and there is no Answer after it.
func (c *Collector) Add(raw []byte) error {
	if c.done && c.broken == "" {
		c.broken = "something follows the final object"
	}
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		c.broken = "a line is not JSON"
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	c.chunks++
	if l.Error != nil {
		c.failed = errorText(l.Error)
		return nil
	}
	if c.op == OpChat {
		c.addMessage(&l)
	} else {
		c.addParts("assistant", l.Response, l.Thinking, l.ToolCalls)
	}
	c.addLogprobs(l.Logprobs)
	if c.a.Model == "" {
		c.a.Model, c.a.Created = l.Model, l.CreatedAt
	}
	if l.Done {
		c.finish(&l)
	}
	return nil
}

func errorText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return text
	}
	return string(raw)
}

func (c *Collector) addMessage(l *line) {
	if l.Message == nil {
		if c.broken == "" && !l.Done {
			c.broken = "a line has no message"
		}
		return
	}
	m := l.Message
	c.addParts(m.Role, m.Content, m.Thinking, m.ToolCalls)
}

func (c *Collector) addParts(role, content, thinking string, calls []lineToolCall) {
	if role != "" && role != "assistant" && c.broken == "" {
		c.broken = fmt.Sprintf("the answer's role is %.20q", role)
	}
	c.content.WriteString(content)
	c.thinking.WriteString(thinking)
	for _, t := range calls {
		c.a.ToolCalls = append(c.a.ToolCalls, ToolCall{
			ID: t.ID, Index: t.Function.Index, Name: t.Function.Name, Arguments: compact(t.Function.Arguments)})
	}
}

func (c *Collector) addLogprobs(raw json.RawMessage) {
	items := bytes.TrimSpace(raw)
	if len(items) < 2 || items[0] != '[' {
		return
	}
	items = bytes.TrimSpace(items[1 : len(items)-1])
	if len(items) == 0 {
		return
	}
	if c.logprobs != nil {
		c.logprobs = append(c.logprobs, ',')
	}
	c.logprobs = append(c.logprobs, items...)
}

func (c *Collector) finish(l *line) {
	c.done = true
	c.a.DoneReason = l.DoneReason
	c.a.Context = l.Context
	c.a.InputTokens, c.a.OutputTokens = max(l.PromptEvalCount, 0), max(l.EvalCount, 0)
	c.a.Total, c.a.Load = nanos(l.TotalDuration), nanos(l.LoadDuration)
	c.a.PromptEval, c.a.Eval = nanos(l.PromptEvalDuration), nanos(l.EvalDuration)
}

func nanos(n int64) time.Duration { return time.Duration(max(n, 0)) }

// Failed returns the text of an {"error":...} line, "" if there was none.
func (c *Collector) Failed() string { return c.failed }

// Done reports whether the final object (done:true) has been added.
func (c *Collector) Done() bool { return c.done }

// Chunks returns the number of lines added.
func (c *Collector) Chunks() int { return c.chunks }

// Answer returns the joined answer when it may be stored: the final object came
// last, done_reason is "stop", there was no error line, and there is content or
// a tool call. Otherwise the error wraps ErrIncomplete. Digest and Provider are
// for the caller to fill in.
func (c *Collector) Answer() (*Answer, error) {
	why := c.broken
	switch {
	case c.failed != "":
		why = "the model reported an error"
	case why != "":
	case !c.done:
		why = "no final object"
	case c.a.DoneReason != "stop":
		why = fmt.Sprintf("done_reason is %.20q", c.a.DoneReason)
	case c.content.Len() == 0 && len(c.a.ToolCalls) == 0:
		why = "no content"
	}
	if why != "" {
		return nil, fmt.Errorf("%w: %s", ErrIncomplete, why)
	}
	return c.Joined(), nil
}

// Joined returns what has been collected so far, complete or not: to be shown,
// never to be stored.
func (c *Collector) Joined() *Answer {
	a := c.a
	a.Role, a.Content, a.Thinking = "assistant", c.content.String(), c.thinking.String()
	if c.logprobs != nil {
		a.Logprobs = append(append(json.RawMessage{'['}, c.logprobs...), ']')
	}
	return &a
}
