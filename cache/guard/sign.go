package guard

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxText bounds what is read of a text. Beyond it texts are told apart by a
// hash of the rest, which counts as an identifier.
const maxText = 32 << 10

// maxHan bounds the Chinese text that is kept for hanDifference.
const maxHan = 240

// script is the writing system that most letters of a text belong to.
type script uint8

const (
	noScript script = iota
	latin
	han
	kana
	hangul
	cyrillic
	greek
	arabic
	otherScript
)

// Sign reads the signature of text.
func Sign(text string) *Signature {
	s := &Signature{}
	if len(text) > maxText {
		s.add(identifiers, hash("rest", text[maxText:]))
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	text = norm.NFKC.String(text)
	s.script = dominant(text)
	r := reader{s: s}
	text = r.quotes(text)
	r.latin(text)
	if s.script == han || strings.ContainsFunc(text, isHan) {
		r.chinese(text)
	}
	s.negated = r.negations%2 == 1
	s.contextual = r.dependent()
	s.cycle = cycle(r.line)
	if s.words == 0 {
		s.order = hash("bare", strings.Join(strings.Fields(text), " "))
	}
	for k := range s.sets {
		slices.Sort(s.sets[k])
	}
	return s
}

func (s *Signature) add(k kind, h uint64) { s.sets[k] = append(s.sets[k], h) }

// hash is FNV-1a with a name space in front.
func hash(space, text string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(space) {
		h = (h ^ uint64(space[i])) * prime
	}
	h = (h ^ 0xff) * prime
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * prime
	}
	return h
}

func isHan(r rune) bool { return unicode.Is(unicode.Han, r) }

// dominant counts the letters of each script. One Chinese character says as much
// as several Latin letters.
func dominant(text string) script {
	var n [otherScript + 1]int
	for _, r := range text {
		switch {
		case r < utf8.RuneSelf:
			if r|0x20 >= 'a' && r|0x20 <= 'z' {
				n[latin]++
			}
		case !unicode.IsLetter(r):
		case isHan(r):
			n[han] += 3
		case unicode.Is(unicode.Latin, r):
			n[latin]++
		case unicode.In(r, unicode.Hiragana, unicode.Katakana):
			n[kana] += 6 // Japanese mixes kana with Han
		case unicode.Is(unicode.Hangul, r):
			n[hangul] += 3
		case unicode.Is(unicode.Cyrillic, r):
			n[cyrillic]++
		case unicode.Is(unicode.Greek, r):
			n[greek]++
		case unicode.Is(unicode.Arabic, r):
			n[arabic]++
		default:
			n[otherScript]++
		}
	}
	best := noScript
	for i := range n {
		if n[i] > n[best] {
			best = script(i)
		}
	}
	return best
}

// reader gathers the facts of one text.
type reader struct {
	line      []uint64 // content words in their order
	s         *Signature
	negations int
	pronouns  int
	previous  string // the last word, lower case
	verb      int    // words since "turn", "switch" and the like
	number    bool   // the last token was a number
}

// quotes takes quoted passages and code spans out of the text: they must agree
// letter by letter.
func (r *reader) quotes(text string) string {
	var rest strings.Builder
	for {
		at, open := firstQuote(text)
		if at < 0 {
			break
		}
		body := text[at+len(open):]
		end := strings.Index(body, quotePairs[open])
		if end <= 0 {
			rest.WriteString(text[:at+len(open)])
			text = body
			continue
		}
		rest.WriteString(text[:at])
		rest.WriteByte(' ')
		r.s.add(quoted, hash("quoted", strings.TrimSpace(body[:end])))
		r.s.words++
		text = body[end+len(quotePairs[open]):]
	}
	rest.WriteString(text)
	return rest.String()
}

func firstQuote(text string) (at int, open string) {
	at = -1
	for q := range quotePairs {
		if i := strings.Index(text, q); i >= 0 && (at < 0 || i < at || i == at && len(q) > len(open)) {
			at, open = i, q
		}
	}
	return at, open
}

// latin reads words, numbers and identifiers in alphabetic scripts.
func (r *reader) latin(text string) {
	r.verb = 100
	start := true // of a sentence
	for len(text) > 0 {
		c, n := utf8.DecodeRuneInString(text)
		if !wordRune(c) && !(c == '-' && len(text) > 1 && (text[1] == '-' || isLetterByte(text[1]))) {
			if c == '%' || c == '°' || c == '$' || c == '€' || c == '£' || c == '¥' {
				r.s.add(units, hash("unit", symbolUnits[c]))
			}
			start = start && (unicode.IsSpace(c) || unicode.IsPunct(c)) || strings.ContainsRune(".!?:;\n。！？", c)
			text = text[n:]
			continue
		}
		end := n
		for end < len(text) {
			c, n := utf8.DecodeRuneInString(text[end:])
			if !wordRune(c) && !joins(text, end, c) {
				break
			}
			end += n
		}
		token := strings.TrimRight(text[:end], ".-_/@'’")
		r.token(token, start)
		start = start && token == "" || strings.HasSuffix(text[:end], ".")
		text = text[end:]
	}
}

