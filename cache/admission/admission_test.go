package admission

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func hash(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func TestSketchNeverForgetsWithinASample(t *testing.T) {
	s := NewSketch(1000)
	rng := rand.New(rand.NewPCG(1, 1))
	counts := make(map[uint64]int)
	for range 5000 {
		k := hash(uint64(rng.ExpFloat64() * 100))
		counts[k]++
		s.Add(k)
	}
	over := 0
	for k, n := range counts {
		got := s.Estimate(k)
		if got < min(n, mostUse) {
			t.Errorf("estimate %d of %d uses", got, n)
		}
		over += got - min(n, mostUse)
	}
	if over > len(counts)/20 {
		t.Errorf("%d too many on %d keys", over, len(counts))
	}
	unseen := 0
	for i := range uint64(1000) {
		unseen += s.Estimate(hash(1_000_000 + i))
	}
	if unseen > 50 {
		t.Errorf("1000 keys never seen count %d uses", unseen)
	}
}

func TestSketchAgesByHalves(t *testing.T) {
	s := NewSketch(2)
	for range 8 {
		s.Add(hash(1))
	}
	s.Age()
	if got := s.Estimate(hash(1)); got != 8 {
		t.Errorf("aged after 8 additions: %d", got)
	}
	for i := range uint64(sampleSize * keysInside) {
		s.Add(hash(1 + i%2))
	}
	for range 2 { // the second time there is nothing to do
		s.Age()
		if got := s.Estimate(hash(1)); got != mostUse/2 {
			t.Errorf("%d after ageing, want %d", got, mostUse/2)
		}
	}
}

func TestSketchGrowsWithItsCounts(t *testing.T) {
	s := NewSketch(64)
	for i := range uint64(64) {
		for range i % 10 {
			s.Add(hash(i))
		}
	}
	before := s.Bytes()
	s.Grow(10_000)
	if s.Bytes() < 100*before {
		t.Errorf("grew from %d to %d bytes", before, s.Bytes())
	}
	for i := range uint64(64) {
		if got := s.Estimate(hash(i)); got < int(i%10) {
			t.Errorf("key %d counts %d after growth", i, got)
		}
	}
}

func TestSketchIsSafeForConcurrentUse(t *testing.T) {
	s := NewSketch(16)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(10_000) {
				s.Add(hash(i % 50))
				s.Estimate(hash(i))
				s.Age()
			}
		})
	}
	for n := range 100 {
		s.Grow(16 * n)
	}
	wg.Wait()
}

