package filter

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func must(t *testing.T, rules ...Rule) *Filter {
	t.Helper()
	f, err := New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRules(t *testing.T) {
	card := Rule{Name: "cards", Match: `\b\d(?:[ -]?\d){12,15}\b`, Action: Redact}
	for _, c := range []struct {
		rules    []Rule
		in, want string
	}{
		{[]Rule{card}, "Pay 4111 1111 1111 1111 now", "Pay [redacted] now"},
		{[]Rule{card}, "12 apples", "12 apples"},
		{[]Rule{{Name: "w", Words: []string{"Falcon", "红隼"}, Action: Redact, Replacement: "—"}}, "falcon, FALCONS, 项目红隼。", "—, FALCONS, 项目—。"},
		{[]Rule{{Name: "f", Match: "x", Action: Flag}}, "axb", "axb"},
		{[]Rule{{Name: "1", Match: "a", Action: Redact, Replacement: "b"}, {Name: "2", Match: "b", Action: Redact, Replacement: "c"}}, "ab", "cc"},
		{[]Rule{{Name: "line", Match: `(?m)^key=\w{1,9}$`, Action: Redact}}, "a\nkey=1\nmonkey=2", "a\n[redacted]\nmonkey=2"},
		{nil, "as is", "as is"},
	} {
		if got, err := must(t, c.rules...).Text(c.in, nil); got != c.want || err != nil {
			t.Errorf("%q: %q %v, want %q", c.in, got, err, c.want)
		}
	}
	var hits []Hit
	f := must(t, Rule{Name: "f", Match: "x", Action: Flag}, Rule{Name: "stop", Match: "secret", Action: Block})
	out, err := f.Text("x, a secret, y", func(h Hit) { hits = append(hits, h) })
	var blocked *BlockedError
	if out != "" || !errors.As(err, &blocked) || blocked.Rule != "stop" || len(hits) != 2 || hits[0] != (Hit{"f", Flag}) {
		t.Errorf("%q %v %v", out, err, hits)
	}
	if f.Changes() != true || must(t, Rule{Name: "f", Match: "x"}).Changes() || (*Filter)(nil).Changes() {
		t.Error("Changes is wrong")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{Rule{Match: "a"}, "no name"}, {Rule{Name: "r"}, "either"}, {Rule{Name: "r", Match: "a", Words: []string{"b"}}, "either"},
		{Rule{Name: "r", Match: "("}, "missing"}, {Rule{Name: "r", Match: "a+"}, "longer than"}, {Rule{Name: "r", Match: ".*"}, "longer than"},
		{Rule{Name: "r", Match: "(?:.{600}){2}"}, "repeat"}, {Rule{Name: "r", Match: ".{900}.{900}"}, "longer than"},
		{Rule{Name: "r", Match: "a{2,}"}, "longer than"}, {Rule{Name: "r", Match: "^a"}, "stream"}, {Rule{Name: "r", Match: `a\z`}, "stream"},
		{Rule{Name: "r", Match: "a?"}, "empty"}, {Rule{Name: "r", Match: `\b`}, "empty"}, {Rule{Name: "r", Match: `a|(?:b{0,2}\b)`}, "empty"}, {Rule{Name: "r", Words: []string{" "}}, "empty"},
	} {
		if _, err := New([]Rule{c.rule}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.rule, err)
		}
	}
	if _, err := ParseAction("x"); err == nil {
		t.Error("x is an action")
	}
}

// However a text is cut into pieces, the stream gives what the whole gives, and the
// whole is what the regular expression itself replaces.
func TestStreamsAndWholesAgree(t *testing.T) {
	patterns := []string{`\bab\b`, `a{2,3}`, `(?m)^b`, `b(?m:$)`, `aba|ab`, `\B-`, `(?i)É?a`, `[a-b]{1,5}\b`}
	alphabet := []rune("ab-\n é")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 4000 {
		pattern := patterns[round%len(patterns)]
		f := must(t, Rule{Name: "r", Match: pattern, Action: Redact, Replacement: "#"})
		var b strings.Builder
		for range rng.IntN(60) {
			b.WriteRune(alphabet[rng.IntN(len(alphabet))])
		}
		text := b.String()
		want := regexp.MustCompile(pattern).ReplaceAllString(text, "#")
		s := f.Stream(nil)
		var got strings.Builder
		runes := []rune(text)
		for len(runes) > 0 {
			n := 1 + rng.IntN(min(len(runes), 9))
			piece, err := s.Write(string(runes[:n]))
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString(piece)
			runes = runes[n:]
		}
		tail, _ := s.Close()
		got.WriteString(tail)
		if got.String() != want {
			t.Fatalf("%s on %q: %q, want %q", pattern, text, got.String(), want)
		}
	}
}

func TestStreamsDoNotHoldBackMoreThanTheyMust(t *testing.T) {
	s := must(t, Rule{Name: "r", Match: `secret`, Action: Redact}).Stream(nil)
	held := 0
	for range 1000 {
		out, _ := s.Write("word ")
		held += 5 - len(out)
	}
	if held > 6*4+4 {
		t.Errorf("%d bytes are held back", held)
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(`\bx{1,3}`, "axx x", 2)
	f.Fuzz(func(t *testing.T, pattern, text string, cut int) {
		fl, err := New([]Rule{{Name: "r", Match: pattern, Action: Redact}})
		if err != nil {
			return
		}
		text = strings.ToValidUTF8(text, "")
		runes := []rune(text)
		whole, _ := fl.Text(text, nil)
		s := fl.Stream(nil)
		cut = max(0, min(cut, len(runes)))
		a, _ := s.Write(string(runes[:cut]))
		b, _ := s.Write(string(runes[cut:]))
		c, _ := s.Close()
		if a+b+c != whole {
			t.Fatalf("%q on %q cut at %d: %q, want %q", pattern, text, cut, a+b+c, whole)
		}
	})
}

func BenchmarkText(b *testing.B) {
	f, err := New([]Rule{{Name: "cards", Match: `\b\d(?:[ -]?\d){12,15}\b`, Action: Redact}, {Name: "w", Words: []string{"falcon"}, Action: Redact}})
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("A plain sentence of an answer, 42 words long. ", 45)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		f.Text(text, nil)
	}
}
