package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The canonical form of a request is JSON with its fields in a fixed order, under
// their own names, absent ones left out. It is injective: a JSON object can be
// read back, and known fields keep their values' types, so two requests that
// differ in anything that is written differ in their bytes. In the scope the
// prompt is the literal null, which no text is written as.

// writing says what a canonical form is for.
type writing int

const (
	writeKey     writing = iota // key material
	writeScope                  // key material without the prompt
	writeForward                // body for the upstream
)

// append writes the request in canonical form.
func (d *decoded) append(dst []byte, w writing) []byte {
	o := object{dst: append(dst, '{')}
	if w == writeForward {
		o.text("model", d.model)
	} else {
		o.text("model", FoldModel(d.model))
	}
	if d.op == OpChat {
		o.name("messages")
		o.dst = d.appendMessages(o.dst, w)
	} else {
		d.appendPrompt(&o, w)
	}
	o.nonEmpty("suffix", d.suffix)
	o.nonEmpty("system", d.system)
	o.nonEmpty("template", d.template)
	o.present("tools", d.tools)
	o.present("format", d.format)
	o.present("think", d.think)
	o.flag("raw", d.raw)
	o.flag("logprobs", d.logprobs)
	o.flag("_debug_render_only", d.debug)
	if d.topLogprobs != 0 {
		o.present("top_logprobs", strconv.AppendInt(nil, int64(d.topLogprobs), 10))
	}
	if d.truncate != nil && !*d.truncate {
		o.present("truncate", json.RawMessage("false"))
	}
	if d.shift != nil && !*d.shift {
		o.present("shift", json.RawMessage("false"))
	}
	if len(d.context) > 0 {
		o.present("context", appendInts(nil, d.context))
	}
	d.appendOptions(&o, w)
	if w == writeForward {
		o.present("stream", strconv.AppendBool(nil, d.stream == nil || *d.stream))
		o.present("keep_alive", d.keepAlive)
	}
	o.all(d.unknown)
	return append(o.dst, '}')
}

func (d *decoded) appendPrompt(o *object, w writing) {
	if w == writeScope {
		o.present("prompt", json.RawMessage("null"))
	} else {
		o.text("prompt", d.text)
	}
	o.images(d.images, w)
}

func (d *decoded) appendMessages(dst []byte, w writing) []byte {
	dst = append(dst, '[')
	for i, m := range d.messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		o := object{dst: append(dst, '{')}
		o.text("role", m.role)
		if w == writeScope && i == len(d.messages)-1 {
			o.present("content", json.RawMessage("null"))
		} else {
			o.text("content", m.content)
		}
		o.nonEmpty("thinking", m.thinking)
		o.images(m.images, w)
		o.present("tool_calls", m.toolCalls)
		o.nonEmpty("tool_name", m.toolName)
		o.nonEmpty("tool_call_id", m.toolCallID)
		o.all(m.unknown)
		dst = append(o.dst, '}')
	}
	return append(dst, ']')
}

// speedOptions change how fast an answer comes, not what it is.
var speedOptions = []string{"num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}

func (d *decoded) appendOptions(o *object, w writing) {
	in := object{dst: []byte{'{'}}
	for _, name := range slices.Sorted(maps.Keys(d.options)) {
		if w == writeForward || !slices.Contains(speedOptions, name) {
			in.present(name, d.options[name])
		}
	}
	if len(in.dst) > 1 {
		o.present("options", append(in.dst, '}'))
	}
}

// floatOptions are float32 in Ollama, intOptions integers.
var (
	floatOptions = []string{"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"}
	intOptions   = []string{"num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"}
)

// readOptions reads options as a map: names keep their case, null is absent, and
// numbers that Ollama reads as the same value are written the same.
func readOptions(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	for name, v := range m {
		if isNull(v) {
			delete(m, name)
			continue
		}
		m[name] = normaliseOption(name, compact(v))
	}
	return m, nil
}

func normaliseOption(name string, v json.RawMessage) json.RawMessage {
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return v // not a number: Ollama judges
	}
	switch {
	case slices.Contains(floatOptions, name):
		if f32 := float32(f); !math.IsInf(float64(f32), 0) {
			return strconv.AppendFloat(nil, float64(f32), 'g', -1, 32)
		}
	case slices.Contains(intOptions, name):
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return strconv.AppendInt(nil, int64(f), 10)
		}
	}
	return v
}

// object writes the fields of a JSON object after its brace.
type object struct{ dst []byte }

func (o *object) name(name string) {
	if o.dst[len(o.dst)-1] != '{' {
		o.dst = append(o.dst, ',')
	}
	o.dst = appendString(o.dst, name)
	o.dst = append(o.dst, ':')
}

func (o *object) text(name, v string) {
	o.name(name)
	o.dst = appendString(o.dst, v)
}

func (o *object) nonEmpty(name, v string) {
	if v != "" {
		o.text(name, v)
	}
}

func (o *object) present(name string, v json.RawMessage) {
	if v != nil {
		o.name(name)
		o.dst = append(o.dst, v...)
	}
}

func (o *object) flag(name string, v bool) {
	if v {
		o.present(name, json.RawMessage("true"))
	}
}

// images writes pictures: their hashes into keys, themselves to the upstream.
func (o *object) images(images [][]byte, w writing) {
	if len(images) == 0 {
		return
	}
	o.name("images")
	o.dst = append(o.dst, '[')
	for i, img := range images {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = append(o.dst, '"')
		if w == writeForward {
			o.dst = base64.StdEncoding.AppendEncode(o.dst, img)
		} else {
			sum := sha256.Sum256(img)
			o.dst = hex.AppendEncode(o.dst, sum[:])
		}
		o.dst = append(o.dst, '"')
	}
	o.dst = append(o.dst, ']')
}

func (o *object) all(fields map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		o.present(name, fields[name])
	}
}

func appendInts(dst []byte, v []int) []byte {
	dst = append(dst, '[')
	for i, n := range v {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(n), 10)
	}
	return append(dst, ']')
}

// foldObject reads the fields of a JSON object by their folded names; of
// duplicates the last one wins. What follows the object is ignored.
func foldObject(body []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	t, err := dec.Token()
	if err != nil || t != json.Delim('{') {
		return nil, malformed(err, "not a JSON object")
	}
	fields := make(map[string]json.RawMessage)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, malformed(err, "")
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, malformed(err, "")
		}
		fields[foldName(name.(string))] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed(err, "")
	}
	return fields, nil
}

func malformed(err error, text string) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		return fmt.Errorf("%w: %s", ErrMalformed, text)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// foldName folds a key as encoding/json does when it looks for a field: two
// letters outside ASCII fold to letters inside (long s and the Kelvin sign).
func foldName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case r == 'ſ':
			return 's'
		case r == '\u212a':
			return 'k'
		}
		return r
	}, s)
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// compact returns valid JSON without white space between its tokens; the order of
// keys stays.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	b.Grow(len(raw))
	if err := json.Compact(&b, raw); err != nil {
		return raw
	}
	return b.Bytes()
}
