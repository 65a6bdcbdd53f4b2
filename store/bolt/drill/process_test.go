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
	p := &process{listen: make(chan struct{})}
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
		io.Copy(&p.said, here)
	}()
	return p
}

// killAfter kills the child once so much time has passed, if it still runs.
func (p *process) killAfter(d time.Duration) { time.AfterFunc(d, func() { p.cmd.Process.Kill() }) }

// wait returns how the child ended: "killed", "exit 0", ...
func (p *process) wait() string {
	p.cmd.Wait()
	<-p.listen
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return "killed"
	}
	return fmt.Sprintf("exit %d", p.cmd.ProcessState.ExitCode())
}
