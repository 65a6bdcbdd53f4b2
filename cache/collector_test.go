package cache

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestCollectorComesBackAfterTheLast(t *testing.T) {
	for held := 1; held > 0; runtime.Gosched() { // by starts of other tests
		collector.mu.Lock()
		held = collector.held
		collector.mu.Unlock()
	}
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
