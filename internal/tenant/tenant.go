// Package tenant knows who may ask: API keys, what their owners may do, and how
// much at a time. A tenant's name is part of every cache key, so tenants never share
// entries.
package tenant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Role is a set of rights.
type Role uint8

// The roles.
const (
	Read  Role = 1 << iota // ask, and be answered from the cache
	Write                  // have answers kept
	Admin                  // remove entries, and change models
)

var roleNames = map[string]Role{"read": Read, "write": Write, "admin": Admin}

// Spec describes a tenant. Several specs of one name are several keys of one tenant.
type Spec struct {
	Name        string
	KeySHA256   string   // hex
	Rate        float64  // requests per second; 0: no limit
	Burst       int      // default: Rate rounded up, at least 1
	Concurrency int      // requests at the same time; 0: no limit
	Roles       []string // default: read and write
	NoFallback  bool     // its questions never leave for another provider
}

// Tenant is who asks, with one key. Safe for concurrent use.
type Tenant struct {
	Name       string
	Roles      Role
	NoFallback bool

	limiter *rate.Limiter // nil: no limit
	busy    *atomic.Int64 // requests under way
	most    int64         // of busy; 0: no limit
}

// Local is the tenant of everybody while there are no keys.
var Local = &Tenant{Name: "local", Roles: Read | Write | Admin, busy: new(atomic.Int64)}

// May reports whether t has all rights of r.
func (t *Tenant) May(r Role) bool { return t.Roles&r == r }

// Set is the tenants by key. It is immutable; the zero value has none.
type Set struct{ byKey map[[sha256.Size]byte]*Tenant }

// maxName bounds a tenant's name.
const maxName = 64

// New returns a set. Keys that old had as well keep what they have used of their
// limits; old may be nil. The error lists every mistake.
func New(specs []Spec, old *Set) (*Set, error) {
	s := &Set{byKey: make(map[[sha256.Size]byte]*Tenant)}
	var errs []error
	for i, spec := range specs {
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("tenant %d (%.40q): "+format, append([]any{i + 1, spec.Name}, args...)...))
		}
		var key [sha256.Size]byte
		raw, err := hex.DecodeString(spec.KeySHA256)
		switch {
		case err != nil || len(raw) != len(key):
			fail("key_sha256 is not 64 hexadecimal digits")
			continue
		case spec.Name == "" || len(spec.Name) > maxName || strings.ContainsFunc(spec.Name, func(c rune) bool { return c <= ' ' || c > '~' }):
			fail("the name must be 1 to %d visible ASCII characters", maxName)
		case spec.Rate < 0 || math.IsNaN(spec.Rate) || math.IsInf(spec.Rate, 0) || spec.Burst < 0 || spec.Concurrency < 0:
			fail("rate, burst and concurrency must not be negative")
		}
		copy(key[:], raw)
		if s.byKey[key] != nil {
			fail("the key is another's as well")
		}
		t, err := spec.tenant()
		if err != nil {
			fail("%w", err)
		}
		s.byKey[key] = t.inherit(old.get(key))
	}
	return s, errors.Join(errs...)
}

func (spec Spec) tenant() (*Tenant, error) {
	t := &Tenant{Name: spec.Name, NoFallback: spec.NoFallback, busy: new(atomic.Int64), most: int64(spec.Concurrency)}
	if spec.Rate > 0 {
		burst := spec.Burst
		if burst == 0 {
			burst = max(1, int(math.Ceil(spec.Rate)))
		}
		t.limiter = rate.NewLimiter(rate.Limit(spec.Rate), burst)
	}
	t.Roles = Read | Write
	if spec.Roles != nil {
		t.Roles = 0
	}
	var err error
	for _, name := range spec.Roles {
		r, ok := roleNames[name]
		if !ok {
			err = fmt.Errorf("role %.20q is not read, write or admin", name)
		}
		t.Roles |= r
	}
	return t, err
}

// inherit takes over what the same key has used of its limits.
func (t *Tenant) inherit(old *Tenant) *Tenant {
	if old == nil {
		return t
	}
	t.busy = old.busy
	if t.limiter != nil && old.limiter != nil {
		limit, burst := t.limiter.Limit(), t.limiter.Burst()
		t.limiter = old.limiter
		if t.limiter.Limit() != limit || t.limiter.Burst() != burst {
			t.limiter.SetLimit(limit)
			t.limiter.SetBurst(burst)
		}
	}
	return t
}

func (s *Set) get(key [sha256.Size]byte) *Tenant {
	if s == nil {
		return nil
	}
	return s.byKey[key]
}

// Len returns the number of keys.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.byKey)
}

// Find returns the tenant of a request by its key, nil if there is none: the key
// comes as "Authorization: Bearer KEY" or, as Anthropic's SDKs send it, X-Api-Key.
// Without any keys in the set everybody is Local. Keys are compared by their
// hashes, so the time it takes tells nothing about them.
func (s *Set) Find(r *http.Request) *Tenant {
	if s.Len() == 0 {
		return Local
	}
	key := r.Header.Get("X-Api-Key")
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		key = strings.TrimSpace(token)
	}
	if key == "" {
		return nil
	}
	return s.byKey[sha256.Sum256([]byte(key))]
}

// Admit takes a place for one request; release gives it back and is called once. If
// there is none now, release is nil, retry is when to ask again, and limit names
// what is used up: "rate" or "concurrency".
func (t *Tenant) Admit(now time.Time) (release func(), retry time.Duration, limit string) {
	if n := t.busy.Add(1); t.most > 0 && n > t.most {
		t.busy.Add(-1)
		return nil, time.Second, "concurrency"
	}
	if t.limiter != nil {
		r := t.limiter.ReserveN(now, 1)
		if wait := r.DelayFrom(now); wait > 0 {
			r.CancelAt(now)
			t.busy.Add(-1)
			return nil, wait, "rate"
		}
	}
	return t.leave, 0, ""
}

func (t *Tenant) leave() { t.busy.Add(-1) }

type contextKey struct{}

// Context returns ctx with t in it.
func Context(ctx context.Context, t *Tenant) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// From returns the tenant in ctx, Local if there is none.
func From(ctx context.Context) *Tenant {
	if t, ok := ctx.Value(contextKey{}).(*Tenant); ok {
		return t
	}
	return Local
}
