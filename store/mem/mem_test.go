package mem_test

import (
	"testing"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/mem"
	"github.com/semcached/semcached/store/storetest"
)

func TestMemConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		records := new(mem.Records)
		return func() store.Store { return mem.New(records) }
	})
}
