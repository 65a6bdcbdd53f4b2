// Package filter looks at what models say before it leaves: ordered rules flag,
// redact or block what matches, in whole texts and in streams.
//
// A stream gives the same text as the whole: what could still become part of a match
// is held back until it is decided. A rule's pattern must therefore have a longest
// match; patterns without one are refused when the rules are read.
package filter

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Action is what happens to a match.
type Action int

// The actions.
const (
	Flag   Action = iota // it passes, and is reported
	Redact               // it is replaced
	Block                // the whole answer is withheld
)

// String returns "flag", "redact" or "block".
func (a Action) String() string { return [...]string{"flag", "redact", "block"}[a] }

// ParseAction reads what String returns.
func ParseAction(s string) (Action, error) {
	for _, a := range [...]Action{Flag, Redact, Block} {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%q is not block, redact or flag", s)
}

// DefaultReplacement stands where a redacted match was.
const DefaultReplacement = "[redacted]"

// Rule is one rule. It has a pattern or words.
type Rule struct {
	Name        string
	Match       string   // RE2 pattern, without ^ and $ for the whole text
	Words       []string // whole words, in any case
	Action      Action
	Replacement string // default: DefaultReplacement
}

// maxMatch bounds the longest match of a rule in bytes, and so what a stream holds
// back.
const maxMatch = 4096

// Filter is a list of rules. It is immutable.
type Filter struct{ rules []*rule }

// rule is a compiled Rule.
type rule struct {
	Rule
	// start finds the first match in a text as its group 1. after does the
	// same behind the first rune, which is only there to be looked at: what
	// is in front of a match decides on \b and line starts.
	start, after *regexp.Regexp
	window       int // a match from a position is decided when so many bytes follow it
}

// New compiles rules. The error lists every mistake with its rule's name.
func New(rules []Rule) (*Filter, error) {
	f := new(Filter)
	var errs []error
	for i, r := range rules {
		c, err := compile(r)
		if err != nil {
			name := r.Name
			if name == "" {
				name = fmt.Sprint("number ", i+1)
			}
			errs = append(errs, fmt.Errorf("rule %s: %w", name, err))
			continue
		}
		f.rules = append(f.rules, c)
	}
	return f, errors.Join(errs...)
}

func compile(r Rule) (*rule, error) {
	pattern := r.Match
	switch {
	case r.Name == "":
		return nil, errors.New("has no name")
	case (r.Match == "") == (len(r.Words) == 0):
		return nil, errors.New("needs either match or words")
	case len(r.Words) > 0:
		pattern = words(r.Words)
	}
	if r.Replacement == "" {
		r.Replacement = DefaultReplacement
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	longest, err := longest(tree)
	switch {
	case err != nil:
		return nil, err
	case longest > maxMatch:
		return nil, fmt.Errorf("a match could be longer than %d bytes: bound repetitions, as in {1,64} for +", maxMatch)
	}
	if shortest(tree) == 0 {
		return nil, errors.New("can match the empty text")
	}
	c := &rule{Rule: r, window: longest + utf8.UTFMax}
	if c.start, err = regexp.Compile(`\A(?s:.*?)(` + pattern + `)`); err != nil {
		return nil, err
	}
	c.after, err = regexp.Compile(`\A(?s:.)(?s:.*?)(` + pattern + `)`)
	return c, err
}

// words returns the pattern of a list of words.
func words(list []string) string {
	var alternatives []string
	for _, w := range list {
		if w = strings.TrimSpace(w); w == "" {
			continue
		}
		p := regexp.QuoteMeta(w)
		if isWordByte(w[0]) {
			p = `\b` + p
		}
		if isWordByte(w[len(w)-1]) {
			p += `\b`
		}
		alternatives = append(alternatives, p)
	}
	return `(?i:` + strings.Join(alternatives, "|") + `)`
}

func isWordByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_'
}

// longest returns the length in bytes of the longest match of a pattern.
func longest(re *syntax.Regexp) (n int, err error) {
	sum := func() (n int, err error) {
		for _, sub := range re.Sub {
			m, err := longest(sub)
			if err != nil {
				return 0, err
			}
			n = min(n+m, maxMatch+1)
		}
		return n, nil
	}
	switch re.Op {
	case syntax.OpLiteral:
		return utf8.UTFMax * len(re.Rune), nil
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return utf8.UTFMax, nil
	case syntax.OpStar, syntax.OpPlus:
		return maxMatch + 1, nil
	case syntax.OpRepeat:
		if re.Max < 0 {
			return maxMatch + 1, nil
		}
		n, err := sum()
		return min(n*re.Max, maxMatch+1), err
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			m, err := longest(sub)
			if err != nil {
				return 0, err
			}
			n = max(n, m)
		}
		return n, nil
	case syntax.OpBeginText, syntax.OpEndText:
		return 0, errors.New("^ and $ do not work in a stream: use (?m) for lines, or \\b")
	}
	return sum()
}

