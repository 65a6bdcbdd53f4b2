package slab

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// book is a table, its finder, and what the finder must say.
type book struct {
	t      testing.TB
	ids    Of[uint64]
	finder *Finder
	rows   map[uint64]uint32
	spare  bool // buckets may have many free slots
}

func newBook(t testing.TB) *book {
	b := &book{t: t, ids: Sized[uint64](1, 1<<10), rows: map[uint64]uint32{}}
	b.finder = NewFinder(&b.ids)
	return b
}

// add adds id in a row that is free.
func (b *book) add(id uint64, row uint32) {
	b.t.Helper()
	_, there := b.rows[id]
	if !there {
		b.ids.Grow(int(row) + 1)
		b.ids.Row(int(row))[0] = id
		b.rows[id] = row
	}
	if b.finder.Add(id, row) == there {
		b.t.Fatalf("Add of %#x says %v", id, !there)
	}
}

// remove removes id from where it is.
func (b *book) remove(id uint64) {
	b.t.Helper()
	_, there := b.rows[id]
	if b.finder.Remove(id) != there {
		b.t.Fatalf("Remove of %#x says %v", id, !there)
	}
	delete(b.rows, id)
}

// removeDense removes id and puts the last row in its place, as the indexes do.
func (b *book) removeDense(id uint64) {
	b.t.Helper()
	row, there := b.rows[id]
	last := len(b.rows) - 1
	b.remove(id)
	if there && int(row) != last {
		moved := b.ids.Row(last)[0]
		b.move(moved, row)
	}
	b.ids.Shrink(len(b.rows))
}

// move gives id another row, which is free.
func (b *book) move(id uint64, row uint32) {
	b.ids.Grow(int(row) + 1)
	b.finder.Move(id, row)
	b.ids.Row(int(row))[0] = id
	b.rows[id] = row
}

func (b *book) find(id uint64) {
	b.t.Helper()
	want, there := b.rows[id]
	if row, ok := b.finder.Find(id); ok != there || row != want {
		b.t.Fatalf("%#x is found in row %d, %v; want %d, %v", id, row, ok, want, there)
	}
}

// check compares all that there is, and looks whether the buckets are as they ought to be.
func (b *book) check() {
	b.t.Helper()
	f := b.finder
	if f.Len() != len(b.rows) {
		b.t.Fatalf("%d IDs, want %d", f.Len(), len(b.rows))
	}
	for id := range b.rows {
		b.find(id)
	}
	n, slots := 0, int64(0)
	for i := range f.count {
		bucket := f.buckets.Row(i)[0]
		n, slots = n+len(bucket), slots+int64(cap(bucket))
		if free := cap(bucket) - len(bucket); free > 2*step && !b.spare {
			b.t.Errorf("bucket %d of %d rows has %d free slots", i, len(bucket), free)
		}
		for _, x := range bucket {
			h := f.hash(b.ids.Row(int(x & highest(f.level(i))))[0])
			if int(h&(1<<f.level(i)-1)) != i {
				b.t.Fatalf("slot %#x does not belong to bucket %d of %d", x, i, f.count)
			}
		}
	}
	if n != f.n || slots != f.slots {
		b.t.Fatalf("%d IDs in %d slots, want %d in %d", n, slots, f.n, f.slots)
	}
}

// hostile are ways of choosing IDs that spoil hashes which are not random.
var hostile = map[string]func(i uint64) uint64{
	"sequential":        func(i uint64) uint64 { return i },
	"downwards":         func(i uint64) uint64 { return -i },
	"multiples of 2^32": func(i uint64) uint64 { return i << 32 },
	"multiples of 2^44": func(i uint64) uint64 { return i << 44 },
	"equal low bits":    func(i uint64) uint64 { return i<<20 | 0xabcde },
	"both halves equal": func(i uint64) uint64 { return i<<32 | i },
	"inverse of a golden": func(i uint64) uint64 {
		return i * 0xf1de83e19937733d // of 0x9e3779b97f4a7c15, a usual multiplier
	},
}

func TestNoIDsMakeLongBuckets(t *testing.T) {
	const n = 30_000
	for name, id := range hostile {
		b := newBook(t)
		for i := range uint64(n) {
			b.add(id(i), uint32(i))
		}
		b.check()
		longest := 0
		for i := range b.finder.count {
			longest = max(longest, len(b.finder.buckets.Row(i)[0]))
		}
		if longest > 4*perBucket {
			t.Errorf("%s: %d of %d IDs are in one bucket", name, longest, n)
		}
	}
}

func TestFinderIsAMapOfRows(t *testing.T) {
	const universe = 6000
	for _, seed := range []uint64{1, 2} {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := newBook(t)
		var ids []uint64
		for range universe {
			ids = append(ids, rng.Uint64())
		}
		// The share of removals changes, so that there is growth and shrinking.
		for i := range 100_000 {
			id := ids[rng.IntN(universe)]
			switch removals := 30 + 40*(i/10_000%2); {
			case i%3 == 0:
				b.find(id)
			case rng.IntN(100) < removals:
				b.removeDense(id)
			default:
				b.add(id, uint32(len(b.rows)))
			}
			if i%9973 == 0 {
				b.check()
			}
		}
		b.check()
	}
}

