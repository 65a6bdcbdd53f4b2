package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SEMCACHED_TEST_CRASH"); path != "" {
		crashChild(path, os.Getenv("SEMCACHED_TEST_ASYNC") != "")
		return
	}
	goleak.VerifyTestMain(m)
}

func TestBoltConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "data", "semcached.db")
		t.Cleanup(func() { checkFile(t, path) })
		return func() store.Store {
			s, err := Open(Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

// checkFile verifies every page and every value of a closed file.
func checkFile(t *testing.T, path string) {
	t.Helper()
	r, err := Check(context.Background(), path, storetest.Epoch)
	if err != nil {
		t.Errorf("check: %v", err)
	} else if !r.Sound() {
		t.Errorf("check: %+v", r)
	}
}

// running opens a store and runs it until the test ends or stop is called.
func running(t *testing.T, o Options) (s *Store, stop func()) {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
			s.Close()
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func put(s *Store, r *store.Record) error {
	done := make(chan error, 1)
	if err := s.Put(r, true, func(err error) { done <- err }); err != nil {
		return err
	}
	return <-done
}

// filled returns the path of a closed file with n records.
func filled(t *testing.T, n uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "semcached.db")
	s, stop := running(t, Options{Path: path})
	for id := range n {
		s.Put(storetest.Record(id+1), false, nil)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	return path
}

func loaded(t *testing.T, s *Store) (ids []uint64, report store.LoadReport) {
	t.Helper()
	report, err := s.Load(t.Context(), storetest.Epoch, func(r *store.Record) error { ids = append(ids, r.ID); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids, report
}

func TestSecondProcessIsTurnedAway(t *testing.T) {
	path := filled(t, 1)
	running(t, Options{Path: path})
	const wait = 200 * time.Millisecond
	start := time.Now()
	if _, err := Open(Options{Path: path, LockTimeout: wait}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("%v, want ErrLocked", err)
	}
	if d := time.Since(start); d < wait || d > 100*wait {
		t.Errorf("told after %v", d)
	}
}

func countLog(keys *int) func(tx *bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		*keys = tx.Bucket(bucketLog).Stats().KeyN
		return nil
	}
}

func edit(t *testing.T, path string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecordsArePutAside(t *testing.T) {
	path := filled(t, 3)
	edit(t, path, func(tx *bbolt.Tx) error {
		v := bytes.Clone(tx.Bucket(bucketEntry).Get(idKey(2)))
		v[40] ^= 1
		if err := tx.Bucket(bucketEntry).Put(idKey(2), v); err != nil {
			return err
		}
		a := bytes.Clone(tx.Bucket(bucketAnswer).Get(idKey(3)))
		a[2] ^= 1
		return tx.Bucket(bucketAnswer).Put(idKey(3), a)
	})
	s, stop := running(t, Options{Path: path})
	ids, report := loaded(t, s)
	if len(ids) != 2 || ids[0] != 1 || ids[1] != 3 || report.Corrupt != 1 {
		t.Errorf("%v %+v", ids, report)
	}
	if _, err := s.Answer(3); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("damaged answer: %v", err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Answer(3); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is met a second time: %v", err)
	}
	if st := s.Stats(); st.Corrupt != 2 || st.Records != 1 {
		t.Errorf("%+v", st)
	}
	s.Expired(storetest.Epoch.Add(2*time.Hour), 10) // finds the expiry of record 2, which nobody can read
	stop()
	checkFile(t, path)
}

// TestDamagedFilesNeverStopTheService damages files in every way a disk does and
// then opens, loads, reads and writes them.
func TestDamagedFilesNeverStopTheService(t *testing.T) {
	path := filled(t, 3000)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	rng := rand.New(rand.NewPCG(4, 2))
	damage := map[string]func(b []byte) []byte{
		"empty":        func([]byte) []byte { return nil },
		"garbage":      func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 2000) },
		"short":        func(b []byte) []byte { return b[:100] },
		"one page":     func(b []byte) []byte { return b[:page] },
		"both metas":   func(b []byte) []byte { clear(b[:2*page]); return b },
		"first meta":   func(b []byte) []byte { clear(b[:page]); return b },
		"second meta":  func(b []byte) []byte { clear(b[page : 2*page]); return b },
		"other format": func(b []byte) []byte { copy(b[16:], "SQLite"); copy(b[page+16:], "SQLite"); return b },
	}
	for i := range 5 {
		damage[fmt.Sprint("cut ", i)] = func(b []byte) []byte { return b[:2*page+rng.IntN(len(b)-2*page)] }
		damage[fmt.Sprint("zero page ", i)] = func(b []byte) []byte {
			at := 2*page + rng.IntN(len(b)/page-2)*page
			clear(b[at : at+page])
			return b
		}
		damage[fmt.Sprint("sector ", i)] = func(b []byte) []byte {
			at := 2*page + rng.IntN((len(b)-2*page)/512)*512
			for j := range 512 {
				b[at+j] = byte(rng.Uint32())
			}
			return b
		}
		damage[fmt.Sprint("bits ", i)] = func(b []byte) []byte {
			for range 20 {
				b[2*page+rng.IntN(len(b)-2*page)] ^= 1 << rng.IntN(8)
			}
			return b
		}
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "semcached.db")
			if err := os.WriteFile(path, f(bytes.Clone(whole)), 0o600); err != nil {
				t.Fatal(err)
			}
			s, _ := running(t, Options{Path: path})
			ids, _ := loaded(t, s)
			for _, id := range ids {
				if answer, err := s.Answer(id); err == nil && string(answer) != fmt.Sprint("answer ", id) {
					t.Fatalf("record %d: a damaged answer was returned: %q", id, answer)
				}
			}
			// Writes may fail on damaged pages, but must end.
			err := put(s, storetest.Record(1_000_000))
			if answer, err2 := s.Answer(1_000_000); err == nil && (err2 != nil || string(answer) != "answer 1000000") {
				t.Errorf("an acknowledged write: %q %v", answer, err2)
			}
			t.Logf("%d records loaded, write: %v, moved aside: %v", len(ids), err, s.Stats().Quarantined != "")
		})
	}
}

