package wire

import (
	"net/http"
	"strconv"
	"strings"
)

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
func ProtocolOf(path string) Protocol {
	switch {
	case path == "/v1/messages" || strings.HasPrefix(path, "/v1/messages/"):
		return Anthropic
	case strings.HasPrefix(path, "/v1/"):
		return OpenAI
	case path == "/cache" || strings.HasPrefix(path, "/cache/"):
		return Problem
	}
	return Native
}

// ErrorBody returns the content type and body of an error reply with the given
// HTTP status in protocol p.
func ErrorBody(p Protocol, status int, message string) (contentType string, body []byte) {
	switch p {
	case OpenAI:
		return "application/json", append(openAIError(message, status), '\n')
	case Anthropic:
		return "application/json", append(anthropicError(message, status), '\n')
	case Problem:
		body = append(body, `{"type":"about:blank","title":`...)
		body = appendString(body, http.StatusText(status))
		body = append(body, `,"status":`...)
		body = strconv.AppendInt(body, int64(status), 10)
		body = append(body, `,"detail":`...)
		return "application/problem+json", append(appendString(body, message), '}')
	}
	return "application/json; charset=utf-8", nativeError(message)
}

// ErrorLine returns what to write into a stream of protocol p that has already
// begun: an NDJSON line or a server-sent event, terminator included.
func ErrorLine(p Protocol, message string) []byte {
	switch p {
	case OpenAI:
		return append(append([]byte("data: "), openAIError(message, http.StatusInternalServerError)...), "\n\n"...)
	case Anthropic:
		return append(append([]byte("event: error\ndata: "), anthropicError(message, http.StatusInternalServerError)...), "\n\n"...)
	}
	return append(nativeError(message), '\n')
}

func nativeError(message string) []byte {
	return append(appendString([]byte(`{"error":`), message), '}')
}

func openAIError(message string, status int) []byte {
	kind := "api_error"
	switch {
	case status == http.StatusNotFound:
		kind = "not_found_error"
	case status == http.StatusUnauthorized:
		kind = "authentication_error"
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status >= 400 && status < 500:
		kind = "invalid_request_error"
	}
	b := appendString([]byte(`{"error":{"message":`), message)
	b = appendString(append(b, `,"type":`...), kind)
	return append(b, `,"param":null,"code":null}}`...)
}

func anthropicError(message string, status int) []byte {
	kind := "api_error"
	switch status {
	case http.StatusBadRequest:
		kind = "invalid_request_error"
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case http.StatusServiceUnavailable, 529:
		kind = "overloaded_error"
	}
	b := appendString([]byte(`{"type":"error","error":{"type":`), kind)
	return append(appendString(append(b, `,"message":`...), message), "}}"...)
}
