// Package drill breaks the store of store/bolt on purpose, and proves that nothing which it has
// acknowledged is lost and nothing damaged is served.
//
// A child process (this test binary again, child_test.go) writes with sync and tells each thing it
// submits and each acknowledgement over a socket. The parent keeps a model of what may be there
// (model_test.go). After each death, fault or damage it opens the data itself and compares.
//
// SEMCACHED_DRILL chooses how much is done: nothing for a few seconds in `go test ./...`, "short" for
// minutes (make drill-short, in CI), "full" for all of it (make drill). Some drills need strace and
// leave to mount; they skip with the reason, or fail if SEMCACHED_REQUIRE_TOOLS is set.
package drill

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	levelVar   = "SEMCACHED_DRILL"
	requireVar = "SEMCACHED_REQUIRE_TOOLS"
	childVar   = "SEMCACHED_DRILL_CHILD"

	// maxStart is the promise of how soon a store is there again, whatever has happened to it. It takes
	// milliseconds for data as small as these.
	maxStart = 5 * time.Second
)

func TestMain(m *testing.M) {
	if c := os.Getenv(childVar); c != "" {
		os.Exit(child(c))
	}
	code := m.Run()
	printSummary()
	os.Exit(code)
}

// scale chooses a number by the level of the drill.
func scale(smoke, short, full int) int {
	switch os.Getenv(levelVar) {
	case "full":
		return full
	case "short":
		return short
	}
	return smoke
}

// drilling reports whether more than the few seconds of `go test ./...` are asked for.
func drilling() bool { return scale(0, 1, 1) == 1 }

// needDrill skips what only make drill and make drill-short do.
func needDrill(t *testing.T) {
	t.Helper()
	if !drilling() {
		t.Skipf("only with %s=short or full: make drill-short, make drill", levelVar)
	}
}

// needStrace skips if there is no strace that can trace.
func needStrace(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("strace", "-qq", "-f", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		lacking(t, fmt.Sprintf("strace does not work here: %v %s", err, out))
	}
}

// lacking skips for want of a tool, or fails where tools are required.
func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv(requireVar) != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// tally counts what a drill has seen.
type tally struct {
	rounds    int           // deaths, faults or damages survived
	acked     int           // acknowledged changes that were looked for
	failed    int           // changes that the store said had failed
	recovered int           // acknowledged after one that failed
	lost      int           // acknowledged changes that were not there
	corrupt   int           // records served with content never written to them, or unreadable ones
	invented  int           // records nobody wrote, or back after an acknowledged delete
	unsound   int           // files that Check finds fault with
	worst     time.Duration // of opening and loading
	notes     []string      // further figures
	problems  []string      // the first of them
	nproblems int
}

// problem counts one in *n and keeps the first few to be told.
func (y *tally) problem(n *int, format string, args ...any) {
	*n++
	if y.nproblems++; y.nproblems <= 10 {
		y.problems = append(y.problems, fmt.Sprintf(format, args...))
	}
}

func (y *tally) note(format string, args ...any) {
	y.notes = append(y.notes, fmt.Sprintf(format, args...))
}

var summary struct {
	sync.Mutex // guards lines
	lines      []string
}

// finish reports the drill and fails the test if there was a problem.
func (y *tally) finish(t *testing.T) {
	t.Helper()
	line := fmt.Sprintf("%-28s rounds %6d  acked %8d  failed %6d  lost %d  corrupt %d  invented %d  unsound %d  worst start %v",
		strings.TrimPrefix(t.Name(), "Test"), y.rounds, y.acked, y.failed, y.lost, y.corrupt, y.invented, y.unsound, y.worst.Round(time.Millisecond))
	for _, n := range y.notes {
		line += "\n    " + n
	}
	summary.Lock()
	summary.lines = append(summary.lines, line)
	summary.Unlock()
	for _, p := range y.problems {
		t.Error(p)
	}
	if y.nproblems > len(y.problems) {
		t.Errorf("and %d more", y.nproblems-len(y.problems))
	}
	if y.worst > maxStart {
		t.Errorf("a start took %v", y.worst)
	}
}

func printSummary() {
	for _, l := range summary.lines {
		fmt.Println(l)
	}
}
