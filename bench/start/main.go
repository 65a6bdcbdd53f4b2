// Command start measures how long a start takes until semantic lookups are answered:
// from a snapshot, and from the records alone, with cold files.
//
// It fills a data file in -dir first if there is none yet. Vectors are clustered as
// those of real prompts are; answers have 1,200 bytes.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"golang.org/x/sys/unix"

	"github.com/semcached/semcached/cache"
	"github.com/semcached/semcached/index"
	"github.com/semcached/semcached/index/sketch"
	"github.com/semcached/semcached/store/bolt"
)

const clusters = 1000

func main() {
	n := flag.Int("n", 100_000, "entries")
	dims := flag.Int("dims", 384, "of the vectors")
	dir := flag.String("dir", "", "folder for the data file; it stays")
	profile := flag.String("profile", "", "file for a CPU profile of the starts")
	rounds := flag.Int("rounds", 3, "starts of each kind")
	records := flag.Bool("records", true, "measure starts from the records too")
	flag.Parse()
	if *dir == "" {
		flag.Usage()
		os.Exit(2)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	if err := run(filepath.Join(*dir, fmt.Sprintf("start-%d-%d.db", *n, *dims)), *n, *dims, *rounds, *records); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string, n, dims, rounds int, records bool) error {
	if _, err := os.Stat(path); err != nil {
		if err := fill(path, n, dims); err != nil {
			return err
		}
	}
	for _, snapshot := range []bool{true, false} {
		if !snapshot && !records {
			break
		}
		for range rounds {
			if err := start(path, n, dims, snapshot); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the file and makes an engine that has not loaded it yet. close ends both.
func open(path string, snapshot bool) (e *cache.Engine, close func() error, err error) {
	s, err := bolt.Open(bolt.Options{Path: path, QueueBytes: 256 << 20})
	if err != nil {
		return nil, nil, err
	}
	o := cache.Options{
		Store: s, MaxBytes: 64 << 30, TTL: 1000 * time.Hour, AnswerMemory: 1 << 20,
		NewIndex: func(dims int) index.Index { return sketch.New(dims) },
	}
	if snapshot {
		o.LoadIndex = func(r io.Reader) (index.Index, error) { return sketch.Load(r) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); done <- struct{}{} }()
	e, err = cache.New(o)
	return e, func() error { cancel(); <-done; return s.Close() }, err
}

// question returns the i-th one, always the same.
func question(i, dims int) *cache.Query {
	rng, centre := rand.New(rand.NewPCG(uint64(i), 1)), rand.New(rand.NewPCG(uint64(i%clusters), 2))
	v := make([]float32, dims)
	for j := range v {
		v[j] = float32(0.6*centre.NormFloat64() + 0.8*rng.NormFloat64())
	}
	prompt := fmt.Sprintf("Where does berth %d of harbour %d lie at low water?", i, i%clusters)
	return &cache.Query{
		Tenant: "local", Op: "chat", Model: "reef", Prompt: prompt, Scope: []byte("scope"), Vector: v, MaxAge: -1,
		Canonical: fmt.Appendf(nil, `{"messages":[{"content":%q,"role":"user"}],"model":"reef","op":"chat","options":{"temperature":0}}`, prompt),
	}
}

func fill(path string, n, dims int) error {
	e, end, err := open(path, true)
	if err != nil {
		return err
	}
	if _, err := e.Load(context.Background()); err != nil {
		return err
	}
	began := time.Now()
	for i := range n {
		answer := make([]byte, 1200)
		_, err := e.Store(context.Background(), question(i, dims), cache.Answer{Encoded: answer, Cost: time.Second}, cache.StoreOptions{Sync: i%2000 == 1999})
		if err != nil {
			return err
		}
	}
	fmt.Printf("filled with %d entries in %v\n", n, time.Since(began).Round(time.Second))
	began = time.Now()
	if err := e.Snapshot(context.Background()); err != nil {
		return err
	}
	fmt.Printf("snapshot made in %v\n", time.Since(began).Round(time.Millisecond))
	return end()
}

// start measures one start from cold files.
func start(path string, n, dims int, snapshot bool) error {
	var size int64
	for _, name := range []string{path, path + ".snapshot"} {
		b, err := chill(name)
		if err != nil {
			return err
		}
		if snapshot == (name != path) {
			size = b
		}
	}
	began := time.Now()
	e, end, err := open(path, snapshot)
	if err != nil {
		return err
	}
	opened := time.Since(began)
	report, err := e.Load(context.Background())
	if err != nil {
		return err
	}
	ready := time.Since(began)
	q := question(n/2, dims)
	q.Canonical = []byte("worded otherwise")
	res := e.Lookup(context.Background(), q)
	if res.Kind != cache.Semantic || report.Records != n || report.Snapshot != snapshot {
		return fmt.Errorf("loaded %d of %d (snapshot: %v), the lookup is a %v (%s)", report.Records, n, report.Snapshot, res.Kind, res.Reason)
	}
	from := "records "
	if snapshot {
		from = "snapshot"
	}
	fmt.Printf("n=%d dims=%d from=%s: ready in %.2f s (open %.2f s), first semantic hit after %.2f s; %d MiB file\n",
		n, dims, from, ready.Seconds(), opened.Seconds(), time.Since(began).Seconds(), size>>20)
	return end()
}

// chill drops a file from the page cache and returns its size.
func chill(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
