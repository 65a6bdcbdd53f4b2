package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"

	"github.com/semcached/semcached/store"
)

// flush waits until what was queued is committed.
func (r *rig) flush() {
	r.Helper()
	if err := r.Sync(context.Background()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) delete(ids ...uint64) {
	r.Helper()
	if err := r.Delete(ids, false, nil); err != nil {
		r.Fatal(err)
	}
	r.flush()
}

// told collects changes as "3 put 7" or "4 delete [7 8]".
func (r *rig) told(after uint64) (all []string) {
	r.Helper()
	err := r.Changes(context.Background(), after, func(c store.Change) error {
		if c.Put != nil {
			if c.Put.Answer != nil {
				r.Error("a change with an answer")
			}
			all = append(all, fmt.Sprint(c.Seq, " put ", c.Put.ID))
		} else {
			all = append(all, fmt.Sprint(c.Seq, " delete ", c.Deleted))
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return all
}

func numbersChanges(r *rig) {
	if n := r.Seq(); n != 0 {
		r.Errorf("an empty store has change %d", n)
	}
	r.put(Record(1))
	r.put(Record(2))
	r.delete(2, 77)
	r.put(Record(3))
	again := Record(1)
	again.Prompt = "again"
	r.put(again)
	for range 2 {
		if n := r.Seq(); n != 5 {
			r.Errorf("the last change is %d", n)
		}
		// 2's put is skipped, for it has gone; 1's are told with the record as it is now.
		want := []string{"1 put 1", "3 delete [2 77]", "4 put 3", "5 put 1"}
		if all := r.told(0); fmt.Sprint(all) != fmt.Sprint(want) {
			r.Errorf("%v", all)
		}
		if all := r.told(3); fmt.Sprint(all) != fmt.Sprint(want[2:]) {
			r.Errorf("after 3: %v", all)
		}
		if all := r.told(5); len(all) != 0 {
			r.Errorf("after the last: %v", all)
		}
		r.Changes(context.Background(), 0, func(c store.Change) error {
			if c.Seq == 1 && (c.Put.Prompt != "again" || c.Put.AnswerBytes != len("answer 1")) {
				r.Errorf("%+v", c.Put)
			}
			return nil
		})
		r.reopen()
	}
	if s := r.Stats(); s.Seq != 5 || s.LogSince != 0 {
		r.Errorf("%+v", s)
	}
}

func changesStop(r *rig) {
	for id := range uint64(10) {
		r.put(Record(id + 1))
	}
	enough := errors.New("enough")
	n := 0
	err := r.Changes(context.Background(), 0, func(store.Change) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if err != enough || n != 3 {
		r.Errorf("%v after %d", err, n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Changes(ctx, 0, func(store.Change) error { return nil }); !errors.Is(err, context.Canceled) {
		r.Errorf("%v, want context.Canceled", err)
	}
	s := r.Store
	r.stop()
	if err := s.Changes(context.Background(), 0, func(store.Change) error { return nil }); !errors.Is(err, store.ErrClosed) {
		r.Errorf("%v, want ErrClosed", err)
	}
	if err := s.SaveSnapshot(0, func(io.Writer) error { return nil }); !errors.Is(err, store.ErrClosed) {
		r.Errorf("save: %v, want ErrClosed", err)
	}
	if _, _, err := s.Snapshot(); !errors.Is(err, store.ErrClosed) {
		r.Errorf("open: %v, want ErrClosed", err)
	}
	r.start()
}

// snapshot reads the snapshot.
func (r *rig) snapshot() (uint64, []byte) {
	r.Helper()
	seq, f, err := r.Snapshot()
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		r.Fatal(err)
	}
	return seq, b
}

func (r *rig) save(seq uint64, content []byte) {
	r.Helper()
	err := r.SaveSnapshot(seq, func(w io.Writer) error {
		for len(content) > 0 { // in odd pieces
			n := min(len(content), 1+len(content)/3)
			if m, err := w.Write(content[:n]); err != nil || m != n {
				return fmt.Errorf("wrote %d of %d: %w", m, n, err)
			}
			content = content[n:]
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

func keepsSnapshots(r *rig) {
	if _, _, err := r.Snapshot(); !errors.Is(err, store.ErrNotFound) {
		r.Errorf("none yet: %v", err)
	}
	r.put(Record(1))
	r.put(Record(2))
	large := make([]byte, 9<<20+17)
	for i := range large {
		large[i] = byte(i * i >> 7)
	}
	for _, content := range [][]byte{[]byte("small"), {}, large} {
		r.save(1, content)
		for _, when := range []string{"open", "reopened"} {
			if seq, b := r.snapshot(); seq != 1 || !bytes.Equal(b, content) {
				r.Errorf("%s: covers %d, %d bytes of %d", when, seq, len(b), len(content))
			}
			if s := r.Stats(); s.SnapshotSeq != 1 || s.SnapshotAt.IsZero() {
				r.Errorf("%s: %+v", when, s)
			}
			r.reopen()
		}
	}
	failed := errors.New("no more")
	err := r.SaveSnapshot(2, func(w io.Writer) error {
		w.Write(large)
		return failed
	})
	if !errors.Is(err, failed) {
		r.Errorf("%v, want the writer's error", err)
	}
	if seq, b := r.snapshot(); seq != 1 || !bytes.Equal(b, large) {
		r.Errorf("the last snapshot has gone: %d, %d bytes", seq, len(b))
	}
	if all := r.told(1); fmt.Sprint(all) != "[2 put 2]" {
		r.Errorf("%v", all)
	}
}

// forgetsChanges saves a snapshot and expects that either the changes before it are
// gone, and Changes says so at once, or all are there.
func forgetsChanges(r *rig) {
	for id := range uint64(20) {
		r.put(Record(id + 1))
	}
	r.save(15, []byte("x"))
	r.put(Record(21))
	for range 2 {
		n := 0
		err := r.Changes(context.Background(), 3, func(store.Change) error { n++; return nil })
		if err == nil && n != 18 || err != nil && (!errors.Is(err, store.ErrGone) || n != 0) {
			r.Errorf("%d changes, %v", n, err)
		}
		if since := r.Stats().LogSince; since > 15 || (err == nil) != (since <= 3) {
			r.Errorf("log since %d, %v", since, err)
		}
		if all := r.told(15); len(all) != 6 {
			r.Errorf("%v", all)
		}
		r.reopen()
	}
}

// changesBringBack checks that a copy that was taken at any change, plus the changes
// after it, is what the store holds now.
func changesBringBack(r *rig) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	r.Logf("seed %d", seed)
	now := map[uint64]string{}      // ID -> prompt
	then := []map[uint64]string{{}} // by change
	keep := func() { then = append(then, maps.Clone(now)) }
	for step := range 600 {
		switch id := rng.Uint64N(30) + 1; {
		case rng.IntN(40) == 0:
			r.flush()
			r.reopen()
		case rng.IntN(60) == 0:
			r.flush()
			r.save(r.Seq()-rng.Uint64N(min(r.Seq(), 20)+1), nil)
		case rng.IntN(3) == 0:
			ids := []uint64{id, rng.Uint64N(30) + 1}
			delete(now, ids[0])
			delete(now, ids[1])
			keep()
			if err := r.Delete(ids, false, nil); err != nil {
				r.Fatal(err)
			}
		default:
			rec := Record(id)
			rec.Prompt = fmt.Sprint("step ", step)
			now[id] = rec.Prompt
			keep()
			if err := r.Put(rec, false, nil); err != nil {
				r.Fatal(err)
			}
		}
	}
	r.flush()
	if n := r.Seq(); n != uint64(len(then)-1) {
		r.Fatalf("%d changes, %d committed", n, len(then)-1)
	}
	since := r.Stats().LogSince
	for after := range then {
		got := maps.Clone(then[after])
		err := r.Changes(context.Background(), uint64(after), func(c store.Change) error {
			for _, id := range c.Deleted {
				delete(got, id)
			}
			if c.Put != nil {
				got[c.Put.ID] = c.Put.Prompt
			}
			return nil
		})
		if errors.Is(err, store.ErrGone) && uint64(after) < since {
			continue
		}
		if err != nil || !maps.Equal(got, now) {
			r.Fatalf("from change %d: %v, %d records, want %d", after, err, len(got), len(now))
		}
	}
}
