package api

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/tenant"
)

func keyHash(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }

func tenants(t *testing.T, specs ...tenant.Spec) *tenant.Set {
	t.Helper()
	s, err := tenant.New(specs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const canteen = `{"model":"standin","prompt":"Where is the canteen?","stream":false}`

func TestKeysAndRoles(t *testing.T) {
	set := tenants(t, tenant.Spec{Name: "r", KeySHA256: keyHash("reader"), Roles: []string{"read"}},
		tenant.Spec{Name: "w", KeySHA256: keyHash("writer"), Roles: []string{"write"}},
		tenant.Spec{Name: "a", KeySHA256: keyHash("boss"), Roles: []string{"read", "write", "admin"}})
	var refused []string
	g := loaded(t, func(o *Options) {
		o.Tenants, o.Refused = set, func(reason string) { refused = append(refused, reason) }
	})
	for _, c := range []struct {
		method, path, body, key string
		status                  int
		contains                string
	}{
		{"GET", "/", "", "", 200, "Ollama is running"}, {"HEAD", "/", "", "", 200, ""},
		{"POST", "/", "", "", 401, ""},
		{"POST", "/api/chat", canteen, "", 401, `{"error":"`}, {"POST", "/api/chat", canteen, "guess", 401, `{"error":"`},
		{"POST", "/v1/chat/completions", canteen, "", 401, `"type":"authentication_error"`},
		{"POST", "/v1/messages", canteen, "", 401, `{"type":"error","error":{"type":"authentication_error"`},
		{"GET", "/cache/stats", "", "", 401, `"title":"Unauthorized"`},
		{"GET", "/api/tags", "", "", 401, ""}, {"GET", "/api/tags", "", "reader", 200, "models"},
		{"POST", "/api/generate", canteen, "reader", 200, "response"},
		{"POST", "/api/generate", canteen, "writer", 403, `{"error":"`},
		{"POST", "/cache/store", `{"prompt":"x","answer":"y"}`, "reader", 403, `"title":"Forbidden"`},
		{"POST", "/cache/store", `{"prompt":"x","answer":"y"}`, "writer", 201, ""},
		{"POST", "/cache/invalidate", `{"all":true}`, "writer", 403, ""}, {"POST", "/cache/invalidate", `{"all":true}`, "boss", 200, ""},
		{"DELETE", "/cache/entries/0000000000000001", "", "reader", 403, ""},
		{"DELETE", "/api/delete", "{}", "reader", 403, ""}, {"POST", "/api/pull", "{}", "writer", 403, ""}, {"POST", "/api/blobs/sha256:00", "", "reader", 403, ""},
		{"POST", "/api//pull", "{}", "reader", 403, ""}, {"POST", "/api/./x/../pull", "{}", "reader", 403, ""}, {"DELETE", "/whatever", "", "reader", 403, ""},
	} {
		var headers []string
		if c.key != "" {
			headers = []string{"Authorization", "Bearer " + c.key}
		}
		r := g.do(c.method, c.path, c.body, headers...)
		if r.status != c.status || !strings.Contains(r.body, c.contains) {
			t.Errorf("%s %s with %q: %d %s", c.method, c.path, c.key, r.status, r.body)
		}
		if r.status == 401 && r.header.Get("Www-Authenticate") == "" {
			t.Errorf("%s %s: 401 without a challenge", c.method, c.path)
		}
	}
	if n := g.engine.Stats().Entries; n != 1 { // the writer's; the reader's answer was not kept, and the boss has none
		t.Errorf("%d entries", n)
	}
	if len(refused) == 0 || refused[0] != "unauthorized" {
		t.Errorf("%q", refused)
	}
	if r := g.do("POST", "/v1/messages", "{}", "X-Api-Key", "reader"); r.status == 401 {
		t.Error("Anthropic's header is not read")
	}
	if r := g.do("GET", "/cache/stats", "", "Authorization", "Bearer boss"); r.json["tenant"] != "a" || r.json["entries"] != 0.0 || r.json["max_bytes"] != 0.0 || len(r.json) != 5 {
		t.Errorf("%s", r.body)
	}
}

func TestLimitsAreToldInTheCallersProtocol(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	g := loaded(t, func(o *Options) {
		o.Now = func() time.Time { return now }
		o.Tenants = tenants(t, tenant.Spec{Name: "a", KeySHA256: keyHash("k"), Rate: 0.5, Burst: 2})
	})
	key := []string{"Authorization", "Bearer k"}
	for range 2 {
		if r := g.do("GET", "/api/tags", "", key...); r.status != 200 {
			t.Fatalf("%d within the burst", r.status)
		}
	}
	for path, want := range map[string]string{"/api/chat": `{"error":"the rate limit`, "/v1/chat/completions": `"type":"rate_limit_error"`, "/v1/messages": `"rate_limit_error"`, "/cache/lookup": `"title":"Too Many Requests"`} {
		r := g.do("POST", path, canteen, key...)
		if r.status != 429 || r.header.Get("Retry-After") != "2" || r.header.Get("Retry-After-Ms") == "" || !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %v %s", path, r.status, r.header, r.body)
		}
	}
	now = now.Add(2 * time.Second)
	if r := g.do("GET", "/api/tags", "", key...); r.status != 200 {
		t.Errorf("after Retry-After: %d", r.status)
	}
}

func TestConcurrencyLimitHolds(t *testing.T) {
	g := loaded(t, func(o *Options) {
		o.Tenants = tenants(t, tenant.Spec{Name: "a", KeySHA256: keyHash("k"), Concurrency: 3}, tenant.Spec{Name: "b", KeySHA256: keyHash("l")})
	})
	release := g.ollama.Hold()
	var ok, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			switch r := g.do("POST", "/api/generate", fmt.Sprintf(`{"model":"standin","prompt":"Question number %d?","stream":false}`, i), "Authorization", "Bearer k"); r.status {
			case 200:
				ok.Add(1)
			case 429:
				refused.Add(1)
			}
		})
	}
	for end := time.Now().Add(time.Minute); refused.Load() < 7 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if r := g.do("GET", "/api/tags", "", "Authorization", "Bearer l"); r.status != 200 {
		t.Errorf("another tenant: %d", r.status)
	}
	release()
	wg.Wait()
	if ok.Load() != 3 || refused.Load() != 7 {
		t.Errorf("%d served, %d refused", ok.Load(), refused.Load())
	}
	if r := g.do("GET", "/api/tags", "", "Authorization", "Bearer k"); r.status != 200 {
		t.Errorf("the places were not given back: %d", r.status)
	}
}

