package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/mem"
)

// brokenDisk is a store whose commits fail.
type brokenDisk struct{ *mem.Store }

func (brokenDisk) Put(_ *store.Record, _ bool, done func(error)) error {
	if done != nil {
		go done(store.ErrFull)
	}
	return nil
}

// onDisk returns a rig whose answers go to s.
func onDisk(t *testing.T, s store.Store, change ...func(*Options)) *rig {
	e, err := cache.New(cache.Options{Store: s, Embedder: words{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return newRig(t, nil, append(change, func(o *Options) { o.Engine = e })...)
}

func TestClientThatAsksForDurabilityIsToldOfAFailure(t *testing.T) {
	broken := onDisk(t, brokenDisk{mem.New(nil)})
	sound := onDisk(t, mem.New(nil))
	sync := []string{"X-Semcached-Durability", "sync", "X-Semcached-Mode", "exact"}
	const message = "could not be made durable"
	chat := func(stream, question string) string {
		return `{"model":"m","stream":` + stream + `,"messages":[{"role":"user","content":"` + question + `"}]}`
	}
	for _, c := range []struct{ path, done string }{{"/api/chat", `"done":true`}, {"/v1/chat/completions", "[DONE]"}} {
		r := broken.do("POST", c.path, chat("true", "Which light is this?"), sync...)
		if r.status != 200 || !strings.Contains(r.body, "light.") || !strings.Contains(r.body, message) || c.path == "/api/chat" && strings.Contains(r.body, c.done) {
			t.Errorf("%s, stream: %d %s", c.path, r.status, r.body)
		}
		r = broken.do("POST", c.path, chat("false", "Which light is that?"), sync...)
		if r.status != 200 || r.header.Get("X-Semcached-Durability") != "failed" || !strings.Contains(r.body, "Blue light.") {
			t.Errorf("%s, whole: %d %v %s", c.path, r.status, r.header, r.body)
		}
		r = sound.do("POST", c.path, chat("true", "Which light is this?"+c.path), sync...)
		if r.status != 200 || !strings.Contains(r.body, c.done) || strings.Contains(r.body, message) {
			t.Errorf("%s, stream on a sound disk: %d %s", c.path, r.status, r.body)
		}
		r = sound.do("POST", c.path, chat("false", "Which light is that?"+c.path), sync...)
		if r.status != 200 || r.header.Get("X-Semcached-Durability") != "sync" {
			t.Errorf("%s, whole on a sound disk: %d %v", c.path, r.status, r.header)
		}
		r = broken.do("POST", c.path, chat("true", "Who asks for nothing?"+c.path))
		if r.status != 200 || !strings.Contains(r.body, c.done) || strings.Contains(r.body, message) {
			t.Errorf("%s, without the wish: %d %s", c.path, r.status, r.body)
		}
	}
}

// TestConfiguredDurabilityLetsTheAnswerPass: nobody asked; the answer comes whole, and
// is not kept.
func TestConfiguredDurabilityLetsTheAnswerPass(t *testing.T) {
	g := onDisk(t, brokenDisk{mem.New(nil)}, func(o *Options) { o.Sync = true })
	const question = `{"model":"m","messages":[{"role":"user","content":"Which light is this?"}]}`
	for range 2 {
		r := g.do("POST", "/api/chat", question)
		if r.status != http.StatusOK || !strings.Contains(r.body, `"done":true`) || r.header.Get("X-Cache") != "MISS" {
			t.Errorf("%d %v %s", r.status, r.header, r.body)
		}
	}
	whole := g.do("POST", "/api/chat", `{"stream":false,`+question[1:])
	if whole.header.Get("X-Semcached-Durability") != "failed" {
		t.Errorf("%v", whole.header)
	}
}
