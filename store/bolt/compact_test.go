package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

// benchRecord is as large as a common entry: 384 dimensions and an answer of 1,200 bytes.
func benchRecord(id uint64) *store.Record {
	rng := rand.New(rand.NewPCG(id, 7))
	r := storetest.Record(id)
	r.Vector, r.Answer = make([]float32, 384), make([]byte, 1200)
	for i := range r.Vector {
		r.Vector[i] = float32(rng.NormFloat64())
	}
	for i := range r.Answer {
		r.Answer[i] = byte(rng.Uint32())
	}
	r.Canonical = fmt.Appendf(nil, `{"model":"llama3.2:latest","messages":[{"role":"user","content":"question %d, which is as long as people ask"}]}`, id)
	r.Prompt = fmt.Sprintf("question %d, which is as long as people ask", id)
	return r
}

// churn puts and deletes at random until stop is closed, and returns what must be there.
func churn(t *testing.T, s *Store, stop <-chan struct{}, first uint64, seed uint64) map[uint64]string {
	rng := rand.New(rand.NewPCG(seed, 9))
	there := map[uint64]string{}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return there
		default:
		}
		id := first + rng.Uint64N(500)
		if rng.IntN(3) == 0 {
			delete(there, id)
			s.Delete([]uint64{id}, false, nil)
			continue
		}
		r := storetest.Record(id)
		r.Prompt = fmt.Sprint(first, " step ", n)
		r.Answer = []byte("answer to " + r.Prompt)
		there[id] = r.Prompt
		if err := s.Put(r, n%50 == 0, nil); err != nil {
			t.Error(err)
		}
		if n%500 == 0 { // the committer keeps up, on a slow disk as well
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

func contents(t *testing.T, s *Store) map[uint64]string {
	t.Helper()
	there := map[uint64]string{}
	_, err := s.Load(t.Context(), storetest.Epoch, func(r *store.Record) error {
		there[r.ID] = r.Prompt
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// TestCompactionUnderWrites compacts again and again while two writers change records
// and a reader reads.
func TestCompactionUnderWrites(t *testing.T) {
	path := filled(t, 2000)
	s, stop := running(t, Options{Path: path, CompactAbove: -1})
	if err := s.SaveSnapshot(1500, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
		t.Fatal(err)
	}
	var gone []uint64
	for id := uint64(101); id <= 2000; id++ {
		gone = append(gone, id)
	}
	s.Delete(gone, false, nil)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	end := make(chan struct{})
	var wg sync.WaitGroup
	var wrote [2]map[uint64]string
	for i := range wrote {
		wg.Go(func() { wrote[i] = churn(t, s, end, uint64(10_000*(i+1)), seed+uint64(i)) })
	}
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			if answer, err := s.Answer(50); err != nil || string(answer) != "answer 50" {
				t.Errorf("%q %v", answer, err)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	for range 3 {
		if err := s.Compact(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(end)
	wg.Wait()
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[uint64]string{}
	for id := range uint64(100) {
		want[id+1] = storetest.Record(id + 1).Prompt
	}
	maps.Copy(want, wrote[0])
	maps.Copy(want, wrote[1])
	check := func(s *Store) {
		t.Helper()
		if got := contents(t, s); !maps.Equal(got, want) {
			t.Errorf("%d records, want %d", len(got), len(want))
		}
		for id, prompt := range want {
			if id < 1000 {
				continue
			}
			if answer, err := s.Answer(id); err != nil || string(answer) != "answer to "+prompt {
				t.Errorf("record %d: %q %v", id, answer, err)
			}
		}
		seq, r, err := s.Snapshot()
		if err != nil || seq != 1500 {
			t.Fatalf("the snapshot: %d %v", seq, err)
		}
		r.Close()
		// What the snapshot knew, and the changes since, are what is there.
		got := map[uint64]string{}
		for id := range uint64(1500) {
			got[id+1] = storetest.Record(id + 1).Prompt
		}
		err = s.Changes(t.Context(), seq, func(c store.Change) error {
			for _, id := range c.Deleted {
				delete(got, id)
			}
			if c.Put != nil {
				got[c.Put.ID] = c.Put.Prompt
			}
			return nil
		})
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("from the snapshot: %d records, want %d, %v", len(got), len(want), err)
		}
	}
	if st := s.Stats(); st.Compactions != 3 || st.Records != int64(len(want)) || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	check(s)
	stop()
	checkFile(t, path)
	s, _ = running(t, Options{Path: path})
	check(s)
}

// TestFileStaysNearWhatIsLive replaces everything several times in a file that compacts
// itself.
func TestFileStaysNearWhatIsLive(t *testing.T) {
	const n = 1500
	path := filepath.Join(t.TempDir(), "semcached.db")
	s, stop := running(t, Options{Path: path, CompactAbove: 1 << 20})
	live := int64(0)
	fill := func(from uint64) {
		live = 0
		for id := range uint64(n) {
			r := benchRecord(from + id)
			live += int64(len(store.AppendMeta(nil, r, 1)) + len(r.Answer) + 5 + 16)
			if err := s.Put(r, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	worst := 0.0
	for round := range uint64(8) {
		fill(1 + round*n)
		if round > 0 {
			var gone []uint64
			for id := range uint64(n) {
				gone = append(gone, 1+(round-1)*n+id)
			}
			s.Delete(gone, false, nil)
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SaveSnapshot(s.Seq(), func(io.Writer) error { return nil }); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, float64(s.Stats().Bytes)/float64(live))
	}
	if worst > 4 {
		t.Errorf("the file grew to %.1f times of what is live", worst)
	}
	if err := s.Compact(t.Context()); err != nil { // waits for one that is under way
		t.Fatal(err)
	}
	st := s.Stats()
	ratio := float64(st.Bytes) / float64(live)
	t.Logf("%d records, %d bytes live, file %d: %.2f; at most %.2f before; %d compactions", st.Records, live, st.Bytes, ratio, worst, st.Compactions)
	if ratio > 1.3 || st.Records != n {
		t.Errorf("%+v: %.2f times of what is live", st, ratio)
	}
	stop()
	checkFile(t, path)
}

// TestCompactionBeginsByItself deletes most of a file.
func TestCompactionBeginsByItself(t *testing.T) {
	path := filled(t, 3000)
	s, stop := running(t, Options{Path: path, CompactAbove: 64 << 10})
	before := s.Stats()
	var gone []uint64
	for id := range uint64(2900) {
		gone = append(gone, id+1)
	}
	s.Delete(gone, false, nil)
	for i := uint64(4000); s.Stats().Compactions == 0; i++ {
		if err := put(s, storetest.Record(i)); err != nil {
			t.Fatal(err)
		}
	}
	if after := s.Stats(); after.Bytes > before.Bytes/2 {
		t.Errorf("%d bytes, %d before", after.Bytes, before.Bytes)
	}
	stop()
	checkFile(t, path)
	if files, _ := filepath.Glob(path + "*"); !slices.Equal(files, []string{path, path + reserveSuffix}) {
		t.Errorf("left behind: %v", files)
	}
}

func TestCompactionThatFailsHarmsNothing(t *testing.T) {
	path := filled(t, 300)
	s, stop := running(t, Options{Path: path, CompactAbove: -1})
	if err := os.MkdirAll(path+".compact/full", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context()); err == nil {
		t.Error("compacted into a folder")
	}
	os.RemoveAll(path + ".compact")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if ids, _ := loaded(t, s); len(ids) != 300 {
		t.Errorf("%d records", len(ids))
	}
	stop()
	if err := s.Compact(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	// A crash leaves the copy behind; opening removes it.
	os.WriteFile(path+".compact", []byte("half"), 0o600)
	_, stop = running(t, Options{Path: path})
	stop()
	if files, _ := filepath.Glob(path + "*"); !slices.Equal(files, []string{path, path + reserveSuffix}) {
		t.Errorf("left behind: %v", files)
	}
}

// TestCompactionLeavesDamageOut compacts a file with a damaged record, answer and change.
func TestCompactionLeavesDamageOut(t *testing.T) {
	path := filled(t, 300)
	edit(t, path, func(tx *bbolt.Tx) error {
		flip := func(bucket []byte, key uint64) error {
			v := bytes.Clone(tx.Bucket(bucket).Get(idKey(key)))
			v[5] ^= 1
			return tx.Bucket(bucket).Put(idKey(key), v)
		}
		return errors.Join(flip(bucketEntry, 7), flip(bucketAnswer, 8), flip(bucketLog, 100))
	})
	s, stop := running(t, Options{Path: path, CompactAbove: -1})
	if err := s.Compact(t.Context()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("with a damaged log: %v", err)
	}
	s.Sync(t.Context())
	if err := s.Changes(t.Context(), 5, func(store.Change) error { return nil }); !errors.Is(err, store.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	if ids, _ := loaded(t, s); len(ids) != 298 {
		t.Errorf("%d records", len(ids))
	}
	stop()
	checkFile(t, path)
}