func TestRouteList(t *testing.T) {
	g := loaded(t, func(o *Options) { o.Routes = []string{"POST /api/generate", "GET /api/tags", "/v1/*", "GET /"} })
	for _, c := range []struct {
		method, path string
		open         bool
	}{
		{"POST", "/api/generate", true}, {"GET", "/api/tags", true}, {"HEAD", "/api/tags", true}, {"GET", "/v1/models", true}, {"HEAD", "/", true},
		{"POST", "/api/chat", false}, {"POST", "/api/tags", false}, {"GET", "/cache/stats", false}, {"POST", "/api/pull", false},
		{"POST", "/v1/../api/pull", false}, {"POST", "//api/generate", false}, {"GET", "/v1//models", false},
	} {
		if r := g.do(c.method, c.path, canteen); (r.status != 403) != c.open {
			t.Errorf("%s %s: %d", c.method, c.path, r.status)
		}
	}
}

func TestSecurityHeadersAreEverywhere(t *testing.T) {
	g := loaded(t, func(o *Options) { o.TLS = true })
	for path, method := range map[string]string{"/api/tags": "GET", "/cache/stats": "GET", "/api/generate": "POST", "/nowhere": "GET"} {
		r := g.do(method, path, canteen)
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
			"Referrer-Policy": "no-referrer", "Strict-Transport-Security": "max-age=63072000"} {
			if r.header.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, r.header.Get(name))
			}
		}
		if r.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request ID", path)
		}
	}
	if r := loaded(t).do("GET", "/api/tags", ""); r.header.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS without TLS")
	}
}

// Many tenants ask and store the same and nearly the same things at the same time,
// through every route and with forged headers; nobody ever sees a word of another.
func TestTenantsSeeNothingOfEachOther(t *testing.T) {
	const count = 12
	var specs []tenant.Spec
	for i := range count {
		specs = append(specs, tenant.Spec{Name: fmt.Sprint("t", i), KeySHA256: keyHash(fmt.Sprint("key", i)), Roles: []string{"read", "write", "admin"}})
	}
	g := loaded(t, func(o *Options) { o.Tenants = tenants(t, specs...) })
	prompts := []string{"Where is the canteen?", "where is the canteen", "Please, where is the canteen?", "What is the wifi password?", "what is the wifi password"}
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			own, rnd := fmt.Sprintf("secret-of-t%d-", i), rand.New(rand.NewPCG(1, uint64(i)))
			for range 60 {
				other := fmt.Sprint("t", rnd.IntN(count))
				headers := []string{"Authorization", fmt.Sprint("Bearer key", i), "X-Semcached-Tenant", other, "X-Tenant", other, "X-Semcached-Namespace", other}
				prompt := prompts[rnd.IntN(len(prompts))]
				var r reply
				switch rnd.IntN(9) {
				case 0, 1:
					r = g.do("POST", "/cache/store", fmt.Sprintf(`{"prompt":%q,"answer":"%s","model":"standin","namespace":%q}`, prompt, own, other), headers...)
				case 2:
					r = g.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":%q,"model":"standin","namespace":%q,"tenant":%q}`, prompt, other, other), headers...)
				case 3:
					r = g.do("POST", "/cache/explain", fmt.Sprintf(`{"prompt":%q,"model":"standin"}`, prompt), headers...)
				case 4:
					r = g.do("POST", "/api/generate", fmt.Sprintf(`{"model":"standin","prompt":%q,"tenant":%q}`, prompt, other), headers...)
				case 5:
					r = g.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":"standin","user":%q,"messages":[{"role":"user","content":%q}]}`, other, prompt), headers...)
				case 6, 7:
					id := fmt.Sprintf("%016x", 1+rnd.IntN(200))
					r = g.do("GET", "/cache/entries/"+id, "", headers...)
				case 8:
					r = g.do("GET", "/cache/stats", "", headers...)
					if r.json["tenant"] != fmt.Sprint("t", i) {
						t.Errorf("stats of %v", r.json["tenant"])
					}
				}
				if clean := strings.ReplaceAll(r.body, own, ""); strings.Contains(clean, "secret-of-") || r.status >= http.StatusInternalServerError {
					t.Errorf("t%d saw %d %s", i, r.status, r.body)
				}
			}
		})
	}
	wg.Wait()
	// Nobody can remove another's entries either.
	entries := g.engine.Usage("t1").Entries
	for id := range 900 {
		g.do("DELETE", fmt.Sprintf("/cache/entries/%016x", id+1), "", "Authorization", "Bearer key0")
	}
	g.do("POST", "/cache/invalidate", `{"all":true}`, "Authorization", "Bearer key0")
	if mine := g.engine.Usage("t0").Entries; mine != 0 {
		t.Errorf("t0 still has %d entries", mine)
	}
	if left := g.engine.Usage("t1").Entries; left != entries || entries == 0 {
		t.Errorf("t1 had %d entries and has %d", entries, left)
	}
}