func TestRowsNeedNotBeDense(t *testing.T) {
	const universe, most = 3000, 9000
	rng := rand.New(rand.NewPCG(3, 1))
	b := newBook(t)
	free := make([]uint32, most)
	for i, row := range rng.Perm(most) {
		free[i] = uint32(row)
	}
	swap := func(i int, row uint32) (old uint32) { old, free[i] = free[i], row; return old }
	for i := range 60_000 {
		id := uint64(rng.IntN(universe)) << 40
		row, there := b.rows[id]
		at := rng.IntN(len(free))
		switch removals := 20 + 60*(i/10_000%2); {
		case there && i%4 == 0:
			b.move(id, swap(at, row))
		case rng.IntN(100) >= removals && !there:
			b.add(id, free[at])
			free[at] = free[len(free)-1]
			free = free[:len(free)-1]
		case there:
			b.remove(id)
			free = append(free, row)
		}
		b.find(id)
		if i%9973 == 0 {
			b.check()
		}
	}
	b.check()
}

func TestAChangeSplitsOrMergesOneBucketAtMost(t *testing.T) {
	b := newBook(t)
	step := func(change func()) {
		t.Helper()
		before := b.finder.count
		if change(); b.finder.count-before > 1 || before-b.finder.count > 1 {
			t.Fatalf("from %d to %d buckets at once", before, b.finder.count)
		}
	}
	const n = 20_000
	for i := range uint64(n) {
		step(func() { b.add(i, uint32(i)) })
	}
	if b.check(); b.finder.count < n/perBucket {
		t.Errorf("%d buckets for %d IDs", b.finder.count, n)
	}
	for i := range uint64(n) {
		if step(func() { b.removeDense(i) }); i == n/2 {
			b.check()
		}
	}
	if b.check(); b.finder.count != 1 || b.finder.Bytes() > 250 {
		t.Errorf("an empty finder has %d buckets, %d bytes", b.finder.count, b.finder.Bytes())
	}
}

func TestAddSaysThatAnIDIsThere(t *testing.T) {
	b := newBook(t)
	b.finder.Reserve(1000)
	b.spare = true
	for i := range uint64(1000) {
		b.add(i, uint32(i))
		b.add(i/2, uint32(i+1))
	}
	b.check()
}

func TestFinderIsSmall(t *testing.T) {
	for _, c := range []struct {
		n    int
		most int64 // bytes
	}{
		{1, 250}, {33, 500}, {100, 850}, {1000, 6000}, {10_000, 57_000}, {14_000, 80_000}, {20_000, 114_000},
		{28_000, 160_000}, {40_000, 228_000}, {56_000, 320_000}, {80_000, 456_000}, {1_000_000, 5_700_000},
	} {
		if testing.Short() && c.n > 100_000 {
			continue
		}
		for _, reserved := range []bool{false, true} {
			ids := table(c.n)
			for i := range c.n {
				ids.Row(i)[0] = uint64(i)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			f := NewFinder(&ids)
			if reserved {
				f.Reserve(c.n)
			}
			for i := range c.n {
				f.Add(uint64(i), uint32(i))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("%d IDs, reserved %v: %.2f bytes each", c.n, reserved, float64(f.Bytes())/float64(c.n))
			if f.Bytes() > c.most {
				t.Errorf("%d IDs, reserved %v: %d bytes, want %d at most", c.n, reserved, f.Bytes(), c.most)
			}
			// Go's allocator rounds up; the tests' own goroutines take some as well.
			if c.n >= 1000 && (held > f.Bytes()*11/10+4096 || held < f.Bytes()*9/10-4096) {
				t.Errorf("%d IDs, reserved %v: Bytes says %d, the heap %d", c.n, reserved, f.Bytes(), held)
			}
			runtime.KeepAlive(f)
		}
	}
}

func TestChurnDoesNotGrowTheFinder(t *testing.T) {
	const n = 5000
	b := newBook(t)
	for i := range uint64(n) {
		b.add(i, uint32(i))
	}
	next := uint64(n)
	for range 20 * n {
		b.removeDense(next - n)
		b.add(next, n-1)
		next++
	}
	if b.check(); b.finder.Bytes() > n*6 {
		t.Errorf("%d IDs take %d bytes", n, b.finder.Bytes())
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	b := newBook(t)
	for i := range uint64(1000) {
		b.add(i, uint32(i))
	}
	i := uint64(0)
	if a := testing.AllocsPerRun(1000, func() { b.finder.Find(i); i += 3 }); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

// FuzzFinder does what pairs of bytes say: what, and with which of 256 IDs.
func FuzzFinder(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 0, 1, 1, 1, 2, 2})
	many := make([]byte, 0, 1024)
	for _, op := range []byte{0, 1} {
		for id := range 256 {
			many = append(many, op, byte(id))
		}
	}
	f.Add(many)
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newBook(t)
		for ; len(ops) >= 2; ops = ops[2:] {
			id := uint64(ops[1]) << (ops[1] % 57)
			switch ops[0] % 3 {
			case 0:
				b.add(id, uint32(len(b.rows)))
			case 1:
				b.removeDense(id)
			case 2:
				b.find(id)
			}
		}
		b.check()
	})
}
