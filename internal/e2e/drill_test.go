package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/standin"
)

// The drills of store/bolt/drill break the store; these break the whole server. SEMCACHED_DRILL=short or full
// asks for more rounds.
func drillRounds(plain, short, full int) int {
	switch os.Getenv("SEMCACHED_DRILL") {
	case "full":
		return full
	case "short":
		return short
	}
	return plain
}

// maxStart is the promise of how soon a server answers again.
const maxStart = 5 * time.Second

// drillClient stores and invalidates until the server dies, and remembers what may be there.
type drillClient struct {
	url, name string
	n         int
	stored    map[int]string // answers, acknowledged
	gone      []int          // acknowledged to be invalidated
}

// post returns the status and the body, or an error if the server has gone.
func post(url, body string) (int, string, error) {
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (c *drillClient) prompt(n int) string { return fmt.Sprintf("Question %d of %s?", n, c.name) }
func (c *drillClient) tag(n int) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), n)
}

// work is one of the client's steps. false: the server has gone.
func (c *drillClient) work(t *testing.T) bool {
	c.n++
	answer := fmt.Sprintf("Answer %d for %s, %d", c.n, c.name, rand.Uint64())
	status, body, err := post(c.url+"/cache/store", fmt.Sprintf(`{"prompt":%q,"answer":%q,"tags":[%q],"durability":"sync"}`, c.prompt(c.n), answer, c.tag(c.n)))
	if err != nil {
		return false
	}
	if status/100 != 2 {
		t.Errorf("store: %d %s", status, body)
		return false
	}
	c.stored[c.n] = answer
	if c.n%5 != 0 {
		return true
	}
	old := c.n - 3
	delete(c.stored, old) // from now on it may be there or not
	status, body, err = post(c.url+"/cache/invalidate", fmt.Sprintf(`{"tag":%q}`, c.tag(old)))
	if err != nil {
		return false
	}
	if status != http.StatusOK {
		t.Errorf("invalidate: %d %s", status, body)
		return false
	}
	c.gone = append(c.gone, old)
	return true
}

// verify looks up everything, and returns how much there was to look up.
func (c *drillClient) verify(t *testing.T) int {
	t.Helper()
	lookup := func(n int) string {
		status, body, err := post(c.url+"/cache/lookup", fmt.Sprintf(`{"prompt":%q}`, c.prompt(n)))
		if err != nil || status != http.StatusOK {
			t.Errorf("lookup of %q: %d %s %v", c.prompt(n), status, body, err)
		}
		return body
	}
	for n, answer := range c.stored {
		if body := lookup(n); !strings.Contains(body, answer) {
			t.Errorf("lost: %q: %s", c.prompt(n), body)
		}
	}
	for _, n := range c.gone {
		if body := lookup(n); strings.Contains(body, fmt.Sprintf("Answer %d for %s,", n, c.name)) {
			t.Errorf("back after its invalidation: %q: %s", c.prompt(n), body)
		}
	}
	return len(c.stored) + len(c.gone)
}

// TestDrillKill kills the server at random moments of durable stores and invalidations.
func TestDrillKill(t *testing.T) {
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	rounds, verified := drillRounds(2, 8, 60), 0
	var worst time.Duration
	for round := range rounds {
		clients := make([]*drillClient, 3)
		var working sync.WaitGroup
		acknowledged := make(chan struct{}, 1)
		for i := range clients {
			c := &drillClient{url: w.URL, name: fmt.Sprintf("client %c in round %d", 'A'+i, round), stored: make(map[int]string)}
			clients[i] = c
			working.Go(func() {
				for c.work(t) {
					select {
					case acknowledged <- struct{}{}:
					default:
					}
				}
			})
		}
		select {
		case <-acknowledged:
		case <-time.After(time.Minute):
		}
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond) // what is being drilled is the moment
		w.Kill()
		working.Wait()
		began := time.Now()
		w.Restart()
		worst = max(worst, time.Since(began))
		for _, c := range clients {
			c.url = w.URL
			verified += c.verify(t)
		}
	}
	t.Logf("%d rounds, %d acknowledged stores and invalidations looked up, worst start %v", rounds, verified, worst)
	if verified == 0 {
		t.Error("nothing was acknowledged: the drill drills nothing")
	}
	if worst > maxStart {
		t.Errorf("a start took %v", worst)
	}
}

