package coder_test

import (
	"io"
	"testing"

	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/coder"
	"github.com/semcached/semcached/index/indextest"
)

func TestCoderConforms(t *testing.T) {
	indextest.Run(t, indextest.Config{
		New:  func(dims int) index.Index { return coder.New(dims) },
		Load: func(r io.Reader) (index.Index, error) { return coder.Load(r) },
	})
}
