// Package guard vetoes semantic candidates whose text is near the question's in
// the vector space but asks for something else.
//
// A Signature is read once from each text; Veto compares two of them. Guards
// only ever refuse: they never make a hit. They know English and Chinese; of
// other languages they compare numbers, identifiers, quotes, names and scripts.
// All functions are pure.
//
// The lexicons are short and meant for the commonest ways in which near texts
// differ. What they do not know passes: the threshold stands behind them, and a
// substitution of a single word is refused whatever the word.
package guard

import "slices"

// Signature holds what must agree between two texts that ask the same thing:
// some hundred bytes of sorted hashes. It is immutable and safe for concurrent use.
type Signature struct {
	sets [kinds][]uint64 // sorted; multisets of hashed facts

	order uint64 // hash of the content words in their order
	cycle uint64 // the same, from whichever word they are begun
	bag   uint64 // hash of the content words in any order
	words int    // number of content words
	han   string // Chinese text without its scaffolding; "" if long

	script     script
	negated    bool // an odd number of negations
	related    bool // a word such as "to" or "than" gives the order a meaning
	timely     bool
	contextual bool
}

// kind is a sort of fact. The sets of some kinds must be equal; of others they
// must not contradict each other.
type kind uint8

const (
	numbers     kind = iota // must be equal
	units                   // must be equal
	dates                   // must be equal
	identifiers             // must be equal
	quoted                  // must be equal
	formats                 // must be equal
	quantifiers             // must be equal where both have some
	questions               // likewise
	persons                 // likewise
	poles                   // signed words: "on" and "off" contradict each other
	names                   // each must occur among the other's words
	vocabulary              // all words, for names
	content                 // words that carry meaning, stemmed
	kinds
)

// vetoes are the names of the guards that compare sets, by kind.
var vetoes = [...]string{
	numbers: "numbers", units: "units", dates: "dates", identifiers: "identifiers", quoted: "quoted",
	formats: "format", quantifiers: "quantifier", questions: "question", persons: "person",
}

// TimeSensitive reports whether the text asks about now: its answer changes
// while the text does not.
func (s *Signature) TimeSensitive() bool { return s.timely }

// ContextDependent reports whether the text makes no sense without the
// conversation before it ("make it shorter").
func (s *Signature) ContextDependent() bool { return s.contextual }

// Veto returns the name of the first guard that refuses to take s and t for the
// same question: script, numbers, units, dates, identifiers, quoted, format,
// negation, polarity, quantifier, question, person, names, length, order,
// substitution, addition or empty; "" if none does. It is symmetric and allocates nothing.
func (s *Signature) Veto(t *Signature) string {
	if s.script != t.script {
		return "script"
	}
	if s.words == 0 || t.words == 0 {
		return s.vetoEmpty(t)
	}
	for k := numbers; k <= formats; k++ {
		if !slices.Equal(s.sets[k], t.sets[k]) {
			return vetoes[k]
		}
	}
	if s.negated != t.negated {
		return "negation"
	}
	if contradict(s.sets[poles], t.sets[poles]) {
		return "polarity"
	}
	for k := quantifiers; k <= persons; k++ {
		a, b := s.sets[k], t.sets[k]
		if len(a) > 0 && len(b) > 0 && !slices.Equal(a, b) {
			return vetoes[k]
		}
	}
	if !contains(t.sets[vocabulary], s.sets[names]) || !contains(s.sets[vocabulary], t.sets[names]) {
		return "names"
	}
	return s.vetoWords(t)
}

// vetoEmpty judges texts without words: only the same signs ask the same.
func (s *Signature) vetoEmpty(t *Signature) string {
	if s.words == t.words && s.order == t.order && slices.Equal(s.sets[numbers], t.sets[numbers]) {
		return ""
	}
	return "empty"
}

// vetoWords compares the content words as a whole.
func (s *Signature) vetoWords(t *Signature) string {
	const muchLonger, least = 3, 8 // times as many words, and that many more
	few, many := min(s.words, t.words), max(s.words, t.words)
	if many > muchLonger*few && many-few >= least {
		return "length"
	}
	if s.bag == t.bag && s.order != t.order && (s.related || t.related || s.cycle != t.cycle) {
		// The dog bit the man. A phrase that has moved to the other end
		// ("in Lisbon, when ...") leaves the cycle as it was.
		return "order"
	}
	a, b := missing(s.sets[content], t.sets[content]), missing(t.sets[content], s.sets[content])
	x, y := hanDifference(s.han, t.han)
	switch {
	case a == 1 && b == 1, x > 0 && y > 0 && max(x, y) <= shortRun:
		return "substitution"
	case a == 0 && b > 0 && few <= shortText && !fill(t.sets[content], s.sets[content]),
		b == 0 && a > 0 && few <= shortText && !fill(s.sets[content], t.sets[content]),
		min(x, y) == 0 && max(x, y) > 0 && min(len(s.han), len(t.han)) <= shortHan:
		return "addition"
	}
	return ""
}

const (
	// shortText is the number of content words up to which one more makes
	// another question of it: "melting point", "melting point of copper".
	// Of such pairs in public collections hardly more than half ask the same.
	shortText = 4
	shortHan  = 6 * 3 // the same in bytes of Chinese characters
	shortRun  = 4 * 3 // bytes of a run of characters that stands for another
)

// fill reports whether what more has beyond less are words that add nothing.
func fill(more, less []uint64) bool {
	for _, h := range more {
		if !has(less, h) && !fillers[h] {
			return false
		}
	}
	return true
}

// contradict reports whether a pole of a is the opposite of one of b that a does
// not have itself. A pole is a hash whose lowest bit is its sign.
func contradict(a, b []uint64) bool {
	for _, p := range a {
		if has(b, p^1) && !has(b, p) {
			return true
		}
	}
	for _, p := range b {
		if has(a, p^1) && !has(a, p) {
			return true
		}
	}
	return false
}

func has(set []uint64, h uint64) bool {
	_, ok := slices.BinarySearch(set, h)
	return ok
}

func contains(set, all []uint64) bool { return missing(all, set) == 0 }

// missing counts the elements of a that are not in b, up to 2.
func missing(a, b []uint64) (n int) {
	for i, h := range a {
		if i > 0 && a[i-1] == h {
			continue
		}
		if !has(b, h) {
			if n++; n == 2 {
				return n
			}
		}
	}
	return n
}

// hanDifference returns how many bytes of two Chinese texts are left when what
// they begin and end with alike is taken off: 苏州 and 扬州 of 苏州园林 and 扬州园林.
// It is 0 and 0 if either text is not known.
func hanDifference(a, b string) (x, y int) {
	if a == "" || b == "" || a == b {
		return 0, 0
	}
	pre := 0
	for pre < min(len(a), len(b)) && a[pre] == b[pre] {
		pre++
	}
	for pre > 0 && !(runeStart(a, pre) && runeStart(b, pre)) {
		pre--
	}
	end := 0
	for end < min(len(a), len(b))-pre && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	for end > 0 && !(runeStart(a, len(a)-end) && runeStart(b, len(b)-end)) {
		end--
	}
	return len(a) - pre - end, len(b) - pre - end
}

func runeStart(s string, i int) bool { return i >= len(s) || s[i]&0xC0 != 0x80 }