// TestDrillFailingDisk has every sync of the disk fail for a while: durable stores say so, lookups and answers
// of the model go on, and afterwards everything is as before.
func TestDrillFailingDisk(t *testing.T) {
	if drillRounds(0, 1, 1) == 0 {
		t.Skip("only with SEMCACHED_DRILL=short or full: make drill-short, make drill")
	}
	w := newWorld(t, standin.Options{}, "--embedder", "lexical")
	const before, after = `{"prompt":"Where is the canteen?","answer":"Second floor.","durability":"sync"}`, `{"prompt":"Where is the library?","answer":"Third floor.","durability":"sync"}`
	if r := w.do("POST", "/cache/store", before); r.status/100 != 2 {
		t.Fatalf("store: %d %s", r.status, r.body)
	}
	recovered := w.breakDisk("fdatasync,fsync:error=EIO")
	r := w.do("POST", "/cache/store", `{"prompt":"Where is the garage?","answer":"Below.","durability":"sync"}`)
	if r.status/100 == 2 {
		t.Errorf("a store was acknowledged while the disk refused to sync: %d %s", r.status, r.body)
	}
	t.Logf("a durable store meanwhile: %d %s", r.status, r.body)
	for i := range 50 {
		if r := w.do("POST", "/cache/lookup", `{"prompt":"Where is the canteen?"}`); !strings.Contains(r.body, "Second floor.") {
			t.Fatalf("lookup %d while the disk fails: %d %s", i, r.status, r.body)
		}
		if r := w.ask(fmt.Sprintf("What is number %d?", i), whole); r.status != http.StatusOK || !strings.Contains(r.body, "invented answer") {
			t.Fatalf("question %d while the disk fails: %d %s", i, r.status, r.body)
		}
	}
	recovered()
	w.Eventually("a durable store after the disk has recovered", func() error {
		if status, body, err := post(w.URL+"/cache/store", after); err != nil || status/100 != 2 {
			return fmt.Errorf("%d %s %v", status, body, err)
		}
		return nil
	})
	w.Kill()
	w.Restart()
	for prompt, want := range map[string]string{"Where is the canteen?": "Second floor.", "Where is the library?": "Third floor."} {
		if r := w.do("POST", "/cache/lookup", fmt.Sprintf(`{"prompt":%q}`, prompt)); !strings.Contains(r.body, want) {
			t.Errorf("%s: %s", prompt, r.body)
		}
	}
}

// breakDisk attaches strace to the server, to inject a fault into its system calls until the function that it
// returns is called.
func (w *world) breakDisk(fault string) (recovered func()) {
	w.t.Helper()
	calls, _, _ := strings.Cut(fault, ":")
	cmd := exec.Command("strace", "-f", "-p", fmt.Sprint(w.cmd.Process.Pid), "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+fault)
	out := new(logBuffer)
	cmd.Stderr = out
	lacking := func(why string) {
		if os.Getenv("SEMCACHED_REQUIRE_TOOLS") != "" {
			w.t.Fatal(why)
		}
		w.t.Skip(why)
	}
	if err := cmd.Start(); err != nil {
		lacking("no strace: " + err.Error())
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.t.Cleanup(func() { cmd.Process.Kill() })
	w.Eventually("strace attached", func() error {
		select {
		case err := <-ended:
			lacking(fmt.Sprintf("strace cannot attach: %v %s", err, out))
		default:
		}
		if !strings.Contains(out.String(), "attached") {
			return fmt.Errorf("strace says %q", out)
		}
		return nil
	})
	return func() {
		cmd.Process.Signal(os.Interrupt)
		<-ended
	}
}