// limitedFile makes writes fail once the file has grown to a size, as a full disk
// does. Only the file handed to bbolt is limited.
func TestFullDiskFailsWritesAndHeals(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("SKIPPED: cannot mount a small file system: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	path := filepath.Join(dir, "semcached.db")
	s, stop := running(t, Options{Path: path})
	var acked []uint64
	var failed error
	for id := uint64(1); id < 1000 && failed == nil; id++ {
		r := storetest.Record(id)
		r.Answer = append(r.Answer, make([]byte, 16<<10)...)
		if failed = put(s, r); failed == nil {
			acked = append(acked, id)
		}
	}
	if failed == nil || len(acked) == 0 {
		t.Fatalf("%d writes fit, error %v", len(acked), failed)
	}
	for _, id := range acked {
		if answer, err := s.Answer(id); err != nil || !strings.HasPrefix(string(answer), fmt.Sprint("answer ", id)) {
			t.Fatalf("acknowledged record %d after the disk was full: %v", id, err)
		}
	}
	if st := s.Stats(); st.Failed == 0 || st.LastErr == "" {
		t.Errorf("%+v", st)
	}
	r := storetest.Record(4000)
	r.Answer = make([]byte, 1<<20)
	if err := s.Put(r, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err == nil {
		t.Error("Sync hides that a write before it failed")
	}
	if s.Sync(t.Context()); s.Stats().LastErr == "" {
		t.Error("waiting for nothing has cleared the error")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	if err := put(s, storetest.Record(5000)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if st := s.Stats(); st.LastErr != "" {
		t.Errorf("%+v", st)
	}
	stop()
	checkFile(t, path)
}

// TestReserveServesAfterARestart: the first write on a disk that was full before the
// restart may be a delete.
func TestReserveServesAfterARestart(t *testing.T) {
	path := filled(t, 3)
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.writing.Lock()
	defer s.writing.Unlock()
	if !s.useReserve() {
		t.Error("the room that is kept for deletes is not used")
	}
	if s.useReserve() {
		t.Error("it is used twice")
	}
}

func TestQueueIsBounded(t *testing.T) {
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "x.db"), QueueBytes: 10 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var busy error
	n := 0
	for ; busy == nil && n < 1000; n++ { // nobody runs it
		busy = s.Put(storetest.Record(uint64(n+1)), false, nil)
	}
	if !errors.Is(busy, store.ErrBusy) || n > 30 {
		t.Errorf("%v after %d writes", busy, n)
	}
	if err := s.Delete([]uint64{1}, false, nil); err != nil {
		t.Errorf("a delete was refused: %v", err)
	}
}

func TestBackupOpens(t *testing.T) {
	path := filled(t, 100)
	s, _ := running(t, Options{Path: path})
	copyPath := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.Create(copyPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	checkFile(t, copyPath)
	c, _ := running(t, Options{Path: copyPath})
	if ids, _ := loaded(t, c); len(ids) != 100 {
		t.Errorf("%d records in the copy", len(ids))
	}
}

func TestFilesArePrivate(t *testing.T) {
	path := filled(t, 1)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

// crashChild stores records until it is killed, printing each ID once its record
// is durable, or, if async, each ID and the time as soon as Put has taken it.
func crashChild(path string, async bool) {
	s, err := Open(Options{Path: path})
	if err != nil {
		fmt.Println("ERR", err)
		return
	}
	go s.Run(context.Background())
	last := uint64(0)
	s.Load(context.Background(), storetest.Epoch, func(r *store.Record) error { last = max(last, r.ID); return nil })
	fmt.Println("READY")
	for id := last + 1; async; id++ {
		if err := s.Put(storetest.Record(id), false, nil); err != nil {
			fmt.Println("ERR", err)
			return
		}
		fmt.Println(id, time.Now().UnixNano())
		if id%5 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for id := last + 1; ; id++ {
		if err := s.Put(storetest.Record(id), true, func(err error) {
			if err == nil {
				fmt.Println(id)
			}
		}); err != nil {
			fmt.Println("ERR", err)
			return
		}
		if id%7 == 0 {
			s.Sync(context.Background())
		}
	}
}

// crashRounds is how often to kill a process: SEMCACHED_CRASH_ROUNDS, else usual.
func crashRounds(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("SEMCACHED_CRASH_ROUNDS")); err == nil {
		return n
	}
	return usual
}

// TestKillLosesNothingAcknowledged kills a writing process again and again.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	rounds := crashRounds(10)
	path := filepath.Join(t.TempDir(), "semcached.db")
	highest := uint64(0)
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SEMCACHED_TEST_CRASH="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		enough := 20 + rand.IntN(300)
		acked := readAcks(t, out, enough, func() { cmd.Process.Kill() })
		cmd.Wait()
		highest = max(highest, acked)
		s, stop := running(t, Options{Path: path})
		ids, report := loaded(t, s)
		for i, id := range ids {
			if id != uint64(i+1) {
				t.Fatalf("round %d: record %d is missing", round, i+1)
			}
		}
		if uint64(len(ids)) < highest || report.Corrupt != 0 {
			t.Fatalf("round %d: %d records, %d acknowledged, %+v", round, len(ids), highest, report)
		}
		stop()
		checkFile(t, path)
	}
	t.Logf("%d rounds, %d records acknowledged", rounds, highest)
}

// TestKillLosesTheLastMomentOnly measures what asynchronous writes lose: the records that
// were taken after the last one that is in the file.
func TestKillLosesTheLastMomentOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "semcached.db")
	worst, most, taken := time.Duration(0), 0, map[uint64]int64{}
	rounds := crashRounds(5)
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SEMCACHED_TEST_CRASH="+path, "SEMCACHED_TEST_ASYNC=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		clear(taken)
		enough, killed := 200+rand.IntN(300), time.Time{}
		for in := bufio.NewScanner(out); in.Scan(); {
			var id uint64
			var at int64
			if n, _ := fmt.Sscan(in.Text(), &id, &at); n == 2 {
				taken[id] = at
			} else if in.Text() != "READY" {
				t.Errorf("child: %q", in.Text())
			}
			if len(taken) == enough {
				cmd.Process.Kill()
				killed = time.Now()
			}
		}
		cmd.Wait()
		s, stop := running(t, Options{Path: path})
		ids, _ := loaded(t, s)
		for i, id := range ids {
			if id != uint64(i+1) {
				t.Fatalf("round %d: record %d is missing before one that is there", round, i+1)
			}
		}
		lost := 0
		for id, at := range taken {
			if id > uint64(len(ids)) {
				lost++
				worst = max(worst, killed.Sub(time.Unix(0, at)))
			}
		}
		most = max(most, lost)
		stop()
	}
	checkFile(t, path)
	t.Logf("%d rounds: kill -9 lost at most %d records, those of the last %v", rounds, most, worst.Round(100*time.Microsecond))
}

// readAcks reads IDs, calls kill after enough of them, and returns the highest
// that was printed whole.
func readAcks(t *testing.T, r io.Reader, enough int, kill func()) (highest uint64) {
	br := bufio.NewReader(r)
	for n := 0; ; n++ {
		line, err := br.ReadString('\n')
		if err != nil {
			return highest
		}
		line = strings.TrimSpace(line)
		if id, err := strconv.ParseUint(line, 10, 64); err == nil {
			highest = max(highest, id)
		} else if line != "READY" {
			t.Errorf("child: %s", line)
		}
		if n == enough {
			kill()
		}
	}
}
