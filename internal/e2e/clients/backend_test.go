package clients

import (
	"net/http/httptest"
	"testing"

	"github.com/semcached/semcached/internal/e2e"
	"github.com/semcached/semcached/internal/standin"
)

// backend is a model server to put behind semcached.
type backend struct {
	url  string
	chat string // name of a chat model it has
}

func standinBackend(t *testing.T) backend {
	srv := httptest.NewServer(standin.New(standin.Options{}))
	t.Cleanup(srv.Close)
	return backend{url: srv.URL, chat: "standin"}
}

func realBackend(t *testing.T) (b backend, missing string) {
	o, missing := e2e.RealOllama(t)
	if missing != "" {
		return b, missing
	}
	return backend{url: o.URL, chat: e2e.TinyChat}, ""
}
