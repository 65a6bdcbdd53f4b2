package guard

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Pairs of our own writing. near must be refused by the guard named; same must pass.
var near = []struct{ veto, a, b string }{
	{"numbers", "What is 15% of 240?", "What is 15% of 420?"},
	{"numbers", "Summarise the film in 50 words", "Summarise the film in fifty-five words"},
	{"numbers", "Convert 1,500 metres to yards", "Convert 1,050 metres to yards"},
	{"numbers", "Write three names for a cat", "Write seven names for a cat"},
	{"numbers", "把 37 乘以 24", "把 37 乘以 42"},
	{"numbers", "介绍三种茶", "介绍五种茶"},
	{"numbers", "2023年春节是哪天", "2025年春节是哪天"},
	{"numbers", "Which films won prizes in 1994?", "Which films won prizes in 1949?"},
	{"units", "How hot is 30 celsius for a dog?", "How hot is 30 fahrenheit for a dog?"},
	{"units", "Is 5 km a long walk?", "Is 5 m a long walk?"},
	{"units", "水在4摄氏度时密度多大", "水在4华氏度时密度多大"},
	{"units", "Is a 20% tip rude?", "Is a $20 tip rude?"},
	{"dates", "Why is the bridge shut on Monday?", "Why is the bridge shut on Friday?"},
	{"dates", "Rainfall in Lisbon in May", "Rainfall in Lisbon in June"},
	{"negation", "Which vitamins dissolve in water?", "Which vitamins do not dissolve in water?"},
	{"negation", "Can I freeze cooked rice?", "Why can't I freeze cooked rice?"},
	{"negation", "哪些植物喜欢阳光", "哪些植物不喜欢阳光"},
	{"negation", "没有糖的饮料推荐", "有糖的饮料推荐"},
	{"polarity", "How do I enable the firewall?", "How do I disable the firewall?"},
	{"polarity", "Turn the porch light on", "Turn the porch light off"},
	{"polarity", "What are the advantages of solar power?", "What are the disadvantages of solar power?"},
	{"polarity", "打开飞行模式", "关闭飞行模式"},
	{"polarity", "我国最大的湖", "我国最小的湖"},
	{"polarity", "Name the largest moon of Saturn", "Name the smallest moon of Saturn"},
	{"identifiers", "What does git reset --soft do?", "What does git reset --hard do?"},
	{"identifiers", "Explain os.ReadFile", "Explain os.ReadDir"},
	{"identifiers", "What is error E1042?", "What is error E1024?"},
	{"identifiers", "Solve for x in this equation", "Solve for y in this equation"},
	{"identifiers", "numpy 1.26.1 release notes", "numpy 2.1.1 release notes"},
	{"identifiers", "myList or mylist?", "myList or myList?"},
	{"quoted", `Translate "good morning" into French`, `Translate "good evening" into French`},
	{"quoted", "What does `defer` do?", "What does `panic` do?"},
	{"quoted", "《红楼梦》的作者", "《西游记》的作者"},
	{"names", "How big is Kyoto?", "How big is Kobe?"},
	{"names", "Who founded the company of Anna Berg?", "Who founded the company of Otto Berg?"},
	{"names", "Translate this menu into Spanish", "Translate this menu into Swedish"},
	{"script", "How tall is Mount Fuji?", "富士山有多高？"},
	{"format", "Give the planets as JSON", "Give the planets as a table"},
	{"format", "用表格列出行星", "用列表列出行星"},
	{"quantifier", "Do all spiders spin webs?", "Do some spiders spin webs?"},
	{"question", "Who built the lighthouse?", "When was the lighthouse built?"},
	{"question", "How many pages has the atlas?", "How old is the atlas?"},
	{"question", "谁发明了纸", "什么时候发明了纸"},
	{"person", "Review my essay on rivers", "Review your essay on rivers"},
	{"order", "Convert the draft into the report", "Convert the report into the draft"},
	{"order", "Did the dog bite the man?", "Did the man bite the dog?"},
	{"order", "Which ferry sails at 0 true false?", "Which ferry sails at 0 false true?"},
	{"order", "which owl hunts mouse", "which mouse hunts owl"},
	{"order", "Trains from Lyon to Turin", "Trains from Turin to Lyon"},
	{"order", "上海到成都的火车", "成都到上海的火车"},
	{"substitution", "Dosage of paracetamol for children", "Dosage of ibuprofen for children"},
	{"substitution", "how do i reset the router", "how do i choose the router"},
	{"substitution", "苏州有哪些园林", "扬州有哪些园林"},
	{"substitution", "李白的诗风", "杜甫的诗风"},
	{"addition", "What is a Docker container?", "What is a Docker container image?"},
	{"addition", "What is the melting point?", "What is the melting point of copper?"},
	{"addition", "如何重置密码", "如何重置邮箱密码"},
	{"addition", "红烧肉的做法", "素红烧肉的做法"},
	{"length", "Describe the water cycle", "Describe the water cycle, then compare rain over oceans with rain over deserts, mention evaporation speeds, clouds, rivers, glaciers, groundwater and human use"},
	{"empty", "???", "!!!"},
	{"empty", "🙂", "🙁"},
}

