package drill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a running child.
type process struct {
	cmd    *exec.Cmd
	log    bytes.Buffer
	said   bytes.Buffer
	acked  chan struct{} // closed when it has acknowledged something
	listen chan struct{} // closed when all that it has said is in said
}

// inject are the arguments of strace that inject a fault: -D makes strace a child of the process, so that it is
// the process itself that is waited for.
func inject(fault string) []string {
	call, _, _ := strings.Cut(fault, ":")
	return []string{"-D", "-o", "/dev/null", "-e", "trace=" + call, "-e", "inject=" + fault}
}

// start runs a child, under strace with the given arguments if there are any.
func start(t *testing.T, c childConfig, strace ...string) *process {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")
	defer there.Close()
	p := &process{acked: make(chan struct{}), listen: make(chan struct{})}
	if len(strace) > 0 {
		p.cmd = exec.Command("strace", append(append([]string{"-f", "-qq"}, strace...), self)...)
	} else {
		p.cmd = exec.Command(self)
	}
	p.cmd.Env = append(os.Environ(), childVar+"="+string(config), "GORACE=atexit_sleep_ms=0")
	p.cmd.ExtraFiles = []*os.File{there}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.listen)
		defer here.Close()
		io.Copy(io.MultiWriter(&p.said, &waiting{acked: p.acked}), here)
	}()
	return p
}

// waiting closes acked at the first acknowledgement among the lines that are written to it.
type waiting struct {
	acked chan struct{} // nil afterwards
	line  []byte        // as far as it has come
}

func (w *waiting) Write(b []byte) (int, error) {
	if w.acked == nil {
		return len(b), nil
	}
	w.line = append(w.line, b...)
	if bytes.HasPrefix(w.line, []byte("A ")) || bytes.Contains(w.line, []byte("\nA ")) {
		close(w.acked)
		w.acked = nil
	}
	w.line = w.line[bytes.LastIndexByte(w.line, '\n')+1:]
	return len(b), nil
}

// killAfter kills the child once so much time has passed, if it still runs.
func (p *process) killAfter(d time.Duration) { time.AfterFunc(d, func() { p.cmd.Process.Kill() }) }

// killAfterAck does so once so much time has passed since its first acknowledgement.
func (p *process) killAfterAck(d time.Duration) {
	go func() {
		select {
		case <-p.acked:
			p.killAfter(d)
		case <-p.listen:
		}
	}()
}

// wait returns how the child ended: "killed", "exit 0", ...
func (p *process) wait() string {
	p.cmd.Wait()
	<-p.listen
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return "killed"
	}
	return fmt.Sprintf("exit %d", p.cmd.ProcessState.ExitCode())
}
