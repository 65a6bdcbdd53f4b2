package standin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

const stamp = `"created_at":"[0-9T:.Z-]+"`

// TestSpeaksOllamasFormat holds the answers against the shapes of a real server.
func TestSpeaksOllamasFormat(t *testing.T) {
	s := httptest.NewServer(New(Options{}))
	defer s.Close()
	counters := `"total_duration":\d+,"load_duration":\d+,"prompt_eval_count":2,"prompt_eval_duration":\d+,"eval_count":\d+,"eval_duration":\d+}`
	for _, c := range []struct {
		path, body string
		status     int
		kind, want string
	}{
		{"/api/chat", `{"model":"Standin","messages":[{"role":"user","content":"<hi>"}]}`, 200, "application/x-ndjson",
			`(?s)^{"model":"Standin",` + stamp + `,"message":{"role":"assistant","content":"You "},"done":false}\n.*\\u003chi\\u003e.*{"model":"Standin",` + stamp + `,"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",` + counters + `\n$`},
		{"/api/generate", `{"model":"standin","prompt":"hi","stream":false}`, 200, "application/json; charset=utf-8",
			`^{"model":"standin",` + stamp + `,"response":"You asked: hi [^"]+","done":true,"done_reason":"stop","context":\[1,2,3\],` + counters + `$`},
		{"/api/chat", `{"model":"standin"}`, 200, "application/json; charset=utf-8", `"message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}$`},
		{"/api/generate", `{"model":"standin","keep_alive":0}`, 200, "application/json; charset=utf-8", `"response":"","done":true,"done_reason":"unload"}$`},
		{"/api/chat", `{"model":"nope","messages":[]}`, 404, "application/json; charset=utf-8", `^{"error":"model 'nope' not found"}$`},
		{"/api/chat", `{"messages":[]}`, 400, "application/json; charset=utf-8", `^{"error":"model is required"}$`},
		{"/api/chat", ``, 400, "application/json; charset=utf-8", `^{"error":"missing request body"}$`},
		{"/api/chat", `{`, 400, "application/json; charset=utf-8", `^{"error":"unexpected EOF"}$`},
		{"/api/embed", `{"model":"standin-embed","input":["a b","a b"]}`, 200, "application/json; charset=utf-8", `"embeddings":\[\[0\.`},
		{"/api/embed", `{"model":"standin-embed","input":5}`, 400, "application/json; charset=utf-8", `^{"error":"invalid input type"}$`},
		{"/nope", ``, 404, "text/plain", `^404 page not found$`},
	} {
		resp, err := http.Post(s.URL+c.path, "", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := strings.NewReplacer("{", `\{`, "}", `\}`).Replace(c.want)
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.kind || !regexp.MustCompile(want).Match(b) {
			t.Errorf("%s %s: %d %s\n%s\nwant %s", c.path, c.body, resp.StatusCode, resp.Header.Get("Content-Type"), b, want)
		}
	}
}

func TestFaults(t *testing.T) {
	srv := New(Options{})
	s := httptest.NewServer(srv)
	defer s.Close()
	for fault, want := range map[Fault]string{
		Reset: "reset|EOF", NoDone: `"done":false}\n$`, ErrorLine: `{"error":"an error was encountered while running the model"}\n$`,
		Refuse: `^{"error":"server busy`, Garbage: "<html>",
	} {
		srv.Fail(fault)
		resp, err := http.Post(s.URL+"/api/chat", "", strings.NewReader(`{"model":"standin","messages":[{"content":"hi"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		got := string(b)
		if err != nil {
			got = err.Error()
		}
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("fault %d: %q", fault, got)
		}
	}
	if n := srv.Calls("/api/chat"); n != 5 {
		t.Errorf("%d calls", n)
	}
	if body, size := srv.Last("/api/chat"); size == 0 || !strings.Contains(string(body), "hi") {
		t.Errorf("%q %d", body, size)
	}
}
