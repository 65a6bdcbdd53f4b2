package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"go.uber.org/goleak"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/internal/proxy"
	"github.com/semcached/semcached/internal/standin"
	"github.com/semcached/semcached/internal/upstream"
	"github.com/semcached/semcached/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// letters embeds a text as the counts of its letters.
type letters struct{}

func (letters) Embed(_ context.Context, text string) ([]float32, string, error) {
	v := make([]float32, 26)
	for _, c := range strings.ToLower(text) {
		if c >= 'a' && c <= 'z' {
			v[c-'a']++
		}
	}
	return v, "letters", nil
}
func (letters) Threshold(string) float32 { return 0.9 }

// rig is the whole edge over a real engine and a stand-in Ollama.
type rig struct {
	t      *testing.T
	url    string
	ollama *standin.Server
	engine *cache.Engine
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	g := &rig{t: t, ollama: standin.New(standin.Options{})}
	up := httptest.NewServer(g.ollama)
	t.Cleanup(up.Close)
	u, _ := url.Parse(up.URL)
	pool, err := upstream.New(upstream.Options{URLs: []*url.URL{u}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if g.engine, err = cache.New(cache.Options{Store: mem.New(nil), Embedder: letters{}}); err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(proxy.Options{Engine: g.engine, Upstream: pool})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Proxy: p, Engine: g.engine, MaxBody: 1 << 20, Loopback: true}
	for _, c := range change {
		c(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	g.url = s.URL
	return g
}

// loaded is newRig with a cache that serves.
func loaded(t *testing.T, change ...func(*Options)) *rig {
	g := newRig(t, change...)
	if _, err := g.engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

type reply struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

func (g *rig) do(method, path, body string, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(b)}
	json.Unmarshal(b, &r.json)
	return r
}

func TestStoreAndLookup(t *testing.T) {
	g := loaded(t)
	put := g.do("POST", "/cache/store", `{"prompt":"Where is the canteen?","answer":"Second floor.","tags":["office"],"ttl_seconds":60,"durability":"sync"}`)
	if put.status != 201 || put.json["id"] != "0000000000000001" || put.json["durable"] != true {
		t.Fatalf("%d %s", put.status, put.body)
	}
	for body, kind := range map[string]string{
		`{"prompt":"Where is the canteen?"}`: "exact", `{"prompt":"where is the canteen"}`: "semantic", `{"PROMPT":"Where is the canteen?","stream":false}`: "exact",
	} {
		r := g.do("POST", "/cache/lookup", body)
		answer, _ := r.json["answer"].(map[string]any)
		if r.json["hit"] != true || r.json["kind"] != kind || r.json["id"] != put.json["id"] || answer["response"] != "Second floor." || answer["done"] != true || r.json["ttl_seconds"].(float64) > 60 {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	miss := g.do("POST", "/cache/lookup", `{"prompt":"Where is the garage?"}`)
	near, _ := miss.json["nearest"].(map[string]any)
	if miss.json["hit"] != false || miss.json["reason"] == "" || near["id"] != put.json["id"] {
		t.Errorf("%s", miss.body)
	}
	for _, body := range []string{`{"prompt":"Where is the canteen?","namespace":"b"}`, `{"prompt":"Where is the canteen?","system":"x"}`, `{"prompt":"Where is the canteen?","colour":"red"}`, `{"prompt":"Where is the canteen?","threshold":1,"options":{"seed":1}}`} {
		if r := g.do("POST", "/cache/lookup", body); r.json["hit"] != false {
			t.Errorf("%s: %s", body, r.body)
		}
	}
}

func TestTheSameQuestionByEveryRoute(t *testing.T) {
	g := loaded(t)
	chat := `"model":"standin","messages":[{"role":"user","content":"Who keeps the keys?"}],"options":{"temperature":0.5}`
	g.do("POST", "/cache/store", `{`+chat+`,"answer":{"model":"standin","message":{"role":"assistant","content":"The porter."},"done":true,"done_reason":"stop","eval_count":3}}`)
	r := g.do("POST", "/api/chat", `{`+chat+`,"stream":false}`)
	if r.header.Get("X-Semcached-Source") != "cache-exact" || !strings.Contains(r.body, "The porter.") || !strings.Contains(r.body, `"eval_count":3`) {
		t.Errorf("%v %s", r.header, r.body)
	}
	g.do("POST", "/api/generate", `{"model":"standin","prompt":"How deep is the well?"}`)
	if r := g.do("POST", "/cache/lookup", `{"model":"Standin:latest","prompt":"How deep is the well?"}`); r.json["kind"] != "exact" || !strings.Contains(r.body, "How deep") {
		t.Errorf("%s", r.body)
	}
	if n := g.ollama.Calls("/api/chat"); n != 0 {
		t.Errorf("%d calls of the model for a stored question", n)
	}
}

func TestEntries(t *testing.T) {
	g := loaded(t)
	g.do("POST", "/cache/store", `{"model":"m","prompt":"x y z","answer":"a","tags":["t"],"namespace":"n"}`)
	r := g.do("GET", "/cache/entries/0000000000000001", "")
	if r.json["prompt"] != "x y z" || r.json["model"] != "m:latest" || r.json["provider"] != "api" || r.json["semantic"] != true || !strings.Contains(r.body, `"response":"a"`) || strings.Contains(r.body, "vector") {
		t.Errorf("%s", r.body)
	}
	for _, c := range []struct {
		method, id string
		status     int
	}{{"GET", "zz", 400}, {"GET", "00000000000000ff", 404}, {"DELETE", "1", 400}, {"DELETE", "0000000000000001", 204}, {"DELETE", "0000000000000001", 404}, {"GET", "0000000000000001", 404}} {
		if r := g.do(c.method, "/cache/entries/"+c.id, ""); r.status != c.status || c.status != 204 && r.json["status"] != float64(c.status) {
			t.Errorf("%v: %d %s", c, r.status, r.body)
		}
	}
}

func TestInvalidateByEverySelection(t *testing.T) {
	for sel, want := range map[string]string{
		`{"tag":"t"}`: `{"deleted":1,"matched":1}`, `{"model":"M"}`: `{"deleted":1,"matched":1}`, `{"namespace":"n"}`: `{"deleted":1,"matched":1}`,
		`{"prompt":"p two"}`: `{"deleted":1,"matched":1}`, `{"all":true}`: `{"deleted":2,"matched":2}`, `{"all":true,"dry_run":true}`: `{"deleted":0,"matched":2}`, `{"tag":"none"}`: `{"deleted":0,"matched":0}`,
	} {
		g := loaded(t)
		g.do("POST", "/cache/store", `{"model":"m","prompt":"p one","answer":"a","tags":["t"]}`)
		g.do("POST", "/cache/store", `{"model":"k","prompt":"p two","answer":"a","namespace":"n"}`)
		if r := g.do("POST", "/cache/invalidate", sel); r.status != 200 || r.body != want {
			t.Errorf("%s: %d %s", sel, r.status, r.body)
		}
	}
}

func TestExplainAndStats(t *testing.T) {
	g := loaded(t)
	g.do("POST", "/cache/store", `{"prompt":"What is 15% of 240?","answer":"36"}`)
	x := g.do("POST", "/cache/explain", `{"prompt":"What is 15% of 420?"}`)
	if x.json["outcome"] != "miss" || x.json["reason"] != "guard-numbers" || !strings.Contains(x.body, `"verdict":"guard-numbers"`) || !strings.Contains(x.body, `"canonical":{"model":"-:latest","prompt":"What is 15% of 420?"}`) {
		t.Errorf("%s", x.body)
	}
	g.do("POST", "/cache/lookup", `{"prompt":"What is 15% of 240?"}`)
	g.do("POST", "/cache/lookup", `{"prompt":"What is 15% of 420?"}`)
	s := g.do("GET", "/cache/stats", "")
	if s.json["entries"] != 1.0 || !strings.Contains(s.body, `"hits":{"exact":1,"semantic":0,"stale":0}`) || !strings.Contains(s.body, `"guard-numbers":1`) || !strings.Contains(s.body, `"flat":{"bytes":`) {
		t.Errorf("%s", s.body)
	}
}

func TestCallersVectors(t *testing.T) {
	g := loaded(t)
	g.do("POST", "/cache/store", `{"prompt":"the colour red","vector":[1,0],"answer":"FF0000"}`)
	if r := g.do("POST", "/cache/lookup", `{"prompt":"colour red","vector":[0.99,0.1]}`); r.json["kind"] != "semantic" {
		t.Errorf("%s", r.body)
	}
	for _, route := range []string{"lookup", "store", "explain"} {
		for vector, want := range map[string]string{"[1,2,3]": "dimensions", "[0,0]": "zero", "[]": "dimensions"} {
			r := g.do("POST", "/cache/"+route, `{"prompt":"x","answer":"y","vector":`+vector+`}`)
			if r.status != 422 || !strings.Contains(r.body, want) || !strings.Contains(r.body, "vector: ") {
				t.Errorf("%s %s: %d %s", route, vector, r.status, r.body)
			}
		}
	}
}

func TestBadInputIsAProblem(t *testing.T) {
	g := loaded(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		detail             string
	}{
		{"POST", "/cache/lookup", "", 400, "not a JSON object"}, {"POST", "/cache/lookup", "null", 400, "not a JSON object"}, {"POST", "/cache/lookup", "[1]", 400, "not a JSON object"},
		{"POST", "/cache/lookup", `{"prompt":5}`, 400, "prompt"}, {"POST", "/cache/lookup", `{"messages":"x"}`, 400, "messages"},
		{"POST", "/cache/lookup", `{"prompt":"x","threshold":7}`, 400, "threshold: 7"}, {"POST", "/cache/lookup", `{"prompt":"x","threshold":"a"}`, 400, "threshold: wrong type"},
		{"POST", "/cache/lookup", `{"prompt":"x","vector":["a"]}`, 400, "vector: wrong type"}, {"POST", "/cache/lookup", `{"prompt":"x","vector":[1e39]}`, 400, "vector: wrong type or out of range"},
		{"POST", "/cache/store", `{"prompt":"x","answer":"a","ttl_seconds":-1}`, 400, "ttl_seconds"}, {"POST", "/cache/store", `{"prompt":"x","answer":"a","ttl_seconds":1.5}`, 400, "ttl_seconds"},
		{"POST", "/cache/store", `{"prompt":"x","answer":"a","tags":["a b"]}`, 400, "tags"}, {"POST", "/cache/store", `{"prompt":"x","answer":"a","namespace":"a b"}`, 400, "namespace"},
		{"POST", "/cache/store", `{"prompt":"x","answer":"a","durability":"maybe"}`, 400, "durability"},
		{"POST", "/cache/store", `{"prompt":"x"}`, 422, "answer: is missing"}, {"POST", "/cache/store", `{"prompt":"x","answer":" "}`, 422, "answer: is empty"},
		{"POST", "/cache/store", `{"prompt":"x","answer":5}`, 422, "answer:"}, {"POST", "/cache/store", `{"prompt":"x","answer":{"response":"half","done":false}}`, 422, "no final object"},
		{"POST", "/cache/store", `{"prompt":"x","answer":{"response":"half","done":true,"done_reason":"length"}}`, 422, "length"}, {"POST", "/cache/store", `{"prompt":"x","answer":{"error":"boom"}}`, 422, "error"},
		{"POST", "/cache/store", `{"prompt":"","answer":"a"}`, 422, "never cached: load"},
		{"POST", "/cache/store", `{"prompt":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "larger than 1048576"},
		{"POST", "/cache/invalidate", `{}`, 400, "nothing is selected"}, {"POST", "/cache/invalidate", `{"dry_run":true}`, 400, "nothing is selected"},
		{"POST", "/cache/invalidate", `{"tagg":"x"}`, 400, "tagg"}, {"POST", "/cache/invalidate", `{"all":"yes"}`, 400, "selection"}, {"POST", "/cache/invalidate", ``, 400, "selection"},
		{"GET", "/cache/lookup", "", 405, "use POST"}, {"PUT", "/cache/entries/0000000000000001", "", 405, "use GET, DELETE"}, {"GET", "/cache/nope", "", 404, "no such route"}, {"GET", "/cache", "", 404, "no such route"},
	} {
		r := g.do(c.method, c.path, c.body)
		if r.status != c.status || r.header.Get("Content-Type") != "application/problem+json" || r.json["status"] != float64(c.status) || r.json["title"] == "" || !strings.Contains(fmt.Sprint(r.json["detail"]), c.detail) {
			t.Errorf("%s %s %.80s: %d %s", c.method, c.path, c.body, r.status, r.body)
		}
	}
	if s := g.engine.Stats(); s.Entries != 0 {
		t.Errorf("%d entries were stored", s.Entries)
	}
}

func TestWhileLoadingTheProxyServesAndTheCacheAPIDoesNot(t *testing.T) {
	g := newRig(t)
	r := g.do("POST", "/cache/lookup", `{"prompt":"x"}`)
	if r.status != 503 || r.header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := g.do("POST", "/api/chat", `{"model":"standin","messages":[{"role":"user","content":"x"}]}`); r.status != 200 || r.header.Get("X-Semcached-Reason") != "loading" {
		t.Errorf("%d %v", r.status, r.header)
	}
}

func TestOtherRoutesReachOllama(t *testing.T) {
	g := newRig(t)
	for _, c := range []struct {
		method, path, want string
		status             int
	}{{"GET", "/", "Ollama is running", 200}, {"HEAD", "/", "", 200}, {"GET", "/api/tags", "standin:latest", 200}, {"GET", "/api/nope", "404 page not found", 404}, {"GET", "/v1/models", "standin", 200}, {"GET", "/api/chat", "404 page not found", 404}, {"GET", "/debug/pprof/", "not found", 404}} {
		if r := g.do(c.method, c.path, ""); r.status != c.status || !strings.Contains(r.body, c.want) || r.header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.status, r.body)
		}
	}
}

func TestBrowsersNeedLeave(t *testing.T) {
	g := loaded(t, func(o *Options) { o.Origins = []string{"https://app.example", "https://*.team.example"} })
	for _, c := range []struct {
		method, host, origin string
		status               int
	}{
		{"GET", "", "", 200}, {"GET", "evil.example", "", 403}, {"GET", "box.internal:1", "", 200}, {"GET", "192.168.1.5:11435", "", 200}, {"GET", "8.8.8.8", "", 403},
		{"GET", "LOCALHOST:5", "", 200}, {"GET", "localhost.evil.example", "", 403},
		{"GET", "", "https://evil.example", 403}, {"GET", "", "http://localhost:3000", 200}, {"GET", "", "vscode-webview://x", 200}, {"GET", "", "https://app.example", 200},
		{"GET", "", "https://a.team.example", 200}, {"GET", "", "https://team.example", 403}, {"GET", "", "null", 403}, {"GET", "", "http://localhost.evil.example", 403},
		{"OPTIONS", "", "http://localhost:3000", 204}, {"OPTIONS", "", "https://evil.example", 403},
	} {
		var headers []string
		if c.host != "" {
			headers = append(headers, "Host", c.host)
		}
		if c.origin != "" {
			headers = append(headers, "Origin", c.origin)
		}
		r := g.do(c.method, "/cache/stats", "", headers...)
		if r.status != c.status || r.status == 403 && r.body != "" {
			t.Errorf("%+v: %d %s", c, r.status, r.body)
		}
		if c.origin != "" && r.status < 400 && (r.header.Get("Access-Control-Allow-Origin") != c.origin || r.header.Get("Vary") != "Origin") {
			t.Errorf("%+v: %v", c, r.header)
		}
		if c.status == 204 && !strings.Contains(r.header.Get("Access-Control-Allow-Headers"), "X-Semcached-Mode") {
			t.Errorf("%v", r.header)
		}
	}
	open := loaded(t, func(o *Options) { o.Loopback = false })
	if r := open.do("GET", "/cache/stats", "", "Host", "cache.example"); r.status != 200 {
		t.Errorf("not bound to loopback: %d", r.status)
	}
}

func TestPanicsAreAnErrorInTheCallersProtocol(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Engine = nil; o.Engine = panicking{} })
	if r := g.do("GET", "/cache/stats", ""); r.status != 500 || r.json["title"] != "Internal Server Error" || strings.Contains(r.body, "boom") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

type panicking struct{ Engine }

func (panicking) Stats() cache.Stats { panic("boom") }

// TestOpenAPIMatchesTheRoutes holds the document against what is served.
func TestOpenAPIMatchesTheRoutes(t *testing.T) {
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	if err := yaml.Unmarshal(openAPI, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Fatalf("%q %v", doc.OpenAPI, err)
	}
	var documented, served []string
	for path, item := range doc.Paths {
		for method := range item {
			if method != "parameters" {
				documented = append(documented, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, rt := range (cacheAPI{}).routes() {
		served = append(served, rt.method+" "+strings.Replace(rt.path, ":id", "{id}", 1))
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented\n%s\nserved\n%s", documented, served)
	}
	g := loaded(t)
	if r := g.do("GET", "/cache/openapi.yaml", ""); r.body != string(openAPI) {
		t.Error("the served document is another one")
	}
	g.do("POST", "/cache/store", `{"prompt":"a b","answer":"x"}`)
	for route, c := range map[string]struct{ method, path, body, status string }{
		"/cache/store": {"post", "/cache/store", `{"prompt":"c","answer":"x"}`, "201"}, "/cache/explain": {"post", "/cache/explain", `{"prompt":"c"}`, "200"},
		"/cache/stats": {"get", "/cache/stats", "", "200"}, "/cache/invalidate": {"post", "/cache/invalidate", `{"tag":"none"}`, "200"},
		"/cache/entries/{id}": {"get", "/cache/entries/0000000000000001", "", "200"},
	} {
		r := g.do(strings.ToUpper(c.method), c.path, c.body)
		for _, key := range required(doc.Paths[route][c.method], c.status) {
			if _, ok := r.json[key]; !ok {
				t.Errorf("%s: no %q in %s", route, key, r.body)
			}
		}
		known := properties(doc.Paths[route][c.method], c.status)
		for key := range r.json {
			if known != nil && !slices.Contains(known, key) {
				t.Errorf("%s: the answer has an undocumented %q: %s", route, key, r.body)
			}
		}
	}
}

// schema returns a part of the schema of a documented answer.
func schema(operation any, status, part string) any {
	at := operation
	for _, step := range []string{"responses", status, "content", "application/json", "schema", part} {
		m, _ := at.(map[string]any)
		at = m[step]
	}
	return at
}

// properties returns the fields that a documented answer may have, nil if that is
// not said in place.
func properties(operation any, status string) (keys []string) {
	m, _ := schema(operation, status, "properties").(map[string]any)
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// required returns the fields that a documented answer must have.
func required(operation any, status string) (keys []string) {
	list, _ := schema(operation, status, "required").([]any)
	for _, k := range list {
		keys = append(keys, fmt.Sprint(k))
	}
	return keys
}

func FuzzReadQuestion(f *testing.F) {
	f.Add([]byte(`{"prompt":"x","vector":[1,2],"threshold":0.5,"tags":["a"],"ttl_seconds":5,"answer":"y"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := readQuestion(body)
		if err == nil {
			q.query("t").Key()
			readAnswer(q.request, q.answer, time.Unix(0, 0))
		}
	})
}
