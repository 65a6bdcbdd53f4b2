package cache

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestTenantsStayApartUnderLoad runs many tenants with the same and near
// prompts at once: nobody is ever served another tenant's answer.
func TestTenantsStayApartUnderLoad(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBytes = 256 << 10 })
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			tenant := fmt.Sprint("tenant-", n)
			for range 2000 {
				prompt := []string{paris, capital, tower, other}[rng.IntN(4)]
				q := ask(prompt, func(q *Query) { q.Tenant = tenant })
				switch res := r.Lookup(t.Context(), q); {
				case res.Kind != Miss && string(res.Answer) != tenant:
					t.Errorf("%s was served %q", tenant, res.Answer)
				case res.Kind == Miss:
					r.Store(t.Context(), q, Answer{Encoded: []byte(tenant)}, StoreOptions{})
				case rng.IntN(20) == 0:
					r.Invalidate(t.Context(), Selection{Tenant: tenant, All: true})
				}
			}
		})
	}
	wg.Wait()
	r.checkConsistent()
}

// checkConsistent compares the engine's maps with each other and the store.
func (r *rig) checkConsistent() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.policy.Items()
	if len(r.byID) != len(all) || len(r.byKey) != len(all) {
		r.t.Errorf("%d by ID, %d by key, %d in all", len(r.byID), len(r.byKey), len(all))
	}
	var bytes, answers, held int64
	members := make(map[*partition]int)
	for _, it := range all {
		en := it.Value
		bytes += en.weigh()
		answers += int64(en.answerBytes)
		if en.answer.Load() != nil {
			held += int64(en.answerBytes)
		}
		if en.removed || r.byID[en.id] != en || r.byKey[en.key] != en {
			r.t.Errorf("entry %d is not where it should be", en.id)
		}
		if en.part != nil {
			members[en.part]++
			bytes += int64(4 * en.part.index.Dims())
		}
	}
	if bytes != r.policy.Bytes() || answers != r.answerBytes || held != r.Engine.answers.bytes {
		r.t.Errorf("%d bytes counted, %d in answers, %d in memory; it holds %d, %d, %d", r.policy.Bytes(), r.answerBytes, r.Engine.answers.bytes, bytes, answers, held)
	}
	if len(members) != len(r.parts) {
		r.t.Errorf("%d partitions, %d with members", len(r.parts), len(members))
	}
	for p, n := range members {
		if p.live != n || p.index.Len() != n {
			r.t.Errorf("partition has %d members, counts %d, indexes %d", n, p.live, p.index.Len())
		}
	}
	if ids := r.store.ids(); len(ids) != len(all) {
		r.t.Errorf("%d records, %d entries", len(ids), len(all))
	}
}
