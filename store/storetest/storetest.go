// Package storetest is the conformance suite that every store.Store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/store"
)

// Run runs the suite. New is called once for each test and returns a function
// that opens the same store again and again, each time after the last was closed.
func Run(t *testing.T, New func(t *testing.T) (open func() store.Store)) {
	for name, test := range map[string]func(*rig){
		"KeepsRecords": keepsRecords, "Replaces": replaces, "Deletes": deletes, "LoadsInOrder": loadsInOrder,
		"Expires": expires, "NeverReusesIDs": neverReusesIDs, "ReportsEachWrite": reportsEachWrite,
		"RefusesBadRecords": refusesBadRecords, "Closes": closes, "LoadStops": loadStops, "Concurrent": concurrent,
		"LastWriteWins": lastWriteWins, "NumbersChanges": numbersChanges, "ChangesStop": changesStop,
		"KeepsSnapshots": keepsSnapshots, "ForgetsChanges": forgetsChanges, "ChangesBringBack": changesBringBack,
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{T: t, open: New(t)}
			r.start()
			defer r.stop()
			test(r)
		})
	}
}

// rig is an open store whose Run is running.
type rig struct {
	*testing.T
	open func() store.Store
	store.Store
	cancel context.CancelFunc
	done   chan error
}

func (r *rig) start() {
	r.Store = r.open()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func(s store.Store, done chan<- error) { done <- s.Run(ctx) }(r.Store, r.done)
}

func (r *rig) stop() {
	r.cancel()
	<-r.done
	if err := r.Close(); err != nil {
		r.Errorf("close: %v", err)
	}
}

func (r *rig) reopen() {
	r.stop()
	r.start()
}

// Epoch is when the records of this suite are made.
var Epoch = time.UnixMilli(1_800_000_000_000)

// Record returns a record that fills every field, told apart by its ID.
func Record(id uint64) *store.Record {
	return &store.Record{
		ID: id, Key: [32]byte{byte(id), 1}, Partition: [32]byte{2}, Space: "s/3",
		Tenant: "local", Namespace: "n", Op: "chat", Model: "m:latest", Digest: "d", Provider: "ollama",
		Tags: []string{"t1", "t2"}, Canonical: fmt.Appendf(nil, "request %d", id), Prompt: fmt.Sprintf("prompt %d", id),
		Vector: []float32{1, float32(id), 0}, Created: Epoch, Expires: Epoch.Add(time.Hour),
		Cost: time.Second, InputTokens: 3, OutputTokens: 4, Answer: fmt.Appendf(nil, "answer %d", id),
	}
}

// put stores a record and waits until it is durable.
func (r *rig) put(rec *store.Record) {
	r.Helper()
	done := make(chan error, 1)
	if err := r.Put(rec, true, func(err error) { done <- err }); err != nil {
		r.Fatal(err)
	}
	if err := <-done; err != nil {
		r.Fatal(err)
	}
}

func (r *rig) load() ([]*store.Record, store.LoadReport) {
	r.Helper()
	var all []*store.Record
	report, err := r.Load(context.Background(), Epoch, func(rec *store.Record) error { all = append(all, rec); return nil })
	if err != nil {
		r.Fatal(err)
	}
	return all, report
}

func keepsRecords(r *rig) {
	bare := &store.Record{ID: 2, Canonical: []byte("x"), Created: Epoch, Expires: Epoch.Add(time.Minute), Answer: []byte("y")}
	r.put(Record(1))
	r.put(bare)
	for _, when := range []string{"open", "reopened"} {
		all, report := r.load()
		if len(all) != 2 || report != (store.LoadReport{Records: 2, LastID: 2}) {
			r.Fatalf("%s: %d records, %+v", when, len(all), report)
		}
		for i, want := range []*store.Record{Record(1), {ID: 2, Canonical: []byte("x"), Created: Epoch, Expires: Epoch.Add(time.Minute), Answer: []byte("y")}} {
			answer, err := r.Answer(want.ID)
			if err != nil || string(answer) != string(want.Answer) {
				r.Errorf("%s: answer %q %v", when, answer, err)
			}
			want.AnswerBytes, want.Answer = len(want.Answer), nil
			if !reflect.DeepEqual(all[i], want) {
				r.Errorf("%s:\n%+v\n%+v", when, all[i], want)
			}
		}
		r.reopen()
	}
	if _, err := r.Answer(99); !errors.Is(err, store.ErrNotFound) {
		r.Errorf("no such record: %v", err)
	}
}

