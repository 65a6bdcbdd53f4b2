package sketch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/semcached/semcached/index"
)

// contents returns the vectors of an index by ID.
func contents(ix *Index) map[uint64][]float32 {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	all := make(map[uint64][]float32, ix.n)
	for i := range ix.n {
		all[ix.id(i)] = append([]float32(nil), ix.row(i)...)
	}
	return all
}

func sameContents(t *testing.T, got, want map[uint64][]float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d vectors, want %d", len(got), len(want))
	}
	for id, v := range want {
		w := got[id]
		if len(w) != len(v) {
			t.Fatalf("%d is lost", id)
		}
		for i := range v {
			if v[i] != w[i] {
				t.Fatalf("%d has another vector", id)
			}
		}
	}
}

func TestSnapshotsHoldCodesAndLists(t *testing.T) {
	for _, dims := range []int{40, 100, 384} { // codes of 1, 2 and 6 words
		rng := rand.New(rand.NewPCG(31, uint64(dims)))
		draw := clusters(rng, dims, 20, 0.5, 0.4)
		ix := early(dims, 600)
		for id := range uint64(1000) {
			ix.Add(id*id, draw())
		}
		settle(t, ix)
		var b bytes.Buffer
		if err := ix.Snapshot(&b); err != nil {
			t.Fatal(err)
		}
		back, err := load(bytes.NewReader(b.Bytes()), ix.o)
		if err != nil {
			t.Fatal(err)
		}
		if s := back.Stats(); s.Tier != "lists" || s.Entries != 1000 {
			t.Fatalf("%+v", s)
		}
		check(t, back)
		sameContents(t, contents(back), contents(ix))
		if back.tier.cur.margins != ix.tier.cur.margins || back.tier.cur.made != ix.tier.cur.made {
			t.Error("the lists are others")
		}
		for range 300 {
			q := at(unit(draw()), normal(rng, dims, 1), 0.97)
			want, _ := ix.Search(nil, q, 0.9, 5)
			got, _ := back.Search(nil, q, 0.9, 5)
			if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
				t.Fatalf("%v, want %v", got, want)
			}
		}
		for id := range uint64(1000) { // and it goes on
			back.Add(id, draw())
			back.Remove(id * id)
		}
		settle(t, back)
		check(t, back)
	}
}

// meddler changes an index while its snapshot is written.
type meddler struct {
	bytes.Buffer
	meddle func()
}

func (m *meddler) Write(b []byte) (int, error) {
	m.meddle()
	return m.Buffer.Write(b)
}

// A snapshot holds the state of the moment it began, whatever changes meanwhile.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	const dims = 256
	rng := rand.New(rand.NewPCG(32, 7))
	draw := clusters(rng, dims, 20, 0.5, 0.4)
	for _, listsFrom := range []int{1500, 1 << 20} {
		ix := newIndex(dims, &options{codesFrom: 256, listsFrom: listsFrom, moved: 500, always: true})
		for id := range uint64(6000) {
			ix.Add(id, draw())
		}
		settle(t, ix)
		want := contents(ix)
		m := &meddler{meddle: func() {
			for range 800 {
				id := uint64(rng.IntN(9000))
				if rng.IntN(2) == 0 {
					ix.Remove(id)
				} else {
					ix.Add(id, draw())
				}
			}
		}}
		if err := ix.Snapshot(m); err != nil {
			t.Fatal(err)
		}
		if len(m.Bytes()) < 3<<20 {
			t.Fatalf("%d bytes: nothing changed while it was written", len(m.Bytes()))
		}
		back, err := load(bytes.NewReader(m.Bytes()), ix.o)
		if err != nil {
			t.Fatal(err)
		}
		sameContents(t, contents(back), want)
		check(t, back)
		if ix.saving != nil {
			t.Error("the snapshot is never over")
		}
		for id := range uint64(9000) {
			ix.Remove(id)
		}
		if err := ix.Snapshot(io.Discard); err != nil || ix.Len() != 0 {
			t.Errorf("%d left: %v", ix.Len(), err)
		}
	}
}

