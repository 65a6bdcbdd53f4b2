package bolt

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

// The benchmarks work on a file of -entries records, which is made in -dir once and
// used again. A million of them need 4 GB and a minute:
//
//	go test ./store/bolt -run - -bench . -benchtime 1x -entries 1000000 -dir /var/tmp/bench
var (
	entries = flag.Int("entries", 20_000, "records in the benchmarks' data file")
	dir     = flag.String("dir", "", "where the benchmarks' data file is kept")
)

// benchFile returns a data file of *entries records, and the next free ID.
func benchFile(b *testing.B) (path string, next uint64) {
	b.Helper()
	folder := *dir
	if folder == "" {
		folder = b.TempDir()
	}
	path = filepath.Join(folder, fmt.Sprint(*entries, ".db"))
	if _, err := os.Stat(path); err == nil {
		s, err := Open(Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		return path, s.state.lastID + 1
	}
	w, err := newBuilder(path)
	if err != nil {
		b.Fatal(err)
	}
	for id := range uint64(*entries) {
		if err := w.put(benchRecord(id + 1)); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(w.flush(), w.finish()); err != nil {
		b.Fatal(err)
	}
	w.h.close()
	return path, uint64(*entries) + 1
}

func benchStore(b *testing.B, path string) *Store {
	b.Helper()
	s, err := Open(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	return s
}

// BenchmarkStoreRate puts 50,000 records as fast as the queue takes them, and waits
// until all are durable.
func BenchmarkStoreRate(b *testing.B) {
	const n = 50_000
	path, next := benchFile(b)
	s := benchStore(b, path)
	records := make([]*store.Record, n)
	for b.Loop() {
		b.StopTimer()
		for i := range records {
			records[i] = benchRecord(next)
			next++
		}
		b.StartTimer()
		start := time.Now()
		for _, r := range records {
			for errors.Is(s.Put(r, false, nil), store.ErrBusy) {
				time.Sleep(time.Millisecond)
			}
		}
		if err := s.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(n/time.Since(start).Seconds(), "entries/s")
	}
}

// BenchmarkSyncPut stores single records and waits for each; in turn with it, as many
// bytes are appended to a plain file and synced.
func BenchmarkSyncPut(b *testing.B) {
	const n = 2000
	path, next := benchFile(b)
	s := benchStore(b, path)
	raw, err := os.Create(filepath.Join(filepath.Dir(path), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	line := make([]byte, 3000)
	for b.Loop() {
		var ours, theirs []time.Duration
		for range n {
			r := benchRecord(next)
			next++
			start := time.Now()
			if err := put(s, r); err != nil {
				b.Fatal(err)
			}
			ours = append(ours, time.Since(start))
			start = time.Now()
			raw.Write(line)
			if err := raw.Sync(); err != nil {
				b.Fatal(err)
			}
			theirs = append(theirs, time.Since(start))
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		us := func(d time.Duration) float64 { return float64(d.Microseconds()) }
		b.ReportMetric(us(ours[n/2]), "p50-us")
		b.ReportMetric(us(ours[n*99/100]), "p99-us")
		b.ReportMetric(us(theirs[n/2]), "raw-p50-us")
		b.ReportMetric(us(theirs[n*99/100]), "raw-p99-us")
		b.ReportMetric(us(ours[n/2])/us(theirs[n/2]), "p50-ratio")
		b.ReportMetric(us(ours[n*99/100])/us(theirs[n*99/100]), "p99-ratio")
	}
}

// forget drops a file from the page cache.
func forget(b *testing.B, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart opens the file with a cold page cache and reads all that a start needs:
// the rows, or a snapshot of 600 bytes a record, which is what codes, 8-bit rows and
// texts come to.
func BenchmarkStart(b *testing.B) {
	path, _ := benchFile(b)
	b.Run("from=rows", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			forget(b, path)
			b.StartTimer()
			s, err := Open(Options{Path: path})
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			if _, err := s.Load(b.Context(), storetest.Epoch, func(*store.Record) error { n++; return nil }); err != nil || n < *entries {
				b.Fatal(n, err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
	b.Run("from=snapshot", func(b *testing.B) {
		s, err := Open(Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		content := bytes.Repeat([]byte("0123456789"), 60)
		err = s.SaveSnapshot(s.Seq(), func(w io.Writer) (err error) {
			for i := 0; i < *entries && err == nil; i++ {
				_, err = w.Write(content)
			}
			return err
		})
		if err := errors.Join(err, s.Close()); err != nil {
			b.Fatal(err)
		}
		defer os.Remove(path + snapshotSuffix)
		for b.Loop() {
			b.StopTimer()
			forget(b, path)
			forget(b, path+snapshotSuffix)
			b.StartTimer()
			s, err := Open(Options{Path: path})
			if err != nil {
				b.Fatal(err)
			}
			seq, r, err := s.Snapshot()
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != int64(*entries*len(content)) {
				b.Fatal(n, err)
			}
			r.Close()
			if err := s.Changes(b.Context(), seq, func(store.Change) error { return nil }); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
}
