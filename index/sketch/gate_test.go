package sketch

import (
	"sync"
	"testing"
)

// A counter that is written under the gate loses nothing, and readers never see it change.
func TestGateLetsOneWriterIn(t *testing.T) {
	const goroutines, each = 4, 2000
	var (
		g    gate
		a, b int
		wg   sync.WaitGroup
	)
	for range goroutines {
		wg.Go(func() {
			for range each {
				g.Lock()
				a++
				b++
				g.Unlock()
			}
		})
		wg.Go(func() {
			for range each {
				g.RLock()
				if a != b {
					t.Errorf("%d and %d are read while they are written", a, b)
				}
				g.RUnlock()
			}
		})
	}
	wg.Wait()
	if a != goroutines*each || b != a {
		t.Errorf("%d and %d after %d writes", a, b, goroutines*each)
	}
}

// Readers that are always there do not keep a writer out for ever, and a reader that stays
// for long is waited for.
func TestGateIsFair(t *testing.T) {
	var (
		g    gate
		wg   sync.WaitGroup
		stop = make(chan struct{})
	)
	for range 4 {
		wg.Go(func() {
			for {
				g.RLock()
				select {
				case <-stop:
					g.RUnlock()
					return
				default:
				}
				g.RUnlock()
			}
		})
	}
	written := 0
	for range 100 {
		g.Lock()
		written++
		g.Unlock()
	}
	g.RLock()
	in := make(chan struct{})
	go func() {
		g.Lock()
		close(in)
		g.Unlock()
	}()
	for g.writers.Load() == 0 {
	}
	select {
	case <-in:
		t.Error("a writer is let in beside a reader")
	default:
	}
	g.RUnlock()
	<-in
	close(stop)
	wg.Wait()
	if written != 100 {
		t.Errorf("%d writes", written)
	}
}