func TestSnapshotToAWriterThatFails(t *testing.T) {
	ix := New(3)
	ix.Add(1, []float32{1, 2, 3})
	full := errors.New("full")
	for range 2 { // a failed one does not block the next
		if err := ix.Snapshot(failing{full}); !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Snapshots of the format before are read: they hold vectors only.
func TestVersionOneIsRead(t *testing.T) {
	flat := index.NewFlat(8)
	rng := rand.New(rand.NewPCG(33, 7))
	for id := range uint64(700) {
		flat.Add(id, normal(rng, 8, 1))
	}
	var b bytes.Buffer
	if err := flat.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	ix, err := Load(&b)
	if err != nil || ix.Len() != 700 || ix.Stats().Tier != "sketch" {
		t.Fatalf("%v %+v", err, ix.Stats())
	}
	check(t, ix)
}

// What has right checksums may still be wrong.
func TestForgedSnapshotsAreRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(34, 7))
	ix := newIndex(4, &options{codesFrom: 20, listsFrom: 1 << 20})
	for id := range uint64(30) {
		ix.Add(id, normal(rng, 4, 1))
	}
	var b bytes.Buffer
	ix.Snapshot(&b)
	const lists = headBytes + 4
	block := lists + (4 + 4) + 4*marginCount + 2 + 8 + 4
	ids, of, vectors := block+4, block+4+30*8, block+4+30*(8+4+8+1)
	for name, forge := range map[string]func(b []byte){
		"no dimensions":       func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 0) },
		"many dimensions":     func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 1<<31) },
		"more rows":           func(b []byte) { binary.LittleEndian.PutUint64(b[12:], 1<<31) },
		"fewer rows":          func(b []byte) { binary.LittleEndian.PutUint64(b[12:], 29) },
		"many lists":          func(b []byte) { binary.LittleEndian.PutUint32(b[36:], 1<<30) },
		"another list":        func(b []byte) { binary.LittleEndian.PutUint32(b[of:], 1) },
		"an ID twice":         func(b []byte) { copy(b[ids:ids+8], b[ids+8:ids+16]) },
		"a long vector":       func(b []byte) { binary.LittleEndian.PutUint32(b[vectors:], 0x40000000) },
		"a number that isn't": func(b []byte) { binary.LittleEndian.PutUint32(b[vectors:], 0x7fc00000) },
		"a margin that isn't": func(b []byte) { binary.LittleEndian.PutUint32(b[lists+8:], 0x7fc00000) },
		"an empty block":      func(b []byte) { binary.LittleEndian.PutUint32(b[block:], 0) },
		"a large block":       func(b []byte) { binary.LittleEndian.PutUint32(b[block:], 1<<30) },
	} {
		forged := bytes.Clone(b.Bytes())
		forge(forged)
		for _, part := range [][2]int{{0, headBytes}, {lists, block - 4}, {block, len(forged) - 4}} {
			binary.LittleEndian.PutUint32(forged[part[1]:], crc32.Checksum(forged[part[0]:part[1]], castagnoli))
		}
		if _, err := load(bytes.NewReader(forged), ix.o); !errors.Is(err, index.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	later := bytes.Clone(b.Bytes())
	later[7]++
	if _, err := Load(bytes.NewReader(later)); !errors.Is(err, index.ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	if _, err := load(bytes.NewReader(b.Bytes()), ix.o); err != nil {
		t.Errorf("what has not been forged: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	rng := rand.New(rand.NewPCG(35, 7))
	for _, o := range []*options{&defaults, {codesFrom: 20, listsFrom: 30, moved: 500, always: true}} {
		ix := newIndex(2, o)
		for id := range uint64(60) {
			ix.Add(id, normal(rng, 2, 1))
		}
		var b bytes.Buffer
		ix.Snapshot(&b)
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ix, err := Load(bytes.NewReader(raw))
		if err != nil {
			if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		q := make([]float32, ix.Dims())
		q[0] = 1
		ix.Search(nil, q, 0.9, 3)
		ix.Add(1, q)
		ix.Remove(2)
	})
}

func BenchmarkSnapshot(b *testing.B) {
	n := 100_000
	if testing.Short() {
		n = 1000
	}
	const dims = 384
	rng := rand.New(rand.NewPCG(36, 7))
	draw := embeddings(rng, dims)
	ix := New(dims)
	for id := range uint64(n) {
		ix.Add(id, draw())
	}
	settle(b, ix)
	var buf bytes.Buffer
	ix.Snapshot(&buf)
	b.Run("op=write", func(b *testing.B) {
		for b.Loop() {
			ix.Snapshot(io.Discard)
		}
		b.SetBytes(int64(buf.Len()))
	})
	b.Run("op=load", func(b *testing.B) {
		for b.Loop() {
			if _, err := Load(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(buf.Len()))
	})
	b.Run("op=rows", func(b *testing.B) {
		for b.Loop() {
			back := New(dims)
			for i := range ix.n {
				back.Add(ix.id(i), ix.row(i))
			}
		}
	})
}
