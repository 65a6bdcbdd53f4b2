// Command weaviate serves the graph of https://github.com/weaviate/weaviate (BSD-3-Clause)
// to bench/index, whose child.go tells how they speak. It keeps its commit log and its store
// to itself: the log writes nothing, the store stays empty.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
	"github.com/weaviate/weaviate/adapters/repos/db/lsmkv"
	"github.com/weaviate/weaviate/adapters/repos/db/vector/hnsw"
	"github.com/weaviate/weaviate/adapters/repos/db/vector/hnsw/distancer"
	"github.com/weaviate/weaviate/entities/cyclemanager"
	ent "github.com/weaviate/weaviate/entities/vectorindex/hnsw"
	"github.com/weaviate/weaviate/usecases/memwatch"
)

func main() {
	if err := serve(bufio.NewReaderSize(os.Stdin, 1<<20), bufio.NewWriterSize(os.Stdout, 1<<20)); err != nil {
		fmt.Fprintln(os.Stderr, "weaviate:", err)
		os.Exit(1)
	}
}

// serve answers commands until the input ends.
func serve(in *bufio.Reader, out *bufio.Writer) error {
	dir, err := os.MkdirTemp("", "semcached-weaviate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var g *graph
	for {
		var head [6]uint32
		if err := binary.Read(in, binary.LittleEndian, &head); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		vectors, err := floats(in, int(head[1]), int(head[2]))
		if err != nil {
			return err
		}
		if head[0] == 'B' {
			g, err = build(dir, vectors, head[3], head[4], int(head[5]), out)
		} else {
			err = g.answer(vectors, int(head[3]), int(head[4]), out)
		}
		if err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// floats reads n vectors as they lie in memory, of little-endian processors.
func floats(in io.Reader, n, dims int) ([][]float32, error) {
	all := make([]float32, max(1, n*dims))
	if _, err := io.ReadFull(in, unsafe.Slice((*byte)(unsafe.Pointer(&all[0])), 4*n*dims)); err != nil {
		return nil, err
	}
	vectors := make([][]float32, n)
	for i := range vectors {
		vectors[i] = all[i*dims : (i+1)*dims : (i+1)*dims]
	}
	return vectors, nil
}

// graph is weaviate's with the configuration that its width is changed in.
type graph struct {
	*hnsw.HNSW
	user ent.UserConfig
}

// newGraph makes an empty graph that asks for vectors it does not have in its cache.
func newGraph(dir string, vectors [][]float32, m, width int) (*graph, error) {
	log := logrus.New()
	log.Out = io.Discard
	none := cyclemanager.NewCallbackGroupNoop()
	store, err := lsmkv.New(dir, dir, log, nil, none, none, none)
	if err != nil {
		return nil, err
	}
	user := ent.NewDefaultUserConfig()
	user.MaxConnections, user.EFConstruction, user.EF = m, width, width
	index, err := hnsw.New(hnsw.Config{
		RootPath: dir, ID: "bench", Logger: log,
		MakeCommitLoggerThunk: hnsw.MakeNoopCommitLogger,
		AllocChecker:          memwatch.NewDummyMonitor(),
		DistanceProvider:      distancer.NewCosineDistanceProvider(),
		VectorForIDThunk:      func(_ context.Context, id uint64) ([]float32, error) { return vectors[id], nil },
	}, user, none, store)
	if err != nil {
		return nil, err
	}
	return &graph{index, user}, nil
}

// build fills a graph and writes what that showed.
func build(dir string, vectors [][]float32, m, width uint32, threads int, out io.Writer) (*graph, error) {
	before := heap()
	g, err := newGraph(dir, vectors, int(m), int(width))
	if err != nil {
		return nil, err
	}
	most := len(vectors) - len(vectors)/10
	if err := g.add(vectors, 0, most, threads); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := g.add(vectors, most, len(vectors), 1); err != nil {
		return nil, err
	}
	rate := float64(len(vectors)-most) / time.Since(start).Seconds()
	bytes := (heap() - before) / float64(len(vectors))
	return g, binary.Write(out, binary.LittleEndian, [2]float64{rate, bytes})
}

func (g *graph) add(vectors [][]float32, from, to, threads int) error {
	var next atomic.Int64
	next.Store(int64(from))
	faults := make(chan error, threads) // one each, so that none waits
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < to; i = int(next.Add(1)) - 1 {
				if err := g.Add(context.Background(), uint64(i), vectors[i]); err != nil {
					faults <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(faults)
	return <-faults
}

// answer asks for the k nearest of each question and writes times, rows and allocations.
func (g *graph) answer(questions [][]float32, k, width int, out io.Writer) error {
	if g.user.EF != width {
		g.user.EF = width
		if err := g.UpdateUserConfig(g.user, func() {}); err != nil {
			return err
		}
	}
	answers := make([]uint32, 0, len(questions)*(1+k))
	before := allocations()
	for _, q := range questions {
		start := time.Now()
		ids, _, err := g.SearchByVector(context.Background(), q, k, nil)
		took := time.Since(start)
		if err != nil {
			return err
		}
		answers = append(answers, uint32(took.Nanoseconds()))
		for i := range k {
			row := uint32(math.MaxUint32)
			if i < len(ids) {
				row = uint32(ids[i])
			}
			answers = append(answers, row)
		}
	}
	count := allocations() - before
	if err := binary.Write(out, binary.LittleEndian, answers); err != nil {
		return err
	}
	return binary.Write(out, binary.LittleEndian, count)
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// heap is the memory in use by Go values.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
