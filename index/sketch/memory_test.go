package sketch

import "runtime"

// memory is the bytes of live objects.
type memory uint64

func (m *memory) read() {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	*m = memory(s.HeapAlloc)
}
