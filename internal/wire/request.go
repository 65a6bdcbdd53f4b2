package wire

import "errors"

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

// Request is a decoded native inference request. It is immutable after
// DecodeRequest and safe for concurrent use.
type Request struct {
	Op     Op
	Model  string // as the client spelled it; echoed in answers
	Folded string // FoldModel(Model)
	Stream bool   // Ollama's default (true) applied

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

	forward []byte // canonical body for the upstream
}

// DecodeRequest decodes the body of a native request as Ollama does: keys
// match case-insensitively, the last duplicate wins, null means absent, and
// bytes after the first JSON value are ignored. The error wraps ErrMalformed.
func DecodeRequest(op Op, body []byte) (*Request, error) { panic("wire") }

// Body returns the body to send upstream: the decoded request written out
// again, so that what was keyed is what is asked. The caller must not change it.
func (r *Request) Body() []byte { return r.forward }

// FoldModel returns the form of a model name under which Ollama finds it:
// lower case, with default host and namespace removed and ":latest" added when
// there is no tag.
func FoldModel(name string) string { panic("wire") }
