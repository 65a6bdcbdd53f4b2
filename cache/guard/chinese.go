package guard

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// chinese reads the facts of Chinese text. It has no words, so lexicons are
// looked up as substrings, longest first where one is part of another.
func (r *reader) chinese(text string) {
	s := r.s
	for _, w := range zhTimely {
		s.timely = s.timely || strings.Contains(text, w)
	}
	for _, f := range zhFormats {
		if strings.Contains(text, f) {
			s.add(formats, hash("format", f))
		}
	}
	for _, u := range zhUnits {
		if strings.Contains(text, u.text) {
			s.add(units, hash("unit", u.unit))
			break
		}
	}
	for _, q := range zhQuestions {
		if strings.Contains(text, q.text) {
			s.add(questions, hash("question", q.kind))
			break
		}
	}
	for _, p := range zhPoles {
		if strings.Contains(text, p.text) {
			r.addPole(p.pair, p.negative)
		}
	}
	for _, p := range zhPersons {
		if strings.Contains(text, p) {
			s.add(persons, hash("person", p))
		}
	}
	for _, p := range zhPronouns {
		if strings.Contains(text, p) {
			r.pronouns++
		}
	}
	for _, w := range zhRelations {
		s.related = s.related || strings.Contains(text, w)
	}
	core := zhScaffold.Replace(text)
	r.negations += countAny(zhNeutral.Replace(core), zhNegators)
	r.zhNumbers(zhIdioms.Replace(core))
	r.zhContent(core)
}

func countAny(text string, words []string) (n int) {
	for _, w := range words {
		n += strings.Count(text, w)
	}
	return n
}

// zhContent counts the characters that are left, two to a word, and keeps them
// for comparison.
func (r *reader) zhContent(core string) {
	var b strings.Builder
	n := 0
	for _, c := range core {
		if strings.ContainsRune(zhNumerals, c) || unicode.IsDigit(c) {
			continue // compared as numbers
		}
		if isHan(c) {
			b.WriteRune(c)
			r.mix(string(c))
			n++
		} else if wordRune(c) {
			b.WriteRune(c)
		}
	}
	r.s.words += (n + 1) / 2
	if n > 0 && b.Len() <= maxHan {
		r.s.han = b.String()
	}
}

// zhNumbers reads runs of Chinese numerals.
func (r *reader) zhNumbers(text string) {
	for len(text) > 0 {
		end := 0
		for end < len(text) {
			c, n := utf8.DecodeRuneInString(text[end:])
			if !strings.ContainsRune(zhNumerals, c) {
				break
			}
			end += n
		}
		if end == 0 {
			_, n := utf8.DecodeRuneInString(text)
			text = text[n:]
			continue
		}
		if run := text[:end]; run != "一" {
			r.s.add(numbers, hash("number", zhValue(run)))
		}
		text = text[end:]
	}
}

const zhNumerals = "零〇一二三四五六七八九十百千万亿两"

// zhValue writes a numeral in digits: 三百二十 is 320, 二〇二五 is 2025.
func zhValue(run string) string {
	if !strings.ContainsAny(run, "十百千万亿") {
		var b strings.Builder
		for _, c := range run {
			b.WriteByte('0' + byte(zhDigit(c)))
		}
		return plainNumber(b.String())
	}
	var total, section, digit float64
	for _, c := range run {
		switch c {
		case '十', '百', '千':
			if digit == 0 {
				digit = 1
			}
			section += digit * map[rune]float64{'十': 10, '百': 100, '千': 1000}[c]
			digit = 0
		case '万', '亿':
			total = (total + section + digit) * map[rune]float64{'万': 1e4, '亿': 1e8}[c]
			section, digit = 0, 0
		default:
			digit = float64(zhDigit(c))
		}
	}
	return plainNumber(strings.TrimSuffix(formatFloat(total+section+digit), ".0"))
}

func zhDigit(c rune) int {
	switch c {
	case '〇':
		return 0
	case '两':
		return 2
	}
	return strings.Index("零一二三四五六七八九", string(c)) / len("零")
}
