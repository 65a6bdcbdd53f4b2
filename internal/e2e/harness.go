// Package e2e drives the built semcached binary as its users do: over HTTP, in
// a process of its own, with a stand-in or a real Ollama behind it.
//
// This file is the harness; the module in clients/ uses it as well, with the
// real SDKs.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Build compiles the binary into dir and returns its path. Tests call it once,
// from TestMain. SEMCACHED_BIN names a binary to use instead.
func Build(dir string) (string, error) {
	if bin := os.Getenv("SEMCACHED_BIN"); bin != "" {
		return bin, nil
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..")
	bin := filepath.Join(dir, "semcached")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/semcached")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build semcached: %w\n%s", err, out)
	}
	return bin, nil
}

// Server is a running semcached process.
type Server struct {
	URL   string // main listener
	Admin string // admin listener
	Data  string // data folder

	t     testing.TB
	bin   string
	args  []string
	addrs []string // flags of the addresses
	env   []string
	cmd   *exec.Cmd
	exit  chan error
	out   *logBuffer
}

// Config says how to start a Server.
type Config struct {
	Bin      string   // path of the binary
	Upstream string   // URL of Ollama
	Data     string   // default: a temporary folder
	Args     []string // further flags of serve
	Env      []string // further environment
}

// Start runs `semcached serve` and returns when the cache has joined. The
// process is killed when the test ends, and its log printed if the test failed.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Data == "" {
		c.Data = t.TempDir()
	}
	s := &Server{Data: c.Data, t: t, bin: c.Bin, env: c.Env, out: new(logBuffer)}
	s.args = append([]string{"serve", "--data", c.Data, "--upstream", c.Upstream}, c.Args...)
	s.chooseAddresses()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("log of semcached:\n%s", s.out)
		}
	})
	s.Restart()
	return s
}

// chooseAddresses picks free ports for the next start.
func (s *Server) chooseAddresses() {
	listen, admin := FreeAddr(s.t), FreeAddr(s.t)
	s.URL, s.Admin = "http://"+listen, "http://"+admin
	s.addrs = []string{"--listen", listen, "--admin", admin}
}

// Restart starts the process again, with the same addresses and data; the one
// before must have ended. Only if somebody has taken a port meanwhile are there
// new addresses.
func (s *Server) Restart() {
	s.t.Helper()
	s.launch()
	tries := 0
	s.Eventually("readyz", func() error {
		select {
		case err := <-s.exit:
			if tries++; tries > 5 || !strings.Contains(s.out.String(), "address already in use") {
				s.exit <- err
				s.t.Fatalf("semcached ended while starting: %v\n%s", err, s.out)
			}
			s.chooseAddresses()
			s.launch()
		default:
		}
		return get(s.Admin + "/readyz")
	})
}

func (s *Server) launch() {
	s.t.Helper()
	s.cmd = exec.Command(s.bin, append(s.args, s.addrs...)...)
	s.cmd.Env = append(environ(), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exit = make(chan error, 1)
	go func(cmd *exec.Cmd, exit chan<- error) { exit <- cmd.Wait() }(s.cmd, s.exit)
}

// environ is the environment without settings that would reach semcached.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); {
		case strings.HasPrefix(name, "SEMCACHED_"), strings.HasPrefix(name, "OLLAMA_"), strings.HasPrefix(name, "OPENAI_"), strings.HasPrefix(name, "OTEL_"):
		default:
			env = append(env, kv)
		}
	}
	return env
}

func get(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return err
}

// Kill ends the process at once, as kill -9 does.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the process in good order and returns its exit error.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Signal sends the process a signal and does not wait.
func (s *Server) Signal(sig os.Signal) { s.cmd.Process.Signal(sig) }

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return errors.New("not running")
	}
	s.cmd.Process.Signal(sig)
	select {
	case err := <-s.exit:
		s.cmd = nil
		return err
	case <-time.After(40 * time.Second):
		s.cmd.Process.Kill()
		s.t.Errorf("semcached did not end within 40 s of %v", sig)
		return <-s.exit
	}
}

// Log returns what the process has printed so far.
func (s *Server) Log() string { return s.out.String() }

// Eventually polls until ok returns nil, for what happens outside this process
// and announces itself to nobody. It fails the test after a minute.
func (s *Server) Eventually(what string, ok func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("%s: %v\n%s", what, err, s.out)
		}
	}
}

// The ports that FreeAddr gives out lie below those that Linux gives to whoever asks for
// any (from 32768 on), so that no connection is given one of them meanwhile.
const firstPort, portCount = 20_000, 12_000

var tried atomic.Uint32 // ports, by FreeAddr

// FreeAddr returns a loopback address that nobody listens on now, another one each time.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range portCount {
		// Processes that test at the same time begin at different ports.
		n := (uint32(os.Getpid())*101 + tried.Add(1)) % portCount
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+n))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// logBuffer collects the output of a process.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
