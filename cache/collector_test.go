package cache

import (
	"runtime/debug"
	"testing"
)

func TestCollectorComesBackAfterTheLast(t *testing.T) {
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	percent := func() int {
		p := debug.SetGCPercent(-1)
		debug.SetGCPercent(p)
		return p
	}
	holdCollector()
	holdCollector()
	releaseCollector()
	if got := percent(); got != -1 {
		t.Errorf("%d while a snapshot is read", got)
	}
	releaseCollector()
	if got := percent(); got != 70 {
		t.Errorf("%d afterwards, want 70", got)
	}
}
