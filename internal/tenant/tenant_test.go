package tenant

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func hash(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }

func set(t *testing.T, old *Set, specs ...Spec) *Set {
	t.Helper()
	s, err := New(specs, old)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func with(name, value string) *http.Request {
	r, _ := http.NewRequest("GET", "/", nil)
	r.Header.Set(name, value)
	return r
}

func TestKeysLeadToTenants(t *testing.T) {
	s := set(t, nil, Spec{Name: "a", KeySHA256: hash("ka")}, Spec{Name: "b", KeySHA256: strings.ToUpper(hash("kb")), Roles: []string{"read", "admin"}, NoFallback: true})
	for _, c := range []struct{ name, value, want string }{
		{"Authorization", "Bearer ka", "a"}, {"Authorization", "bearer  kb ", "b"}, {"X-Api-Key", "ka", "a"},
		{"Authorization", "Bearer kc", ""}, {"Authorization", "ka", ""}, {"Authorization", "Basic ka", ""}, {"X-Other", "ka", ""},
		{"Authorization", "Bearer " + hash("ka"), ""}, {"X-Api-Key", "", ""},
	} {
		got := ""
		if found := s.Find(with(c.name, c.value)); found != nil {
			got = found.Name
		}
		if got != c.want {
			t.Errorf("%s: %s: %q, want %q", c.name, c.value, got, c.want)
		}
	}
	b := s.Find(with("X-Api-Key", "kb"))
	if !b.May(Read) || b.May(Write) || !b.May(Admin) || !b.May(Read|Admin) || b.May(Read|Write) || !b.NoFallback {
		t.Errorf("%+v", b)
	}
	for _, none := range []*Set{nil, {}, set(t, nil)} {
		if none.Find(with("X-Api-Key", "whatever")) != Local {
			t.Error("without keys everybody is local")
		}
	}
	if From(t.Context()) != Local || From(Context(t.Context(), b)) != b {
		t.Error("the context does not carry the tenant")
	}
}

func TestMistakesInSpecs(t *testing.T) {
	good := hash("k")
	for want, spec := range map[string]Spec{
		"64 hex": {Name: "a", KeySHA256: "abc"}, "name": {Name: "", KeySHA256: good}, "visible": {Name: "a b", KeySHA256: good},
		"negative": {Name: "a", KeySHA256: good, Rate: -1}, "role": {Name: "a", KeySHA256: good, Roles: []string{"root"}},
	} {
		if _, err := New([]Spec{spec}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", spec, err, want)
		}
	}
	if _, err := New([]Spec{{Name: "a", KeySHA256: good}, {Name: "b", KeySHA256: good}}, nil); err == nil {
		t.Error("two tenants share a key")
	}
}

func TestRateIsKept(t *testing.T) {
	s := set(t, nil, Spec{Name: "a", KeySHA256: hash("k"), Rate: 10, Burst: 3})
	a := s.Find(with("X-Api-Key", "k"))
	now := time.Unix(1_700_000_000, 0)
	for range 3 {
		release, retry, _ := a.Admit(now)
		if retry != 0 {
			t.Fatalf("refused within the burst: %v", retry)
		}
		release()
	}
	if _, retry, limit := a.Admit(now); retry <= 0 || retry > 100*time.Millisecond || limit != "rate" {
		t.Errorf("retry after %v", retry)
	}
	now = now.Add(100 * time.Millisecond)
	if _, retry, _ := a.Admit(now); retry != 0 {
		t.Errorf("a refused request was charged: %v", retry)
	}
	// A new configuration does not hand out a new burst.
	again := set(t, s, Spec{Name: "a", KeySHA256: hash("k"), Rate: 10, Burst: 3}).Find(with("X-Api-Key", "k"))
	if _, retry, _ := again.Admit(now); retry == 0 {
		t.Error("a reload filled the bucket")
	}
}

func TestConcurrencyHoldsUnderLoad(t *testing.T) {
	s := set(t, nil, Spec{Name: "a", KeySHA256: hash("k"), Concurrency: 5})
	a := s.Find(with("X-Api-Key", "k"))
	var now, most, served atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 200 {
				release, retry, _ := a.Admit(time.Now())
				if retry > 0 {
					continue
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				served.Add(1)
				now.Add(-1)
				release()
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 || served.Load() == 0 || a.busy.Load() != 0 {
		t.Errorf("most %d, served %d, left %d", most.Load(), served.Load(), a.busy.Load())
	}
}
