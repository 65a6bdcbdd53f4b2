package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The models made from the files found by RealOllama.
const (
	TinyChat  = "tiny-chat"
	TinyEmbed = "tiny-embed"
)

// Ollama is a running Ollama server with the tiny models.
type Ollama struct {
	URL  string
	bin  string
	home string
}

// RealOllama starts an Ollama server of its own on loopback and creates the
// tiny models in it. It returns why there is none when the server (OLLAMA_BIN or
// ollama on the PATH) or the models (SEMCACHED_TEST_MODELS, or a folder models
// with a Modelfile.tiny-chat beside the checkout) are not found.
func RealOllama(t testing.TB) (o *Ollama, missing string) {
	t.Helper()
	bin := os.Getenv("OLLAMA_BIN")
	if bin == "" {
		var err error
		if bin, err = exec.LookPath("ollama"); err != nil {
			return nil, "no Ollama server: set OLLAMA_BIN or install ollama"
		}
	}
	models := modelsFolder()
	if models == "" {
		return nil, "no tiny models: set SEMCACHED_TEST_MODELS to a folder with Modelfile.tiny-chat and Modelfile.tiny-embed"
	}
	o = &Ollama{bin: bin, home: t.TempDir()}
	addr := FreeAddr(t)
	o.URL = "http://" + addr
	log := new(logBuffer)
	cmd := exec.Command(bin, "serve")
	cmd.Env = o.environ()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its runners end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			t.Logf("log of ollama:\n%s", tail(log.String(), 4000))
		}
	})
	deadline := time.Now().Add(2 * time.Minute)
	for get(o.URL) != nil {
		if time.Now().After(deadline) {
			t.Fatalf("ollama does not answer:\n%s", log)
		}
		time.Sleep(50 * time.Millisecond) // another process: nothing to wait on
	}
	for _, name := range []string{TinyChat, TinyEmbed} {
		if out, err := o.Run(o.URL, models, "create", name, "-f", "Modelfile."+name); err != nil {
			t.Fatalf("create %s: %v\n%s", name, err, out)
		}
	}
	return o, ""
}

// Run runs the ollama command line in folder dir against the server at url and
// returns what it printed.
func (o *Ollama) Run(url, dir string, args ...string) (string, error) {
	cmd := exec.Command(o.bin, args...)
	cmd.Dir = dir
	cmd.Env = append(o.environ(), "OLLAMA_HOST="+url)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (o *Ollama) environ() []string {
	return append(environ(), "HOME="+o.home, "OLLAMA_MODELS="+filepath.Join(o.home, "models"),
		"OLLAMA_HOST="+strings.TrimPrefix(o.URL, "http://"))
}

func modelsFolder() string {
	if dir := os.Getenv("SEMCACHED_TEST_MODELS"); dir != "" {
		return dir
	}
	_, file, _, _ := runtime.Caller(0)
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "..", "..", "..", "*", "models", "Modelfile.tiny-chat"))
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[0])
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