// wordRune reports whether c is part of a word. Chinese is read apart.
func wordRune(c rune) bool {
	return (unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c) || c == '_') && !isHan(c)
}

func isLetterByte(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

// joins reports whether c, at text[i:], holds two parts of one token together.
func joins(text string, i int, c rune) bool {
	if i+1 >= len(text) || !strings.ContainsRune(".-/@'’,:+#", c) {
		return c == '+' || c == '#'
	}
	n := utf8.RuneLen(c)
	next, _ := utf8.DecodeRuneInString(text[i+n:])
	switch c {
	case ',', ':':
		return unicode.IsDigit(rune(text[i-1])) && unicode.IsDigit(next)
	case '-':
		return wordRune(next) || next == '-'
	}
	return wordRune(next)
}

// token judges one token of an alphabetic script.
func (r *reader) token(token string, start bool) {
	if token == "" {
		return
	}
	if v, unit, ok := parseNumber(token); ok {
		r.s.add(numbers, hash("number", v))
		if unit != "" {
			r.unit(unit)
		}
		r.s.words++
		r.number = true
		r.mix("#" + v)
		return
	}
	wasNumber := r.number
	r.number = false
	if isIdentifier(token) {
		r.s.add(identifiers, hash("identifier", token))
		r.s.words++
		r.mix(token)
		return
	}
	if strings.Contains(token, "-") || strings.Contains(token, "/") {
		for _, part := range strings.FieldsFunc(token, func(c rune) bool { return c == '-' || c == '/' }) {
			r.word(part, start, wasNumber)
			start, wasNumber = false, false
		}
		return
	}
	r.word(token, start, wasNumber)
}

// word judges one word.
func (r *reader) word(word string, start, afterNumber bool) {
	low := strings.ToLower(strings.ReplaceAll(word, "’", "'"))
	if negators[low] || strings.HasSuffix(low, "n't") {
		r.negations++
		return
	}
	low = strings.TrimSuffix(low, "'s")
	low, _, _ = strings.Cut(low, "'")
	defer func() { r.previous = low }()
	r.verb++
	if switches[low] {
		r.verb = 0
	}
	if afterNumber && r.unit(low) {
		return
	}
	if v, ok := numberWords[low]; ok {
		r.s.add(numbers, hash("number", v))
		r.s.words++
		r.number = true
		return
	}
	r.lexicons(low, word)
	r.s.add(vocabulary, hash("word", low))
	if !start && isName(word) && !scaffold[low] {
		r.s.add(names, hash("word", low))
	}
	if scaffold[low] {
		return
	}
	r.s.words++
	stem := stemmed(low)
	if same, ok := synonyms[stem]; ok {
		stem = same
	}
	r.s.add(content, hash("content", stem))
	r.mix(stem)
}

// lexicons looks a word up in the lists of package lexicon.go.
func (r *reader) lexicons(low, word string) {
	s := r.s
	if v, ok := dateWords[low]; ok {
		s.add(dates, hash("date", v))
	} else if (word == "May" || word == "March") && monthBefore[r.previous] {
		s.add(dates, hash("date", low))
	}
	if v, ok := unitNames[low]; ok {
		s.add(units, hash("unit", v))
	}
	if v, ok := formatWords[low]; ok {
		s.add(formats, hash("format", v))
	}
	if v, ok := quantifierWords[low]; ok {
		s.add(quantifiers, hash("quantifier", v))
	}
	if v, ok := questionWords[low]; ok {
		s.add(questions, hash("question", v))
	} else if r.previous == "how" && measures[low] {
		s.add(questions, hash("question", "how "+measureKind(low)))
	}
	if v, ok := personWords[low]; ok {
		s.add(persons, hash("person", v))
	}
	r.pole(low)
	s.related = s.related || relations[low]
	s.timely = s.timely || timelyWords[low] || r.previous == "this" && periods[low]
	if pronouns[low] {
		r.pronouns++
	}
}

// pole notes a word that has an opposite.
func (r *reader) pole(low string) {
	switch {
	case low == "off", low == "on" && r.verb <= 4:
		r.addPole("on", low == "off")
	default:
		if p, ok := poleWords[low]; ok {
			r.addPole(p.pair, p.negative)
		}
	}
}

func (r *reader) addPole(pair string, negative bool) {
	h := hash("pole", pair) &^ 1
	if negative {
		h |= 1
	}
	r.s.add(poles, h)
}

// mix adds a content word to the order and the bag.
func (r *reader) mix(word string) {
	h := hash("content", word)
	r.s.order = (r.s.order^h)*1099511628211 + 1
	r.s.bag += h
	r.line = append(r.line, h)
}

// cycle returns a hash of line that is the same for all its rotations: that of the
// least one, found in linear time by comparing two candidates
// at a time (Shiloach 1979).
func cycle(line []uint64) uint64 {
	n := len(line)
	i, j, k := 0, 1, 0 // candidates i and j agree in k words
	for i < n && j < n && k < n {
		a, b := line[(i+k)%n], line[(j+k)%n]
		switch {
		case a == b:
			k++
			continue
		case a > b:
			i += k + 1
		default:
			j += k + 1
		}
		if i == j {
			j++
		}
		k = 0
	}
	var h uint64
	for k, start := 0, min(i, j); k < n; k++ {
		h = (h^line[(start+k)%n])*1099511628211 + 1
	}
	return h
}

// unit notes a unit that follows a number.
func (r *reader) unit(low string) bool {
	v, ok := shortUnits[low]
	if !ok {
		if v, ok = unitNames[low]; !ok {
			return false
		}
	}
	r.s.add(units, hash("unit", v))
	return true
}

// dependent reports whether the text leans on what was said before.
func (r *reader) dependent() bool {
	const little = 2 // content words that do not make a question of their own
	return r.pronouns > 0 && r.s.words <= little
}

// isName reports whether a word in the middle of a sentence is written like a name.
func isName(word string) bool {
	c, _ := utf8.DecodeRuneInString(word)
	return unicode.IsUpper(c) && len(word) > 1
}

// isIdentifier reports whether a token is one of the kind where each letter and
// its case matters: file names, versions, flags, camelCase, single letters.
func isIdentifier(token string) bool {
	letters, digits, uppers, lowers, inner := 0, 0, 0, 0, false
	for i, c := range token {
		switch {
		case unicode.IsDigit(c):
			digits++
		case unicode.IsUpper(c):
			letters++
			uppers++
			inner = inner || i > 0 && lowers > 0
		case unicode.IsLetter(c):
			letters++
			lowers++
		}
	}
	switch {
	case letters > 0 && digits > 0, inner, strings.HasPrefix(token, "-"):
		return true
	case strings.ContainsAny(token, "_@.+#:") && token != "e.g" && token != "i.e":
		return true
	}
	return letters == 1 && len(token) == 1 && token != "a" && token != "A" && token != "I" && token != "i"
}

// parseNumber reads "1,500.50", "15th", "5km" and the like: the value written in
// one way, and a unit that stands close.
func parseNumber(token string) (value, unit string, ok bool) {
	end := 0
	for end < len(token) && (token[end] >= '0' && token[end] <= '9' || token[end] == ',' || token[end] == '.') {
		end++
	}
	if end == 0 || token[0] == '.' || token[0] == ',' {
		return "", "", false
	}
	digits := strings.ReplaceAll(strings.TrimRight(token[:end], ".,"), ",", "")
	unit = strings.ToLower(token[end:])
	switch _, known := shortUnits[unit]; {
	case strings.Count(digits, ".") > 1:
		return "", "", false // a version
	case unit == "st" || unit == "nd" || unit == "rd" || unit == "th" || unit == "s":
		unit = ""
	case unit != "" && !known && unitNames[unit] == "":
		return "", "", false // an identifier that begins with a digit
	}
	return plainNumber(digits), unit, true
}

// plainNumber writes equal numbers equally, as far as float64 tells them apart.
func plainNumber(digits string) string {
	if f, err := strconv.ParseFloat(digits, 64); err == nil && len(digits) <= 15 {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return digits
}

// stemmed cuts the commonest English endings, so that "resets" is "reset".
func stemmed(w string) string {
	for _, end := range [...]string{"ing", "ed", "es", "s"} {
		base, ok := strings.CutSuffix(w, end)
		if !ok || len(base) < 4 || strings.HasSuffix(w, "ss") {
			continue
		}
		if n := len(base); end != "s" && base[n-1] == base[n-2] {
			return base[:n-1] // resetting, planned
		}
		return strings.TrimSuffix(base, "e")
	}
	return strings.TrimSuffix(w, "e")
}
