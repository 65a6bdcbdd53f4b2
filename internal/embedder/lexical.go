package embedder

import (
	"context"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	lexicalDims = 512
	// lexicalSpace changes whenever the vectors do.
	lexicalSpace = "lexical-1/512"
	// lexicalThreshold separates the pairs of lexical_test.go: rewordings
	// that keep the content words lie above it, other questions below.
	lexicalThreshold = 0.85

	maxLexical = 64 << 10 // bytes of a text that are read
)

// Lexical embeds a text as hashed counts of its words, pairs of words, and runs of
// characters ("feature hashing", Weinberger et al., ICML 2009). It needs no model
// and no network, in any language.
//
// It recognises near-identical wording: other case, punctuation, word forms,
// courtesies. It knows no synonyms and no meaning: "reset my password" and "I
// cannot log in" are unrelated to it, and a question with one word changed may
// come close. Traditional and simplified Chinese are different characters to it.
// The zero value is ready for use.
type Lexical struct{}

// NewLexical returns the lexical embedder.
func NewLexical() *Lexical { return &Lexical{} }

// Threshold returns the lexical embedder's own.
func (*Lexical) Threshold(string) float32 { return lexicalThreshold }

// Embed never fails but for texts without any letter or digit (ErrBadVector).
func (*Lexical) Embed(_ context.Context, text string) ([]float32, string, error) {
	v := make([]float32, lexicalDims)
	if len(text) > maxLexical {
		text = strings.ToValidUTF8(text[:maxLexical], "")
	}
	l := lexer{counts: v}
	l.read(strings.ToLower(norm.NFKC.String(text)))
	var sum float64
	for i, x := range v {
		// Sublinear: a word said four times weighs twice.
		x = float32(math.Copysign(math.Sqrt(math.Abs(float64(x))), float64(x)))
		v[i] = x
		sum += float64(x) * float64(x)
	}
	if sum == 0 {
		return nil, "", fmt.Errorf("%w: no words", ErrBadVector)
	}
	scale := float32(1 / math.Sqrt(sum))
	for i := range v {
		v[i] *= scale
	}
	return v, lexicalSpace, nil
}

// Weights of the features, before the square root.
const (
	wordWeight     = 4.0
	pairWeight     = 0.5
	gramWeight     = 0.35
	hanWeight      = 1.5
	hanPairWeight  = 2.0
	scaffoldWeight = 0.04 // what a courtesy keeps of its word's weight
)

// lexer adds the features of a text to counts.
type lexer struct {
	counts   []float32
	previous string // the last content word
	lastHan  string
}

func (l *lexer) read(text string) {
	text = hanScaffold.Replace(text)
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case unicode.Is(unicode.Han, r) || unicode.In(r, unicode.Hiragana, unicode.Katakana):
			l.han(text[:n])
			text = text[n:]
		case inWord(r):
			end := strings.IndexFunc(text, func(r rune) bool { return !inWord(r) })
			if end < 0 {
				end = len(text)
			}
			l.lastHan = ""
			l.word(text[:end])
			text = text[end:]
		default:
			if !unicode.IsSpace(r) {
				l.lastHan = ""
			}
			text = text[n:]
		}
	}
}

func inWord(r rune) bool {
	return (unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)) &&
		!unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana)
}

// han adds a character and the pair it makes with the one before.
func (l *lexer) han(c string) {
	l.add("h", "", c, hanWeight)
	if l.lastHan != "" {
		l.add("hh", l.lastHan, c, hanPairWeight)
	}
	l.lastHan = c
	l.previous = ""
}

func (l *lexer) word(w string) {
	if scaffoldWords[w] {
		l.add("w", "", w, wordWeight*scaffoldWeight)
		return
	}
	w = trimEnding(w)
	l.add("w", "", w, wordWeight)
	if l.previous != "" {
		l.add("ww", l.previous, w, pairWeight)
	}
	l.previous = w
	grams := "^" + w + "$"
	for size := 3; size <= 4; size++ {
		for i := 0; i+size <= len(grams); i++ {
			l.add("g", "", grams[i:i+size], gramWeight)
		}
	}
}

// trimEnding folds the commonest English forms of a word.
func trimEnding(w string) string {
	for _, end := range [...]string{"ing", "ed", "es", "s"} {
		if base, ok := strings.CutSuffix(w, end); ok && len(base) >= 4 && !strings.HasSuffix(w, "ss") {
			if n := len(base); end != "s" && base[n-1] == base[n-2] {
				return base[:n-1]
			}
			return strings.TrimSuffix(base, "e")
		}
	}
	return strings.TrimSuffix(w, "e")
}

// add counts a feature. Its hash picks the component and the sign, so that
// collisions cancel out on average.
func (l *lexer) add(kind, a, b string, weight float32) {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{kind, a, b} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ 0x1ff) * 1099511628211
	}
	h ^= h >> 29
	if h>>63 != 0 {
		weight = -weight
	}
	l.counts[h%lexicalDims] += weight
}

// scaffoldWords shape a question; other words say what it is about.
var scaffoldWords = func() map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(`a an the and or of to in on at by for with from as is are was were be been am do does did can
		could would should will may might have has had i me my we us our you your it its this that these those what whats which
		who when where why how please kindly tell explain describe show give say know want need like help there here so just s t
		really briefly about if define definition mean means meaning hi hello hey thanks thank ok well some any`) {
		m[w] = true
	}
	return m
}()

// hanScaffold takes out what shapes a Chinese question.
var hanScaffold = func() *strings.Replacer {
	var pairs []string
	for _, w := range strings.Fields(`请问一下 请问 请你 请 麻烦 帮我 告诉我 给我 我想知道 想知道 解释一下 解释 说明一下 说明 介绍一下 介绍
		是什么意思 什么是 是什么 什么 怎么样 怎样 怎么 如何 应该 可以 能够 一下 有哪些 哪些 哪个 吗 呢 吧 啊 呀 了 的 地 得 是 我要 我想 我`) {
		pairs = append(pairs, w, "")
	}
	return strings.NewReplacer(pairs...)
}()
