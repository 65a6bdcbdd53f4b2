package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"strings"
	"time"

	"github.com/semcached/semcached/internal/calllog"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/wire"
)

// line is an entry as export writes it, one JSON object on a line:
//
//	id         16 hexadecimal digits, ascending in the file
//	tenant, namespace, operation ("chat" or "generate"), model, provider, tags
//	request    the question in canonical form; of images it has the hashes only
//	answer     Ollama's final object, or a text
//	created, expires   RFC 3339, UTC
//
// import also reads lines with question or prompt (and system, if need be) in the place
// of request, and lines of the log of calls.
type line struct {
	ID        string          `json:"id,omitempty"`
	Tenant    string          `json:"tenant,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Operation string          `json:"operation,omitempty"`
	Model     string          `json:"model,omitempty"`
	Provider  string          `json:"provider,omitempty"`
	Tags      []string        `json:"tags,omitempty"`
	Request   json.RawMessage `json:"request,omitempty"`
	Answer    json.RawMessage `json:"answer,omitempty"`
	Created   time.Time       `json:"created,omitzero"`
	Expires   time.Time       `json:"expires,omitzero"`

	Prompt   string `json:"prompt,omitempty"`
	Question string `json:"question,omitempty"`
	System   string `json:"system,omitempty"`

	TraceID string `json:"trace_id,omitempty"` // of a call
}

// The kinds of lines.
const (
	kindExport = "exported"
	kindList   = "question and answer"
	kindCall   = "logged call"
)

// question is what import sends for a line.
type question struct {
	kind   string
	tenant string // whose entry it was, "" if unknown
	body   []byte // of a POST to /cache/store
	// hash is the same for all ways to write the same question.
	hash uint64
}

// leftOut says why a sound line is not imported.
type leftOut string

func (l leftOut) Error() string { return string(l) }

// The reasons for which lines are left out.
const (
	notSelected leftOut = "not selected"
	hasExpired  leftOut = "expired"
	foreign     leftOut = "the answer of a fallback, which must not become the local model's"
	withImages  leftOut = "with images, of which only the hashes are there"
	noAnswer    leftOut = "a call whose answer was not logged (a hit, a failure, or trace-answers was off)"
	reserved    leftOut = "the request has a field that the cache API takes for its own"
	uncacheable leftOut = "a request that is never cached"
)

// ours are the fields of /cache/store that are not part of the question.
var ours = []string{"namespace", "vector", "threshold", "ttl_seconds", "tags", "durability", "answer"}

// readLine makes a question of a line. The error is a leftOut, or says what is wrong
// with the line. The result shares no memory with raw.
func readLine(raw []byte, now time.Time, sel *selection) (*question, error) {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, fmt.Errorf("not an entry: %w", err)
	}
	q := &question{kind: kindList}
	switch {
	case l.TraceID != "":
		q.kind = kindCall
		if err := l.fromCall(raw); err != nil {
			return nil, err
		}
	case len(l.Request) > 0:
		q.kind = kindExport
	}
	q.tenant = l.Tenant
	fields, err := l.fields()
	if err != nil {
		return nil, err
	}
	switch { // what may be wrong with a request comes after what spares us the look
	case !sel.has(l.Tenant, l.Namespace, wire.FoldModel(l.Model), l.Tags, l.Created):
		return nil, notSelected
	case l.Provider != "" && l.Provider != "ollama" && l.Provider != "api":
		return nil, foreign
	case !l.Expires.IsZero() && l.Expires.Sub(now) < time.Second:
		return nil, hasExpired
	case bytes.Contains(l.Request, []byte(`"images":`)):
		return nil, withImages
	}
	if err := q.decode(fields, &l); err != nil {
		return nil, err
	}
	fields["answer"] = l.Answer
	if l.Namespace != "" {
		fields["namespace"] = l.Namespace
	}
	if len(l.Tags) > 0 {
		fields["tags"] = l.Tags
	}
	if !l.Expires.IsZero() {
		fields["ttl_seconds"] = int64(min(l.Expires.Sub(now), proxy.MaxTTL) / time.Second)
	}
	fields["durability"] = "sync"
	q.body, err = json.Marshal(fields)
	return q, err
}

// fromCall takes the entry out of a line of the log of calls.
func (l *line) fromCall(raw []byte) error {
	var r calllog.Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("not a logged call: %w", err)
	}
	if len(r.Response.Answer) == 0 || len(r.Request.Canonical) == 0 {
		return noAnswer
	}
	*l = line{
		Tenant: r.Tenant, Namespace: r.Request.Namespace, Model: r.Request.Model, Tags: r.Request.Tags,
		Request: r.Request.Canonical, Answer: r.Response.Answer, Created: r.Timestamp,
	}
	if r.Response.Source != calllog.SourceOllama {
		l.Provider = r.Response.Source
	}
	return nil
}

// fields returns the question's fields, as /api/chat and /api/generate have them.
func (l *line) fields() (map[string]any, error) {
	fields := make(map[string]any)
	text := cmp.Or(l.Prompt, l.Question)
	switch {
	case len(l.Answer) == 0 || string(l.Answer) == "null":
		return nil, errors.New("there is no answer")
	case len(l.Request) > 0:
		var request map[string]json.RawMessage
		if err := json.Unmarshal(l.Request, &request); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		for name, v := range request {
			fields[name] = v
		}
		for _, name := range ours {
			if fields[name] != nil {
				return nil, reserved
			}
		}
	case strings.TrimSpace(text) != "":
		fields["prompt"] = text
		if l.Model != "" {
			fields["model"] = l.Model
		}
		if l.System != "" {
			fields["system"] = l.System
		}
	default:
		return nil, errors.New("there is neither a request nor a prompt nor a question")
	}
	return fields, nil
}

// seed makes hashes differ from process to process.
var seed = maphash.MakeSeed()

// decode judges the request and the answer as the server will, and hashes the question.
func (q *question) decode(fields map[string]any, l *line) error {
	fields = maps.Clone(fields)
	if !named(fields, "model") {
		fields["model"] = "-" // as /cache/store does
	}
	op := wire.OpGenerate
	if named(fields, "messages") {
		op = wire.OpChat
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	r, err := wire.DecodeRequest(op, body)
	if err != nil {
		return err
	}
	if r.Bypass != "" {
		return uncacheable
	}
	if err := checkAnswer(op, l.Answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	q.hash = maphash.String(seed, string(op)+"\x00"+l.Namespace+"\x00"+string(r.Canonical))
	return nil
}

// named reports whether a field is there, in any case: so it will be read.
func named(fields map[string]any, name string) bool {
	for f := range fields {
		if strings.EqualFold(f, name) {
			return true
		}
	}
	return false
}

// checkAnswer reports what is wrong with an answer: a text, or Ollama's final object.
func checkAnswer(op wire.Op, raw json.RawMessage) error {
	if raw[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil || strings.TrimSpace(text) == "" {
			return errors.New("is empty")
		}
		return nil
	}
	c := wire.NewCollector(op)
	if err := c.Add(raw); err != nil {
		return errors.New("is neither a text nor an answer object")
	}
	_, err := c.Answer()
	return err
}
