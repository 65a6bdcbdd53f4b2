package embedder

import (
	"errors"
	"strings"
	"testing"
)

func cosine(a, b []float32) (s float32) {
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

func lexical(t testing.TB, text string) []float32 {
	t.Helper()
	v, space, err := NewLexical().Embed(t.Context(), text)
	if err != nil || space != lexicalSpace {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

var reworded = [][2]string{
	{"What is a Docker container?", "what's a docker container"},
	{"What is a Docker container?", "Please explain what a Docker container is."},
	{"What is a Docker container?", "Tell me, what are Docker containers?"},
	{"How do I reset the router?", "how can i reset my router"},
	{"Why is the sky blue?", "Could you explain why the sky is blue?"},
	{"How does photosynthesis work?", "how does photosynthesis work???"},
	{"What is the capital of France?", "Tell me the capital of France please"},
	{"如何重置密码", "请问如何重置密码？"},
	{"如何重置密码", "怎么重置密码呢"},
	{"什么是光合作用？", "光合作用是什么"},
	{"ＡＢＣ１２３ 是什么", "abc123是什么？"},
}

var different = [][2]string{
	{"How do I reset my password?", "How do I change my password?"},
	{"How do I reset my password?", "How do I reset my router?"},
	{"What is the capital of France?", "What is the capital of Spain?"},
	{"Why is the sky blue?", "Why is the sea salty?"},
	{"Write a poem about rain", "Write a poem about snow"},
	{"How many moons has Mars?", "How many rings has Saturn?"},
	{"如何重置密码", "如何重置路由器"},
	{"苏州有哪些园林", "扬州有哪些寺庙"},
	{"怎么做红烧肉", "怎么做糖醋鱼"},
	{"What is a Docker container?", "什么是容器"},
}

func TestLexicalThresholdSeparatesRewordingsFromOtherQuestions(t *testing.T) {
	for _, p := range reworded {
		if s := cosine(lexical(t, p[0]), lexical(t, p[1])); s < lexicalThreshold {
			t.Errorf("%q ~ %q: %.3f", p[0], p[1], s)
		}
	}
	for _, p := range different {
		if s := cosine(lexical(t, p[0]), lexical(t, p[1])); s >= lexicalThreshold {
			t.Errorf("%q / %q: %.3f", p[0], p[1], s)
		}
	}
}

func TestLexicalVectorsAreUnitAndStable(t *testing.T) {
	v := lexical(t, "The tide comes in twice a day")
	if s := cosine(v, v); s < 0.9999 || s > 1.0001 {
		t.Errorf("length %v", s)
	}
	// Stored vectors outlive the process: a change of the features must change lexicalSpace.
	var sum float32
	for i, x := range v {
		sum += x * float32(i%7)
	}
	if sum < 7.40 || sum > 7.42 {
		t.Errorf("fingerprint %v", sum)
	}
}

func TestLexicalRefusesTextsWithoutWords(t *testing.T) {
	for _, text := range []string{"", " ", "?!", "🙂", "\x00"} {
		if _, _, err := NewLexical().Embed(t.Context(), text); !errors.Is(err, ErrBadVector) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzLexical(f *testing.F) {
	f.Add("What is a container? 容器")
	f.Fuzz(func(t *testing.T, text string) {
		v, _, err := NewLexical().Embed(t.Context(), text)
		if err != nil {
			return
		}
		if s := cosine(v, v); !(s > 0.999 && s < 1.001) {
			t.Fatalf("%q: length %v", text, s)
		}
	})
}

func BenchmarkLexical(b *testing.B) {
	for name, text := range map[string]string{"bytes=60": reworded[1][1], "bytes=2k": strings.Repeat("How do harbours keep ships from drifting? ", 48)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewLexical().Embed(b.Context(), text)
			}
		})
	}
}
