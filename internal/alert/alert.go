// Package alert tells people when something goes down and when it is back: once per
// change, and only of changes that last.
package alert

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Alert is one message.
type Alert struct {
	Instance string    `json:"instance"` // who tells
	Name     string    `json:"alert"`    // what it is about: "upstream", "fallback", "test"
	Subject  string    `json:"subject"`  // which one, "" if there is only one
	State    string    `json:"state"`    // "firing" or "resolved"
	Text     string    `json:"text"`     // for people
	Since    time.Time `json:"since"`    // when it changed
}

// Sink sends alerts somewhere. It is safe for concurrent use.
type Sink interface {
	Name() string
	Send(ctx context.Context, a Alert) error
}

// Options configure a Notifier.
type Options struct {
	Instance string
	// HoldDown is how long a change must last before it is told.
	HoldDown time.Duration
	Sinks    []Sink
	// Sent reports that an alert was "sent", "failed" for good or "dropped"
	// because too many were waiting. May be nil.
	Sent func(sink, result string)
	Log  *slog.Logger // default: discards
}

const (
	// queueSize bounds the alerts that wait for a slow sink.
	queueSize = 64
	// sendTimeout bounds one try, tries the tries; between them lie
	// retryDelay, then twice and four times as much.
	sendTimeout = 10 * time.Second
	tries       = 4
	retryDelay  = 2 * time.Second
)

// key names a condition.
type key struct{ name, subject string }

// condition is something that is well or not.
type condition struct {
	firing  bool // now
	told    bool // what was told last
	text    string
	changed time.Time
}

// Notifier tells sinks of conditions that change. Safe for concurrent use.
type Notifier struct {
	o    Options
	wake chan struct{}

	mu         sync.Mutex // guards everything below
	holdDown   time.Duration
	sinks      []Sink
	conditions map[key]*condition
}

// New returns a notifier; Run does the telling.
func New(o Options) *Notifier {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Sent == nil {
		o.Sent = func(string, string) {}
	}
	return &Notifier{o: o, wake: make(chan struct{}, 1), holdDown: o.HoldDown, sinks: o.Sinks, conditions: make(map[key]*condition)}
}

// Configure changes hold-down and sinks for what is told from now on.
func (n *Notifier) Configure(holdDown time.Duration, sinks []Sink) {
	n.mu.Lock()
	n.holdDown, n.sinks = holdDown, sinks
	n.mu.Unlock()
	n.poke()
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Set notes that a condition fires or not. It returns at once and may be called for
// every request. What has never fired is well.
func (n *Notifier) Set(name, subject string, firing bool, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := key{name, subject}
	c := n.conditions[k]
	if c == nil {
		if !firing {
			return
		}
		c = new(condition)
		n.conditions[k] = c
	}
	if c.firing == firing {
		return
	}
	c.firing, c.text, c.changed = firing, text, time.Now()
	n.poke()
}

// Run tells of changes until ctx ends. It is called once.
func (n *Notifier) Run(ctx context.Context) error {
	queue := make(chan delivery, queueSize)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.deliver(ctx, queue) })
	for {
		due, wait := n.due(time.Now())
		for _, d := range due {
			select {
			case queue <- d:
			default:
				n.o.Sent(d.sink.Name(), "dropped")
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-n.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// delivery is an alert on its way.
type delivery struct {
	sink  Sink
	alert Alert
}

// due returns what is to be told now, and how long nothing else will be.
func (n *Notifier) due(now time.Time) (all []delivery, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait = time.Hour
	for k, c := range n.conditions {
		if c.firing == c.told {
			continue
		}
		if left := n.holdDown - now.Sub(c.changed); left > 0 {
			wait = min(wait, left)
			continue
		}
		c.told = c.firing
		a := Alert{Instance: n.o.Instance, Name: k.name, Subject: k.subject, State: "resolved", Text: c.text, Since: c.changed.UTC()}
		if c.firing {
			a.State = "firing"
		} else {
			delete(n.conditions, k)
		}
		n.o.Log.Warn("alert", "alert", a.Name, "subject", a.Subject, "state", a.State, "text", a.Text)
		for _, s := range n.sinks {
			all = append(all, delivery{s, a})
		}
	}
	return all, wait
}

// deliver sends what is in the queue, one after the other.
func (n *Notifier) deliver(ctx context.Context, queue <-chan delivery) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-queue:
			n.o.Sent(d.sink.Name(), n.send(ctx, d))
		}
	}
}

// send tries a few times and returns how it ended.
func (n *Notifier) send(ctx context.Context, d delivery) (result string) {
	delay := retryDelay
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return "failed"
			case <-time.After(delay):
			}
			delay *= 2
		}
		c, cancel := context.WithTimeout(ctx, sendTimeout)
		err := d.sink.Send(c, d.alert)
		cancel()
		if err == nil {
			return "sent"
		}
		n.o.Log.Warn("alert not delivered", "sink", d.sink.Name(), "try", try+1, "error", err)
	}
	return "failed"
}
