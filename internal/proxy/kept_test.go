package proxy

import (
	"net/http"
	"sync"
	"testing"
)

// The event of the call that made an answer says what was kept, and only that one's.
func TestEventsTellWhatWasKept(t *testing.T) {
	gate := make(chan struct{})
	collapsed := make(chan struct{}, 10)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		<-gate
		ollama(w, r)
	}, func(o *Options) { o.Hooks.Collapsed = func() { collapsed <- struct{}{} } })
	var both sync.WaitGroup
	for range 3 {
		both.Go(func() {
			g.post("/api/chat", chat("Why is the sky blue?", ""), "X-Semcached-Namespace", "n", "X-Semcached-Tags", "a,b")
		})
	}
	<-collapsed
	<-collapsed
	close(gate)
	both.Wait()
	var kept []*Kept
	for range 3 {
		if e := <-g.events; e.Kept != nil {
			kept = append(kept, e.Kept)
		}
	}
	if len(kept) != 1 {
		t.Fatalf("%d calls say that they kept an answer", len(kept))
	}
	if k := kept[0]; k.Op != "chat" || k.Namespace != "n" || len(k.Tags) != 2 || k.Answer.Content != "Blue light." || len(k.Canonical) == 0 {
		t.Errorf("%+v", k)
	}
	for what, headers := range map[string][]string{"a hit": {"X-Semcached-Namespace", "n"}, "no-store": {"Cache-Control", "no-store"}} {
		g.post("/api/chat", chat("Why is the sky blue?", ""), headers...)
		if e := <-g.events; e.Kept != nil {
			t.Errorf("%s: %+v", what, e.Kept)
		}
	}
}
