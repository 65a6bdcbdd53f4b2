package cache

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// collector holds the garbage collector back while snapshots are read: almost all that
// is allocated then stays, and marking it again and again took a quarter of a start
// (go run ./bench/start -n 1000000 -profile, 2 vCPUs). A memory limit (GOMEMLIMIT)
// holds all the same.
var collector struct {
	mu      sync.Mutex
	held    int // snapshots being read
	percent int // to return to
}

func holdCollector() {
	collector.mu.Lock()
	defer collector.mu.Unlock()
	if collector.held++; collector.held == 1 {
		collector.percent = debug.SetGCPercent(-1)
	}
}

// releaseCollector collects once and then lets the collector go as before. It takes as
// long as that, and is run beside the first lookups: were the collector let go at once, it
// would be far behind its goal, and make whoever allocates do its work.
func releaseCollector() {
	runtime.GC()
	collector.mu.Lock()
	defer collector.mu.Unlock()
	if collector.held--; collector.held == 0 {
		debug.SetGCPercent(collector.percent)
	}
}
