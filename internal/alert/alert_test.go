package alert

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a sink that fails a few times first.
type recorder struct {
	mu   sync.Mutex // guards everything below
	fail int
	got  []string
}

func (*recorder) Name() string { return "recorder" }

func (r *recorder) Send(_ context.Context, a Alert) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		return errors.New("not now")
	}
	r.got = append(r.got, strings.Join(strings.Fields(fmt.Sprintln(a.Name, a.Subject, a.State)), " "))
	return nil
}

func (r *recorder) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.got, ", ")
}

// inBubble runs f with a running notifier and a clock of its own.
func inBubble(t *testing.T, o Options, f func(n *Notifier)) {
	synctest.Test(t, func(t *testing.T) {
		n := New(o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		f(n)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestChangesThatLastAreToldOnce(t *testing.T) {
	r := new(recorder)
	inBubble(t, Options{HoldDown: 30 * time.Second, Sinks: []Sink{r}}, func(n *Notifier) {
		n.Set("upstream", "a:1", false, "") // always was well
		for range 5 {
			n.Set("upstream", "a:1", true, "down")
		}
		time.Sleep(29 * time.Second)
		if r.seen() != "" {
			t.Errorf("told too early: %s", r.seen())
		}
		time.Sleep(2 * time.Second)
		if r.seen() != "upstream a:1 firing" {
			t.Errorf("%s", r.seen())
		}
		n.Set("upstream", "a:1", true, "down")
		n.Set("fallback", "", true, "")
		time.Sleep(10 * time.Second)
		n.Set("upstream", "a:1", false, "up")
		time.Sleep(time.Hour)
		if r.seen() != "upstream a:1 firing, fallback firing, upstream a:1 resolved" {
			t.Errorf("%s", r.seen())
		}
	})
}

func TestFlappingIsNotTold(t *testing.T) {
	r := new(recorder)
	inBubble(t, Options{HoldDown: 30 * time.Second, Sinks: []Sink{r}}, func(n *Notifier) {
		for i := range 100 {
			n.Set("upstream", "a", i%2 == 0, "")
			time.Sleep(7 * time.Second)
		}
		if r.seen() != "" {
			t.Errorf("%s", r.seen())
		}
		n.Set("upstream", "a", true, "")
		time.Sleep(time.Minute)
		for i := range 9 { // and back, while it is down
			n.Set("upstream", "a", i%2 != 0, "")
			time.Sleep(7 * time.Second)
		}
		n.Set("upstream", "a", true, "")
		time.Sleep(time.Minute)
		if r.seen() != "upstream a firing" {
			t.Errorf("%s", r.seen())
		}
	})
}

func TestDeliveryIsTriedAgain(t *testing.T) {
	r := &recorder{fail: 3}
	var mu sync.Mutex
	var results []string
	o := Options{Sinks: []Sink{r}, Sent: func(sink, result string) {
		mu.Lock()
		defer mu.Unlock()
		results = append(results, sink+" "+result)
	}}
	inBubble(t, o, func(n *Notifier) {
		n.Set("x", "", true, "")
		time.Sleep(time.Minute)
		r.mu.Lock()
		r.fail = 100
		r.mu.Unlock()
		n.Set("x", "", false, "")
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if r.seen() != "x firing" || strings.Join(results, ", ") != "recorder sent, recorder failed" {
			t.Errorf("%s; %s", r.seen(), results)
		}
	})
}

func TestConfigureChangesTheSinks(t *testing.T) {
	a, b := new(recorder), new(recorder)
	inBubble(t, Options{HoldDown: time.Hour, Sinks: []Sink{a}}, func(n *Notifier) {
		n.Set("x", "", true, "")
		n.Configure(time.Second, []Sink{b})
		time.Sleep(2 * time.Second)
		if a.seen() != "" || b.seen() != "x firing" {
			t.Errorf("%s; %s", a.seen(), b.seen())
		}
	})
}

var down = Alert{Instance: "host-1", Name: "upstream", Subject: "gpu:11434", State: "firing", Text: "it does not\nanswer", Since: time.Unix(1_700_000_000, 0).UTC()}

func TestWebhook(t *testing.T) {
	var body, kind string
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, kind = r.Method+" "+string(b), r.Header.Get("Content-Type")
		w.WriteHeader(status)
	}))
	defer s.Close()
	if err := NewWebhook(s.URL+"/hook", false).Send(t.Context(), down); err != nil || kind != "application/json" {
		t.Fatalf("%v %s", err, kind)
	}
	var got Alert
	if json.Unmarshal([]byte(strings.TrimPrefix(body, "POST ")), &got); got != down {
		t.Errorf("%s", body)
	}
	if err := NewWebhook(s.URL, true).Send(t.Context(), down); err != nil || body != `POST {"text":"[FIRING] semcached on host-1: upstream gpu:11434\nit does not\nanswer"}` {
		t.Errorf("%v %s", err, body)
	}
	for _, status = range []int{302, 404, 500} {
		if err := NewWebhook(s.URL, false).Send(t.Context(), down); err == nil {
			t.Errorf("%d is taken for success", status)
		}
	}
	const nobody = "http://127.0.0.1:1" // no listener is given that port
	if err := NewWebhook(nobody+"/token-in-the-path", false).Send(t.Context(), down); err == nil || strings.Contains(err.Error(), "token") {
		t.Errorf("%v", err)
	}
}

// mailServer takes one mail and returns what it was told.
func mailServer(t *testing.T) (addr string, told <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	out := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var all strings.Builder
		in := bufio.NewScanner(conn)
		io.WriteString(conn, "220 here\r\n")
		for data := false; in.Scan(); {
			line := in.Text()
			all.WriteString(line + "\n")
			switch {
			case data && line == ".":
				data = false
				io.WriteString(conn, "250 taken\r\n")
			case data:
			case strings.HasPrefix(line, "EHLO"):
				io.WriteString(conn, "250-here\r\n250 AUTH PLAIN\r\n")
			case strings.HasPrefix(line, "AUTH"):
				io.WriteString(conn, "235 ok\r\n")
			case line == "DATA":
				data = true
				io.WriteString(conn, "354 go on\r\n")
			case line == "QUIT":
				io.WriteString(conn, "221 bye\r\n")
				out <- all.String()
				return
			default:
				io.WriteString(conn, "250 ok\r\n")
			}
		}
	}()
	return l.Addr().String(), out
}

func TestMail(t *testing.T) {
	addr, told := mailServer(t)
	m := Mail{Addr: addr, From: "Cache <cache@example.com>", To: []string{"ops@example.com", "boss@example.com"}, Username: "u", Password: "p"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := NewMail(m).Send(ctx, down); err != nil {
		t.Fatal(err)
	}
	got := <-told
	for _, want := range []string{"AUTH PLAIN", "MAIL FROM:<cache@example.com>", "RCPT TO:<ops@example.com>", "RCPT TO:<boss@example.com>",
		"Subject: [FIRING] semcached on host-1: upstream gpu:11434\n", "it does not answer", "Auto-Submitted: auto-generated"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	m.Addr = "127.0.0.1:1"
	if err := NewMail(m).Send(ctx, down); err == nil {
		t.Error("nobody is there, and yet it was sent")
	}
}
