package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/semcached/semcached/internal/filter"
)

func filtering(t *testing.T, rules ...filter.Rule) func(*Options) {
	f, err := filter.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Filter = f }
}

// spoken answers with text in pieces of three bytes, or whole.
func spoken(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		const end = `"done":true,"done_reason":"stop","eval_count":2}`
		if strings.Contains(string(body), `"stream":false`) {
			io.WriteString(w, `{"model":"Reef",`+at+`"message":{"role":"assistant","content":"`+text+`"},`+end)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		for rest := text; rest != ""; {
			n := min(3, len(rest))
			io.WriteString(w, `{"model":"Reef",`+at+`"message":{"role":"assistant","content":"`+rest[:n]+`"},"done":false}`+"\n")
			rest = rest[n:]
		}
		io.WriteString(w, `{"model":"Reef",`+at+`"message":{"role":"assistant","content":""},`+end+"\n")
	}
}

func TestFilterRedactsEverywhere(t *testing.T) {
	secret := filter.Rule{Name: "code-name", Words: []string{"falcon"}, Action: filter.Redact}
	flagged := filter.Rule{Name: "sky", Match: "sky", Action: filter.Flag}
	for _, shape := range []string{"", `,"stream":false`} {
		for _, how := range [][]string{nil, {"Cache-Control", "no-store"}} {
			var hits []string
			g := newRig(t, spoken("The sky project is Falcon, yes."), filtering(t, secret, flagged), func(o *Options) {
				o.Hooks.Filtered = func(rule, action string) { hits = append(hits, rule+" "+action) }
			})
			r := g.post("/api/chat", chat("x", shape), how...)
			if got := content(t, r); got != "The sky project is [redacted], yes." {
				t.Errorf("%s %v: %q", shape, how, got)
			}
			if e := <-g.events; len(hits) != 2 || strings.Join(e.Filtered, " ") != "sky code-name" && strings.Join(e.Filtered, " ") != "code-name sky" {
				t.Errorf("%q %+v", hits, e.Filtered)
			}
			if how != nil {
				continue
			}
			if _, answer, err := g.engine.Entry("local", 1); err != nil || strings.Contains(string(answer), "Falcon") {
				t.Errorf("stored as it was said: %v", err)
			}
			for _, path := range []string{"/api/chat", "/v1/chat/completions"} {
				if r := g.post(path, chat("x", shape)); strings.Contains(r.body, "alcon") || path == "/api/chat" && r.cache() != "HIT" {
					t.Errorf("%s: %s %s", path, r.cache(), r.body)
				}
			}
		}
	}
}

// An entry that is older than the rules is filtered as it leaves.
func TestFilterCoversOldEntries(t *testing.T) {
	g := newRig(t, spoken("The project is Falcon."))
	g.post("/api/chat", chat("x", ""))
	filtering(t, filter.Rule{Name: "r", Words: []string{"falcon"}, Action: filter.Redact})(&g.proxy.o)
	if r := g.post("/api/chat", chat("x", "")); r.cache() != "HIT" || content(t, r) != "The project is [redacted]." {
		t.Errorf("%s %s", r.cache(), r.body)
	}
	filtering(t, filter.Rule{Name: "r", Words: []string{"falcon"}, Action: filter.Block})(&g.proxy.o)
	if r := g.post("/api/chat", chat("x", "")); r.status != 403 || !strings.Contains(r.body, "withheld") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestFilterBlocks(t *testing.T) {
	block := filtering(t, filter.Rule{Name: "birds", Words: []string{"falcon"}, Action: filter.Block})
	g := newRig(t, spoken("Falcon is the name."), block)
	for _, shape := range []string{"", `,"stream":false`} { // at the start: nothing has left yet
		for path, want := range map[string]string{"/api/chat": `{"error":"the answer was withheld by the output filter (birds)"}`, "/v1/chat/completions": `{"error":{"message":"the answer was withheld`} {
			if r := g.post(path, chat("x", shape)); r.status != 403 || !strings.HasPrefix(r.body, want) {
				t.Errorf("%s %s: %d %s", path, shape, r.status, r.body)
			}
		}
	}
	g = newRig(t, spoken(strings.Repeat("Much is said before. ", 20)+"Falcon."), block)
	if r := g.post("/api/chat", chat("x", "")); r.status != 200 || strings.Contains(r.body, "alcon") || !strings.HasSuffix(r.body, `{"error":"the answer was withheld by the output filter (birds)"}`+"\n") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if n := g.engine.Stats().Entries; n != 0 {
		t.Errorf("%d withheld answers are stored", n)
	}
}

func TestRoutesThatCannotBeFilteredAreClosed(t *testing.T) {
	g := newRig(t, spoken("Falcon"), filtering(t, filter.Rule{Name: "r", Words: []string{"falcon"}, Action: filter.Redact}))
	for path, body := range map[string]string{
		"/v1/completions": `{"model":"Reef","prompt":"x"}`, "/v1/messages": `{}`, "/v1/responses": `{}`,
		"/v1/chat/completions": chat("x", `,"logprobs":true`),
	} {
		if r := g.post(path, body); r.status != 403 || strings.Contains(r.body, "Falcon") {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if r := g.post("/api/chat", `{"model":`); r.status != 400 {
		t.Errorf("malformed: %d %s", r.status, r.body)
	}
	if r := g.post("/v1/embeddings", `{}`); r.status != 200 {
		t.Errorf("embeddings say nothing: %d", r.status)
	}
	if r := g.post("/api/chat", chat("x", ""), "Content-Encoding", "gzip"); r.status != 403 {
		t.Errorf("encoded: %d", r.status)
	}
}