func replaces(r *rig) {
	r.put(Record(1))
	again := Record(1)
	again.Answer, again.Expires = []byte("new"), Epoch.Add(-time.Second)
	r.put(again)
	if answer, err := r.Answer(1); err != nil || string(answer) != "new" {
		r.Errorf("%q %v", answer, err)
	}
	if ids, err := r.Expired(Epoch, 10); err != nil || len(ids) != 1 {
		r.Errorf("expired %v %v", ids, err)
	}
	back := Record(1)
	r.put(back)
	if ids, err := r.Expired(Epoch, 10); err != nil || len(ids) != 0 {
		r.Errorf("the expiry of a replaced record is still there: %v %v", ids, err)
	}
}

func deletes(r *rig) {
	for id := range uint64(5) {
		r.put(Record(id + 1))
	}
	done := make(chan error, 1)
	if err := r.Delete([]uint64{2, 4, 77}, true, func(err error) { done <- err }); err != nil {
		r.Fatal(err)
	}
	if err := <-done; err != nil {
		r.Fatal(err)
	}
	r.reopen()
	if all, _ := r.load(); len(all) != 3 || all[0].ID != 1 || all[1].ID != 3 || all[2].ID != 5 {
		r.Errorf("left: %d records", len(all))
	}
	if _, err := r.Answer(2); !errors.Is(err, store.ErrNotFound) {
		r.Errorf("a deleted answer: %v", err)
	}
	if ids, _ := r.Expired(Epoch.Add(2*time.Hour), 10); len(ids) != 3 {
		r.Errorf("expired %v: deleted records must leave nothing behind", ids)
	}
}

func loadsInOrder(r *rig) {
	const n = 5000
	for id := uint64(n); id > 0; id-- {
		if err := r.Put(Record(id), false, nil); err != nil {
			r.Fatal(err)
		}
	}
	if err := r.Sync(context.Background()); err != nil {
		r.Fatal(err)
	}
	all, report := r.load()
	if len(all) != n || report.LastID != n {
		r.Fatalf("%d records, %+v", len(all), report)
	}
	for i, rec := range all {
		if rec.ID != uint64(i+1) {
			r.Fatalf("record %d has ID %d", i, rec.ID)
		}
	}
	if s := r.Stats(); s.Records != n || s.Pending != 0 || s.Failed != 0 {
		r.Errorf("stats %+v", s)
	}
}

func expires(r *rig) {
	for id := range uint64(10) {
		rec := Record(id + 1)
		rec.Expires = Epoch.Add(time.Duration(5-int(id)) * time.Minute) // 10 expires first
		r.put(rec)
	}
	all, report := r.load() // 6 expires at Epoch exactly: it is over
	if len(all) != 5 || report.Expired != 5 {
		r.Errorf("%d loaded, %+v", len(all), report)
	}
	ids, err := r.Expired(Epoch, 3)
	if err != nil || !reflect.DeepEqual(ids, []uint64{10, 9, 8}) {
		r.Errorf("%v %v: want the three soonest", ids, err)
	}
	if ids, _ := r.Expired(Epoch, 100); len(ids) != 5 {
		r.Errorf("%v", ids)
	}
}

