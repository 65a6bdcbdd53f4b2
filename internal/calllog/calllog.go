// Package calllog writes one line of JSON for every call to a file that is rotated.
// It never makes a request wait: when the disk is too slow, lines are dropped and
// counted.
package calllog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/DeRuina/timberjack"
)

// Record is one line of JSON. Durations are in milliseconds. What is not known is left out
// or null, never guessed.
type Record struct {
	TraceID   string    `json:"trace_id"` // W3C: 32 hex digits
	SpanID    string    `json:"span_id,omitempty"`
	RequestID string    `json:"request_id"`
	Timestamp time.Time `json:"timestamp"` // when the request came, UTC
	Tenant    string    `json:"tenant"`
	Route     string    `json:"route"`
	Status    int       `json:"status"`
	Stream    bool      `json:"stream"`

	Request     Request     `json:"request"`
	Response    Response    `json:"response"`
	Performance Performance `json:"performance"`
	Cache       Cache       `json:"cache"`
	Attempts    []Attempt   `json:"attempts,omitempty"`
	Saved       *Saved      `json:"saved,omitempty"` // hits only
	Filtered    []string    `json:"filtered,omitempty"`
	Client      Client      `json:"client"`

	Error     *string `json:"error"`
	ErrorType string  `json:"error_type,omitempty"`
}

// Request is what was asked.
type Request struct {
	Model                string `json:"model,omitempty"`
	MessagesCount        int    `json:"messages_count"`
	PromptTokensEstimate int    `json:"prompt_tokens_estimate"` // bytes of the last user text / 4
	Bytes                int64  `json:"bytes"`

	// Only if they are asked for.
	Prompt string `json:"prompt,omitempty"` // the last text of the user

	// Only with Response.Answer: all that it was the answer to.
	Canonical json.RawMessage `json:"canonical,omitempty"` // the request in canonical form
	Namespace string          `json:"namespace,omitempty"`
	Tags      []string        `json:"tags,omitempty"`
}

// The sources of answers.
const (
	SourceOllama   = "ollama-local"
	SourceFallback = "openai-cloud-fallback"
	SourceExact    = "cache-exact"
	SourceSemantic = "cache-semantic"
	SourceStale    = "cache-stale"
)

// Response is what was answered.
type Response struct {
	Source       string `json:"source"` // one of the constants, or ""
	RemoteHost   string `json:"remote_host,omitempty"`
	PromptTokens int    `json:"prompt_tokens"`
	OutputTokens int    `json:"output_tokens"`
	DoneReason   string `json:"done_reason,omitempty"`
	Bytes        int64  `json:"bytes"`
	// Answer is Ollama's final object, only if it is asked for, and only of
	// answers that were kept.
	Answer json.RawMessage `json:"answer,omitempty"`
}

// Performance is how long it took.
type Performance struct {
	LatencyMS       float64  `json:"latency_ms"`
	TTFTMS          float64  `json:"ttft_ms"`
	TokensPerSecond *float64 `json:"tokens_per_second"` // of the model; null on hits
}

// Cache is what the cache did.
type Cache struct {
	Result       string   `json:"result"`
	Similarity   *float64 `json:"similarity,omitempty"`
	AgeSeconds   *float64 `json:"age_s,omitempty"`
	Key          string   `json:"key,omitempty"`
	Reason       string   `json:"reason,omitempty"`        // of a miss
	BypassReason string   `json:"bypass_reason,omitempty"` // of a bypass
}

// Attempt is one call of an upstream.
type Attempt struct {
	Backend string  `json:"backend"`
	Status  int     `json:"status"`
	MS      float64 `json:"ms"`
}

// Saved is what a hit did not cost.
type Saved struct {
	Tokens int     `json:"tokens"`
	MS     float64 `json:"ms"`
}

// Client is who asked.
type Client struct {
	UserAgent string `json:"ua,omitempty"`
}

// Options configure a Log.
type Options struct {
	Path string // required
	// MaxMegabytes is the size at which the file is rotated. Default: 100.
	MaxMegabytes int
	// Keep is how many old files, gzipped, stay. Default: 10.
	Keep int
	// Dropped counts lines that were lost. May be nil.
	Dropped func()
	Log     *slog.Logger // default: discards
}

// queueSize bounds the lines that wait for the disk.
const queueSize = 4096

// Log writes records. Safe for concurrent use.
type Log struct {
	o     Options
	queue chan *Record
	gone  atomic.Bool
}

// New returns a log after having checked that the file can be written to.
func New(o Options) (*Log, error) {
	if o.MaxMegabytes == 0 {
		o.MaxMegabytes = 100
	}
	if o.Keep == 0 {
		o.Keep = 10
	}
	if o.Dropped == nil {
		o.Dropped = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	f, err := os.OpenFile(o.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("call log: %w", err)
	}
	f.Close()
	return &Log{o: o, queue: make(chan *Record, queueSize)}, nil
}

// Write queues a line; it does not wait. r must not be changed afterwards. A record
// without a trace ID gets one.
func (l *Log) Write(r *Record) {
	if r.TraceID == "" {
		var id [16]byte
		rand.Read(id[:])
		r.TraceID = hex.EncodeToString(id[:])
	}
	if l.gone.Load() {
		l.o.Dropped()
		return
	}
	select {
	case l.queue <- r:
	default:
		l.o.Dropped()
	}
}

// Run writes what is queued until ctx ends, then the rest, and closes the file. It
// is called once.
func (l *Log) Run(ctx context.Context) error {
	file := &timberjack.Logger{Filename: l.o.Path, MaxSize: l.o.MaxMegabytes, MaxBackups: l.o.Keep, Compression: "gzip", FileMode: 0o600}
	defer file.Close()
	for {
		select {
		case r := <-l.queue:
			l.line(file, r)
		case <-ctx.Done():
			l.gone.Store(true)
			for {
				select {
				case r := <-l.queue:
					l.line(file, r)
				default:
					return ctx.Err()
				}
			}
		}
	}
}

// line writes one record with a single call, so that lines do not mix.
func (l *Log) line(w io.Writer, r *Record) {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	if err != nil {
		l.o.Dropped()
		l.o.Log.Debug("call log", "error", err)
	}
}