// shortest returns the least number of runes that a match can have.
func shortest(re *syntax.Regexp) (n int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpStar, syntax.OpQuest:
		return 0
	case syntax.OpRepeat:
		return re.Min * shortest(re.Sub[0])
	case syntax.OpAlternate:
		n = maxMatch
		for _, sub := range re.Sub {
			n = min(n, shortest(sub))
		}
		return n
	}
	for _, sub := range re.Sub {
		n += shortest(sub)
	}
	return n
}

// Changes reports whether any rule does more than flag.
func (f *Filter) Changes() bool {
	if f == nil {
		return false
	}
	for _, r := range f.rules {
		if r.Action != Flag {
			return true
		}
	}
	return false
}

// Rules returns names and actions, for metrics.
func (f *Filter) Rules() (names []string, actions []Action) {
	if f == nil {
		return nil, nil
	}
	for _, r := range f.rules {
		names, actions = append(names, r.Name), append(actions, r.Action)
	}
	return names, actions
}

// BlockedError: a rule withholds the answer.
type BlockedError struct{ Rule string }

// Error implements error; the text is fit for clients.
func (e *BlockedError) Error() string {
	return "the answer was withheld by the output filter (" + e.Rule + ")"
}

// Hit is a rule that matched.
type Hit struct {
	Rule   string
	Action Action
}

// Text filters a whole text. The error is a *BlockedError; there is no text then.
func (f *Filter) Text(text string, hit func(Hit)) (string, error) {
	s := f.Stream(hit)
	head, err := s.Write(text)
	if err != nil {
		return "", err
	}
	tail, err := s.Close()
	return head + tail, err
}

// Stream filters one text piece by piece. Not safe for concurrent use.
type Stream struct{ stages []stage }

// Stream returns a filter of one text; hit, if not nil, is told of every match.
func (f *Filter) Stream(hit func(Hit)) *Stream {
	s := new(Stream)
	for _, r := range f.rules {
		s.stages = append(s.stages, stage{rule: r, hit: hit})
	}
	return s
}

// Write takes the next piece and returns what is decided. After an error, a
// *BlockedError, nothing more may be written or shown.
func (s *Stream) Write(text string) (string, error) {
	return s.through(text, false)
}

// Close returns what was held back; more may be written afterwards, as a new text.
func (s *Stream) Close() (string, error) { return s.through("", true) }

func (s *Stream) through(text string, final bool) (string, error) {
	for i := range s.stages {
		var err error
		if text, err = s.stages[i].write(text, final); err != nil {
			return "", err
		}
	}
	return text, nil
}

// stage applies one rule.
type stage struct {
	rule *rule
	hit  func(Hit)
	buf  string // what is not decided, behind seen bytes of what is
	seen int    // length of one rune, or 0 at the beginning
}

func (s *stage) write(text string, final bool) (string, error) {
	if s.seen == len(s.buf) && text == "" && !final {
		return "", nil
	}
	s.buf += text
	limit := len(s.buf) // matches that begin before it are decided
	if !final {
		limit -= s.rule.window
	}
	var out strings.Builder
	for limit > s.seen {
		from, to, ok := s.find()
		if !ok || from >= limit {
			break
		}
		if s.hit != nil {
			s.hit(Hit{s.rule.Name, s.rule.Action})
		}
		out.WriteString(s.buf[s.seen:from])
		switch s.rule.Action {
		case Block:
			return "", &BlockedError{s.rule.Name}
		case Redact:
			out.WriteString(s.rule.Replacement)
		default:
			out.WriteString(s.buf[from:to])
		}
		limit -= s.forget(to)
	}
	for limit > s.seen && limit < len(s.buf) && !utf8.RuneStart(s.buf[limit]) {
		limit--
	}
	if limit > s.seen {
		out.WriteString(s.buf[s.seen:limit])
		s.forget(limit)
	}
	if final {
		s.buf, s.seen = "", 0
	}
	return out.String(), nil
}

// find returns the first match behind what has been seen.
func (s *stage) find() (from, to int, ok bool) {
	re := s.rule.start
	if s.seen > 0 {
		re = s.rule.after
	}
	m := re.FindStringSubmatchIndex(s.buf)
	if m == nil {
		return 0, 0, false
	}
	return m[2], m[3], true
}

// forget drops what lies before to, but the last rune, and returns how much.
func (s *stage) forget(to int) int {
	_, size := utf8.DecodeLastRuneInString(s.buf[:to])
	s.buf, s.seen = s.buf[to-size:], size
	return to - size
}