func neverReusesIDs(r *rig) {
	r.put(Record(5))
	r.put(Record(9))
	r.Delete([]uint64{9}, false, nil)
	r.reopen()
	if _, report := r.load(); report.LastID != 9 || report.Records != 1 {
		r.Errorf("%+v: the ID of a deleted record may not be used again", report)
	}
}

func reportsEachWrite(r *rig) {
	const n = 500
	calls := make(chan uint64, 2*n)
	for id := range uint64(n) {
		if err := r.Put(Record(id+1), true, func(err error) {
			if err != nil {
				r.Error(err)
			}
			calls <- id
		}); err != nil {
			r.Fatal(err)
		}
	}
	seen := make(map[uint64]bool)
	for range n {
		seen[<-calls] = true
	}
	if err := r.Sync(context.Background()); err != nil {
		r.Fatal(err)
	}
	if len(seen) != n || len(calls) != 0 {
		r.Errorf("%d writes reported, %d reports too many", len(seen), len(calls))
	}
}

func refusesBadRecords(r *rig) {
	big := Record(1)
	big.Answer = make([]byte, store.MaxText+1)
	if err := r.Put(big, true, func(error) { r.Error("done was called") }); !errors.Is(err, store.ErrTooLarge) {
		r.Errorf("%v, want ErrTooLarge", err)
	}
	if err := r.Put(&store.Record{}, false, nil); err == nil {
		r.Error("a record without an ID was accepted")
	}
	r.put(Record(2))
	if all, _ := r.load(); len(all) != 1 {
		r.Errorf("%d records", len(all))
	}
}

func closes(r *rig) {
	r.put(Record(1))
	r.reopen()
	s := r.Store
	r.stop()
	if err := s.Put(Record(2), false, nil); !errors.Is(err, store.ErrClosed) {
		r.Errorf("put: %v", err)
	}
	if err := s.Delete([]uint64{1}, false, nil); !errors.Is(err, store.ErrClosed) {
		r.Errorf("delete: %v", err)
	}
	if _, err := s.Answer(1); !errors.Is(err, store.ErrClosed) {
		r.Errorf("answer: %v", err)
	}
	if err := s.Sync(context.Background()); !errors.Is(err, store.ErrClosed) {
		r.Errorf("sync: %v", err)
	}
	if err := s.Close(); err != nil {
		r.Errorf("closing twice: %v", err)
	}
	r.start()
}

func loadStops(r *rig) {
	r.put(Record(1))
	r.put(Record(2))
	stop := errors.New("enough")
	n := 0
	if _, err := r.Load(context.Background(), Epoch, func(*store.Record) error { n++; return stop }); err != stop || n != 1 {
		r.Errorf("%v after %d", err, n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Load(ctx, Epoch, func(*store.Record) error { return nil }); !errors.Is(err, context.Canceled) {
		r.Errorf("%v, want context.Canceled", err)
	}
}

func lastWriteWins(r *rig) {
	for range 50 {
		r.Put(Record(1), false, nil)
		r.Delete([]uint64{1}, false, nil)
	}
	r.Put(Record(2), false, nil)
	r.Delete([]uint64{2}, false, nil)
	r.Put(Record(2), false, nil)
	r.reopen()
	if all, _ := r.load(); len(all) != 1 || all[0].ID != 2 {
		r.Errorf("%d records: writes are not applied in order", len(all))
	}
}

func concurrent(r *rig) {
	var wg sync.WaitGroup
	for n := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(100) {
				id := n*1000 + i + 1
				r.put(Record(id))
				if answer, err := r.Answer(id); err != nil || string(answer) != fmt.Sprintf("answer %d", id) {
					r.Errorf("%q %v", answer, err)
				}
				if i%3 == 0 {
					r.Delete([]uint64{id}, false, nil)
				}
				r.Stats()
				r.Expired(Epoch, 5)
			}
		})
	}
	wg.Wait()
	r.reopen()
	if all, _ := r.load(); len(all) != 4*66 {
		r.Errorf("%d records, want %d", len(all), 4*66)
	}
}