func TestUseAllocatesNothing(t *testing.T) {
	p := New[int](1<<20, 0)
	if n := testing.AllocsPerRun(100, func() { p.Use(12345) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var start = time.Unix(1_700_000_000, 0)

// rig is a policy with what it holds.
type rig struct {
	*testing.T
	*Policy[uint64]
	held map[uint64]*Item[uint64]
	gone map[string]int
}

func newRig(t *testing.T, maxBytes int64) *rig {
	return &rig{t, New[uint64](maxBytes, 1), make(map[uint64]*Item[uint64]), make(map[string]int)}
}

// put stores key as an engine does after a miss, and returns the keys that went.
func (r *rig) put(key uint64, group string, bytes int64, cost time.Duration) (gone []uint64) {
	it := &Item[uint64]{Value: key, Hash: hash(key), Cost: cost, Expires: start.Add(time.Hour)}
	r.Use(it.Hash)
	r.held[key] = it
	r.Add(it, group, bytes)
	return r.shrink(start)
}

func (r *rig) shrink(now time.Time) (gone []uint64) {
	r.Sketch().Age()
	for {
		victim, reason := r.Victim(now)
		if victim == nil {
			return gone
		}
		r.drop(victim)
		r.gone[reason]++
		gone = append(gone, victim.Value)
	}
}

func (r *rig) drop(it *Item[uint64]) {
	r.Remove(it)
	delete(r.held, it.Value)
}

// any returns an item, nil if there is none.
func (r *rig) any(rng *rand.Rand) *Item[uint64] {
	if items := r.Items(); len(items) > 0 {
		return items[rng.IntN(len(items))]
	}
	return nil
}

func (r *rig) use(key uint64, times int) {
	for range times {
		r.Use(hash(key))
	}
}

// count returns how many of the keys [from, to) are held.
func (r *rig) count(from, to uint64) (n int) {
	for key := from; key < to; key++ {
		if r.held[key] != nil {
			n++
		}
	}
	return n
}

// check compares the policy's books with what it holds.
func (r *rig) check() {
	r.Helper()
	pools := []*pool[uint64]{&r.all}
	members := 0
	for _, g := range r.groups {
		pools = append(pools, g)
		members += len(g.items)
	}
	if members != len(r.all.items) || members != len(r.held) {
		r.Fatalf("%d items in groups, %d in all, %d held", members, len(r.all.items), len(r.held))
	}
	for _, g := range pools {
		var bytes, fresh int64
		young, walked := 0, 0
		for i, it := range g.items {
			if it.in[g.level].pos != i {
				r.Fatalf("item %d of %q thinks it is %d", i, g.name, it.in[g.level].pos)
			}
			bytes += it.bytes
			if it.in[g.level].fresh {
				fresh += it.bytes
				young++
			}
		}
		for it := g.oldest; it != nil; it = it.in[g.level].next {
			walked++
		}
		if bytes != g.bytes || fresh != g.fresh || young != g.young || walked != young {
			r.Fatalf("%q counts %d bytes, %d fresh in %d; it has %d, %d in %d (%d in the list)",
				g.name, g.bytes, g.fresh, g.young, bytes, fresh, young, walked)
		}
	}
}

func TestScanDoesNotFlushWhatIsUsed(t *testing.T) {
	r := newRig(t, 100_000)
	for key := range uint64(90) {
		r.put(key, "a", 1000, time.Second)
		r.use(key, 3)
	}
	for key := uint64(1000); key < 3000; key++ {
		r.put(key, "a", 1000, time.Second)
	}
	if kept := r.count(0, 90); kept < 88 || r.gone[Rejected] < 1900 {
		t.Errorf("%d of 90 survive a scan of 2000; gone: %v", kept, r.gone)
	}
	r.check()
}

func TestUsefulNewcomersStay(t *testing.T) {
	r := newRig(t, 100_000)
	for key := range uint64(100) {
		r.put(key, "a", 1000, time.Second)
	}
	for key := uint64(1000); key < 1050; key++ {
		r.use(key, 4) // asked for before, though not stored
		r.put(key, "a", 1000, time.Second)
	}
	if kept := r.count(1000, 1050); kept != 50 {
		t.Errorf("%d of 50 stay", kept)
	}
}

func TestTheNewestStaysForAWhile(t *testing.T) {
	r := newRig(t, 100_000)
	for key := range uint64(100) {
		r.use(key, 10)
		r.put(key, "a", 1000, time.Minute)
	}
	r.put(1000, "a", 1000, time.Millisecond)
	if r.held[1000] == nil {
		t.Error("the newcomer went before it had a chance")
	}
	r.put(1001, "a", 1000, time.Millisecond)
	if r.held[1000] != nil {
		t.Error("the useless one outlived its time in the window")
	}
}

func TestWhatSavesMoreForItsSizeStays(t *testing.T) {
	r := newRig(t, 100_000)
	for key := range uint64(600) { // of equal use: even ones are worth sixty times more
		cost, bytes := time.Second, int64(1000)
		if key%2 == 0 {
			cost, bytes = 30*time.Second, 500
		}
		r.use(key, 2)
		r.put(key, "a", bytes, cost)
	}
	even := 0
	for key := range r.held {
		if key%2 == 0 {
			even++
		}
	}
	if odd := len(r.held) - even; even < 180 || odd > 10 {
		t.Errorf("%d dear and %d cheap ones are left", even, odd)
	}
}

func TestExpiredGoFirst(t *testing.T) {
	r := newRig(t, 10_000)
	for key := range uint64(10) {
		r.put(key, "a", 1000, time.Hour)
		r.use(key, 15)
	}
	later := start.Add(2 * time.Hour)
	it := &Item[uint64]{Value: 99, Hash: hash(99), Expires: later.Add(time.Hour)}
	r.held[99] = it
	r.Add(it, "a", 5000)
	if gone := r.shrink(later); len(gone) != 5 || r.held[99] == nil {
		t.Errorf("%v went", gone)
	}
}

func TestGroupBeyondItsLimitLosesItsOwn(t *testing.T) {
	r := newRig(t, 1<<40)
	r.Limits(map[string]Limit{"hostile": {Bytes: 50_000}, "small": {Entries: 3}})
	for key := range uint64(100) {
		r.put(key, "good", 1000, time.Second)
	}
	for key := uint64(1000); key < 6000; key++ {
		group := "hostile"
		if key%10 == 0 {
			group = "small"
		}
		for _, gone := range r.put(key, group, 1000, time.Hour) {
			if gone < 1000 {
				t.Fatal("another group's item went")
			}
		}
		if _, bytes := r.Group("hostile"); bytes > 50_000 {
			t.Fatalf("%d bytes", bytes)
		}
		if items, _ := r.Group("small"); len(items) > 3 {
			t.Fatalf("%d items", len(items))
		}
	}
	r.check()
	r.Limits(map[string]Limit{"good": {Entries: 10}}) // as after a new configuration
	r.shrink(start)
	if items, _ := r.Group("good"); len(items) != 10 {
		t.Errorf("%d items after the limit came down to 10", len(items))
	}
	r.check()
}

func TestBooksBalance(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			r := newRig(t, 60_000)
			r.Limits(map[string]Limit{"g1": {Bytes: 20_000}, "g2": {Entries: 20}})
			for key := range uint64(5000) {
				switch it := r.any(rng); {
				case it != nil && key%10 == 0:
					r.drop(it)
				case it != nil && key%10 == 1:
					r.Resize(it, it.Bytes()+int64(rng.IntN(500)))
					r.shrink(start)
				default:
					r.put(key, fmt.Sprint("g", rng.IntN(4)), int64(100+rng.IntN(2000)), time.Duration(rng.IntN(int(time.Minute))))
				}
				if r.Bytes() > 60_000 {
					t.Fatalf("%d bytes", r.Bytes())
				}
			}
			r.check()
			for it := r.any(rng); it != nil; it = r.any(rng) {
				r.drop(it)
			}
			if r.shrink(start); len(r.groups) != 0 || r.Bytes() != 0 {
				t.Errorf("%d empty groups and %d bytes are left", len(r.groups), r.Bytes())
			}
		})
	}
}

// BenchmarkUse is what a hit pays for being counted.
func BenchmarkUse(b *testing.B) {
	p := New[int](1<<20, 0)
	p.Sketch().Grow(100_000)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		p.Use(hash(i & 0xffff))
	}
}

// BenchmarkEvict is an addition to a full cache and the choice of who goes for it.
func BenchmarkEvict(b *testing.B) {
	p := New[uint64](100_000_000, 1)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		p.Use(hash(i))
		p.Add(&Item[uint64]{Value: i, Hash: hash(i), Cost: time.Second, Expires: start.Add(time.Hour)}, "a", 1000)
		p.Sketch().Age()
		for v, _ := p.Victim(start); v != nil; v, _ = p.Victim(start) {
			p.Remove(v)
		}
	}
}
