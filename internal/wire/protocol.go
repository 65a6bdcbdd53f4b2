package wire

// Protocol is the family of clients a route speaks to; it decides the shape of
// error bodies.
type Protocol int

// The protocols.
const (
	Native    Protocol = iota // Ollama's own: {"error":"text"}
	OpenAI                    // /v1/*: {"error":{"message",...}}
	Anthropic                 // /v1/messages: {"type":"error",...}
	Problem                   // /cache/*: RFC 9457 problem details
)

// ProtocolOf returns the protocol of a route by its path.
func ProtocolOf(path string) Protocol { panic("wire") }

// ErrorBody returns the content type and body of an error reply with the given
// HTTP status in protocol p.
func ErrorBody(p Protocol, status int, message string) (contentType string, body []byte) {
	panic("wire")
}

// ErrorLine returns what to write into a stream of protocol p that has already
// begun: an NDJSON line or an SSE event, terminator included.
func ErrorLine(p Protocol, message string) []byte { panic("wire") }