var same = []struct{ a, b string }{
	{"What is a Docker container?", "what's a docker container"},
	{"What is a Docker container?", "Please explain what a Docker container is."},
	{"What is the capital of France?", "Tell me the capital of France"},
	{"What is the capital of France?", "Which city is the capital of France?"},
	{"What is the capital of France?", "Tell me the capital city of France"},
	{"How does photosynthesis work?", "Explain in simple terms how photosynthesis works"},
	{"How do I reset the router?", "how can i reset my router"},
	{"How do I reset the router?", "Resetting the router: how?"},
	{"Convert 1,500 metres to yards", "convert 1500 meters to yards"},
	{"List two uses for vinegar", "List 2 uses for vinegar"},
	{"Why is the sky blue?", "Could you tell me why the sky is blue?"},
	{"How does photosynthesis work?", "Explain how photosynthesis works"},
	{"Turn the porch light off", "Switch the porch light off"},
	{"What does `defer` do?", "Explain what `defer` does"},
	{"如何重置密码", "请问如何重置密码？"},
	{"如何重置密码", "怎么重置密码"},
	{"什么是光合作用？", "光合作用是什么"},
	{"能不能介绍一下黄山", "介绍一下黄山"},
	{"三种茶的区别", "3种茶的区别"},
	{"长城有多长", "请问长城有多长？"},
	{"水在４摄氏度时的密度", "水在4摄氏度时的密度"},
	{"???", "???"},
}

func TestNearMissesAreVetoed(t *testing.T) {
	for _, c := range near {
		if got := Sign(c.a).Veto(Sign(c.b)); got != c.veto {
			t.Errorf("%q and %q: veto %q, want %q", c.a, c.b, got, c.veto)
		}
	}
}

func TestParaphrasesPass(t *testing.T) {
	for _, c := range same {
		if got := Sign(c.a).Veto(Sign(c.b)); got != "" {
			t.Errorf("%q and %q: vetoed by %q", c.a, c.b, got)
		}
	}
}

func TestVetoIsSymmetric(t *testing.T) {
	for _, c := range near {
		a, b := Sign(c.a), Sign(c.b)
		if a.Veto(b) != b.Veto(a) {
			t.Errorf("%q and %q: %q one way, %q the other", c.a, c.b, a.Veto(b), b.Veto(a))
		}
		if v := a.Veto(Sign(c.a)); v != "" {
			t.Errorf("%q is refused against itself: %q", c.a, v)
		}
	}
}

func TestTimeSensitive(t *testing.T) {
	for text, want := range map[string]bool{
		"What is the latest stable release of Go?": true, "Weather in Paris today": true, "Events this week": true,
		"今天北京天气": true, "现在几点": true, "目前的汇率": true,
		"What is the capital of France?": false, "How long is a week?": false, "长城有多长": false,
	} {
		if got := Sign(text).TimeSensitive(); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestContextDependent(t *testing.T) {
	for text, want := range map[string]bool{
		"Can you make it shorter?": true, "And the other one?": true, "continue": true, "Explain that again": true,
		"那个呢": true, "继续": true,
		"Is it safe to freeze cooked rice twice?": false, "What is the capital of France?": false, "长城有多长": false,
	} {
		if got := Sign(text).ContextDependent(); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestNumbersAreReadInEveryWriting(t *testing.T) {
	for _, c := range [][]string{
		{"1,500", "1500", "1500.0", "１５００", "一千五百"}, {"12", "twelve", "十二", "dozen"}, {"320", "三百二十"},
		{"2025", "二〇二五"}, {"10000", "一万"}, {"200", "两百", "二百"},
	} {
		want := Sign("测 " + c[0] + " 量").sets[numbers]
		for _, w := range c[1:] {
			if got := Sign("测 " + w + " 量").sets[numbers]; len(got) != 1 || len(want) != 1 || got[0] != want[0] {
				t.Errorf("%s is not read as %s", w, c[0])
			}
		}
	}
}

func TestVetoAllocatesNothing(t *testing.T) {
	a, b := Sign(same[1].a), Sign(same[1].b)
	if n := testing.AllocsPerRun(100, func() { a.Veto(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHugeTextsDifferBehindTheLimit(t *testing.T) {
	long := strings.Repeat("the tide comes in ", maxText/10)
	if Sign(long+"at dawn").Veto(Sign(long+"at dusk")) == "" {
		t.Error("texts that differ late were taken for the same")
	}
	if v := Sign(long).Veto(Sign(long)); v != "" {
		t.Errorf("vetoed by %q against itself", v)
	}
}

func FuzzVeto(f *testing.F) {
	for _, c := range near {
		f.Add(c.a, c.b)
	}
	f.Fuzz(func(t *testing.T, x, y string) {
		a, b := Sign(x), Sign(y)
		if a.Veto(b) != b.Veto(a) {
			t.Fatalf("%q one way, %q the other", a.Veto(b), b.Veto(a))
		}
		if v := a.Veto(Sign(x)); v != "" {
			t.Fatalf("%q is refused against itself: %q", x, v)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	for name, text := range map[string]string{"bytes=60": same[1].b, "bytes=2k": strings.Repeat("How do harbours keep 30 ships from drifting? ", 45)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Sign(text)
			}
		})
	}
}

func BenchmarkVeto(b *testing.B) {
	x, y := Sign(same[1].a), Sign(same[1].b)
	b.ReportAllocs()
	for b.Loop() {
		x.Veto(y)
	}
}

func TestCycleIsTheSameForAllRotations(t *testing.T) {
	for round := range 2000 {
		line := make([]uint64, rand.IntN(9))
		for i := range line {
			line[i] = rand.Uint64N(3) // few values: many ties
		}
		want := cycle(line)
		for i := range line {
			if turned := slices.Concat(line[i:], line[:i]); cycle(turned) != want {
				t.Fatalf("round %d: %v and %v differ", round, line, turned)
			}
		}
	}
	if cycle([]uint64{1, 2, 3}) == cycle([]uint64{3, 2, 1}) {
		t.Error("a swap is not seen")
	}
	for _, p := range [][2]string{{"In Lisbon, when does it rain?", "When does it rain in Lisbon?"}} {
		if v := Sign(p[0]).Veto(Sign(p[1])); v != "" {
			t.Errorf("%q: %s", p, v)
		}
	}
}
