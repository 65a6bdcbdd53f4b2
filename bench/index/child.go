package main

import (
	"bufio"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"github.com/semcached/semcached/bench/index/vectors"
)

// A rival in a process of its own reads commands from its standard input and writes
// answers to its standard output, little-endian:
//
//	command  6 u32: 'B' rows dims M efConstruction threads, then the rows in float32
//	answer   f64 inserts a second of one thread during the last tenth, f64 bytes per row
//
//	command  6 u32: 'A' questions dims k ef 0, then the questions in float32
//	answer   for each question u32 nanoseconds and k u32 rows (or 2^32-1: none),
//	         then u64 memory allocations during all of them
//
// It ends with its input. Threads fill the first nine tenths, one the rest.
type child struct {
	label string
	cmd   *exec.Cmd
	in    *bufio.Writer
	pipe  io.Closer
	out   *bufio.Reader
	dims  int
	buf   []byte
}

// The graphs of rivals are built as hnswlib's manual and the papers do.
const rivalM, rivalBuild, rivalThreads = 16, 200, 2

//go:embed hnswlib/driver.cpp
var hnswlibDriver string

// compileHNSWLib makes the driver of hnswlib in dir.
func compileHNSWLib(dir string) (string, error) {
	bin := filepath.Join(dir, "hnswlib")
	cmd := exec.Command("g++", "-O3", "-march=native", "-std=c++17", "-pthread", "-x", "c++", "-o", bin, "-")
	cmd.Stdin = strings.NewReader(hnswlibDriver)
	return bin, compiled(cmd)
}

// compileWeaviate makes the driver of weaviate's graph, which is in a module of its own.
func compileWeaviate(dir string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	bin := filepath.Join(dir, "weaviate")
	return bin, compiled(exec.Command("go", "build", "-C", filepath.Join(strings.TrimSpace(string(root)), "bench", "rivals"), "-o", bin, "./weaviate"))
}

// compiled runs a compiler; its first line of complaint becomes the error.
func compiled(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%w: %.200s", err, line)
	}
	return nil
}

func (c *child) name() string { return c.label }

func startChild(label, bin string) (*child, error) {
	c := &child{label: label, cmd: exec.Command(bin)}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.cmd.Stderr = os.Stderr
	c.pipe, c.in, c.out = in, bufio.NewWriterSize(in, 1<<20), bufio.NewReaderSize(out, 1<<20)
	return c, c.cmd.Start()
}

func (c *child) close() {
	c.pipe.Close()
	c.cmd.Wait()
}

func (c *child) send(head ...uint32) {
	for len(head) < 6 {
		head = append(head, 0)
	}
	binary.Write(c.in, binary.LittleEndian, head)
}

// floats sends a vector as it lies in memory; little-endian processors only.
func (c *child) floats(v []float32) {
	if len(v) > 0 {
		c.in.Write(unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v)))
	}
}

// receive reads n bytes after everything has been sent.
func (c *child) receive(n int) ([]byte, error) {
	if err := c.in.Flush(); err != nil {
		return nil, fmt.Errorf("send to %s: %w", c.label, err)
	}
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	if _, err := io.ReadFull(c.out, c.buf[:n]); err != nil {
		return nil, fmt.Errorf("read from %s: %w", c.label, err)
	}
	return c.buf[:n], nil
}

func (c *child) fill(s *vectors.Set) (filled, error) {
	c.dims = s.Dims
	c.send('B', uint32(s.N), uint32(s.Dims), rivalM, rivalBuild, rivalThreads)
	c.floats(s.Rows())
	b, err := c.receive(16)
	if err != nil {
		return filled{}, err
	}
	return filled{
		rate:  math.Float64frombits(binary.LittleEndian.Uint64(b)),
		bytes: math.Float64frombits(binary.LittleEndian.Uint64(b[8:])),
	}, nil
}

func (c *child) ask(q query, questions [][]float32, a *answers) error {
	c.send('A', uint32(len(questions)), uint32(c.dims), uint32(q.k), uint32(q.width))
	for _, v := range questions {
		c.floats(v)
	}
	b, err := c.receive(len(questions)*4*(1+q.k) + 8)
	if err != nil {
		return err
	}
	a.reset(len(questions))
	for i := range questions {
		a.times = append(a.times, time.Duration(binary.LittleEndian.Uint32(b)))
		for b = b[4:]; len(a.rows[i]) < q.k; b = b[4:] {
			row := binary.LittleEndian.Uint32(b)
			if row == math.MaxUint32 {
				a.rows[i] = append(a.rows[i], -1)
			} else {
				a.rows[i] = append(a.rows[i], int(row))
			}
		}
	}
	a.allocs = binary.LittleEndian.Uint64(b)
	return nil
}
