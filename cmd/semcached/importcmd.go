package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultJobs is how many lines are under way. Their stores are made durable
	// together, so more of them cost the disk little.
	defaultJobs = 16
	maxJobs     = 1024
	// jobQueue is how many lines wait for each job.
	jobQueue = 4
	// storeTimeout bounds one store, a slow disk included.
	storeTimeout = time.Minute
	// graceTime is how long stores under way may take when the import is broken off.
	graceTime = 5 * time.Second
	// saveEvery is how often the state file is written: at most so much is done twice.
	saveEvery = time.Second
	// maxNotes bounds the bad lines that are told one by one.
	maxNotes = 100
	// stateSuffix makes the name of the state file.
	stateSuffix = ".import-state"
)

// importData stores the lines of an export, a list of questions and answers, or a log of
// calls, through a running server: that embeds them with its own model. Exit codes: 0
// all done; 1 broken off, and the same command goes on; 2 usage; 3 done, but for lines
// that are wrong.
func importData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env, append([]option{
		{"from", "FILE", "what to import, gzipped or not; - is standard input"},
		{"url", "URL", "of the server (default: the configured listen address)"},
		{"key", "KEY", "API key; the entries become those of its tenant"},
		{"key-file", "FILE", "file with the API key"},
		{"state", "FILE", "keeps how far it got (default: beside the input; none of standard input)"},
		{"jobs", "N", "lines under way at a time (default 16)"},
		{"restart", "", "begin at the first line, whatever an earlier import has done"},
		{"strict", "", "stop at the first line that is wrong"},
		{"dry-run", "", "read and judge every line, and store nothing"},
	}, selecting...)...)
	if !ok {
		return code
	}
	im, err := t.importer(time.Now)
	if err != nil {
		fmt.Fprintln(t.stderr, "semcached:", err)
		return exitUsage
	}
	err = im.run(ctx)
	im.report(err)
	switch {
	case err != nil:
		return exitFailed
	case im.ledger.now().Bad > 0:
		return exitPartly
	}
	return exitOK
}

// importer is an import under way.
type importer struct {
	*dataTool
	from, url, key string
	statePath      string // "": none is kept
	sel            selection
	jobs           int
	now            func() time.Time
	send           func(ctx context.Context, q *question) error
	client         *http.Client

	ledger ledger
	meter  *meter
	read   atomic.Int64 // bytes of the input
	size   int64        // of the input, 0 if unknown

	began   time.Time // of this run
	skipped int64     // lines that an earlier run has done
	stop    context.CancelCauseFunc
}

// importer reads the flags.
func (t *dataTool) importer(now func() time.Time) (*importer, error) {
	im := &importer{dataTool: t, from: t.given["from"], key: t.given["key"], now: now}
	var err error
	if im.from == "" {
		return nil, errors.New("import --from FILE")
	}
	if im.jobs, err = strconv.Atoi(cmp.Or(t.given["jobs"], strconv.Itoa(defaultJobs))); err != nil || im.jobs < 1 || im.jobs > maxJobs {
		return nil, fmt.Errorf("--jobs %q is not a number from 1 to %d", t.given["jobs"], maxJobs)
	}
	if im.sel, err = t.selected(now()); err != nil {
		return nil, err
	}
	if f := t.given["key-file"]; f != "" {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		im.key = strings.TrimSpace(string(raw))
	}
	if im.url = strings.TrimSuffix(t.given["url"], "/"); im.url == "" {
		own, err := adminURL(t.c.Listen, "")
		if err != nil {
			return nil, err
		}
		if im.url = own; t.c.TLSCert != "" {
			im.url = "https" + strings.TrimPrefix(own, "http")
		}
	}
	if im.send = im.store; t.on("dry-run") {
		im.send = func(context.Context, *question) error { return nil }
	} else if im.statePath = t.given["state"]; im.statePath == "" && im.from != standardStream {
		im.statePath = im.from + stateSuffix
	}
	im.meter = t.meter("import", im.state)
	im.ledger.bad, im.ledger.strict, im.ledger.room = im.bad, t.on("strict"), make(chan struct{}, maxOpen)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = im.jobs
	im.client = &http.Client{Transport: transport, Timeout: storeTimeout}
	return im, nil
}

// state is what the meter shows.
func (im *importer) state() []any {
	m := im.ledger.now()
	rate := float64(m.Lines-im.skipped) / time.Since(im.began).Seconds()
	s := []any{"lines", m.Lines, "stored", m.Stored, "left_out", m.leftOut(), "bad", m.Bad, "per_second", int(rate)}
	if im.size > 0 {
		s = append(s, "read", percent(im.read.Load(), im.size))
	}
	return s
}

// bad tells of a line that is wrong.
func (im *importer) bad(n int64, err error) {
	switch bad := im.ledger.mark.Bad; {
	case bad <= maxNotes:
		im.meter.note(fmt.Sprintf("semcached: line %d: %v", n, err))
	case bad == maxNotes+1:
		im.meter.note("semcached: further lines that are wrong are only counted")
	}
	if im.ledger.strict {
		im.stop(fmt.Errorf("line %d is wrong, and --strict was asked for", n))
	}
}

// run imports; an error means that it broke off.
func (im *importer) run(ctx context.Context) error {
	in, err := im.open()
	if err != nil {
		return err
	}
	defer in.Close()
	lines, err := newLineReader(countingReader{in, &im.read}, maxImportLine)
	if err != nil {
		return err
	}
	if err := im.resume(lines); err != nil {
		return err
	}
	im.began, im.skipped = time.Now(), lines.n
	ctx, im.stop = context.WithCancelCause(ctx)
	defer im.stop(nil)
	var beside sync.WaitGroup
	watch, done := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { im.meter.run(watch) })
	beside.Go(func() { im.saveNowAndThen(watch) })
	err = im.all(ctx, lines)
	done()
	beside.Wait()
	if err != nil {
		return errors.Join(err, im.save())
	}
	if im.statePath != "" {
		if err := os.Remove(im.statePath); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// open opens the input.
func (im *importer) open() (io.ReadCloser, error) {
	if im.from == standardStream {
		return io.NopCloser(im.stdin), nil
	}
	f, err := os.Open(im.from)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		im.size = info.Size()
	}
	return f, nil
}

type countingReader struct {
	io.Reader
	n *atomic.Int64
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// resume goes to where an earlier import has ended.
func (im *importer) resume(lines *lineReader) error {
	if im.statePath == "" {
		return nil
	}
	if im.on("restart") {
		if err := os.Remove(im.statePath); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	s, err := readState(im.statePath)
	if err == errNoState {
		return nil
	}
	if err == nil {
		err = s.resume(lines, im.url)
	}
	if err != nil {
		return err
	}
	im.ledger.mark = s.mark
	fmt.Fprintf(im.stderr, "going on behind line %d (%s)\n", s.Lines, im.statePath)
	return nil
}

func (im *importer) save() error {
	if im.statePath == "" {
		return nil
	}
	m := im.ledger.now()
	if m.Lines == 0 {
		return nil
	}
	if im.ledger.strict {
		m.Bad = 0 // the line that holds it up comes again
	}
	return importState{Version: stateVersion, URL: im.url, mark: m}.write(im.statePath)
}

func (im *importer) saveNowAndThen(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := im.save(); err != nil {
				im.stop(fmt.Errorf("write the state file: %w", err))
			}
		case <-ctx.Done():
			return
		}
	}
}

// all sends every line. Lines with one question go through one job, so that the last of
// them wins.
func (im *importer) all(ctx context.Context, lines *lineReader) error {
	queues := make([]chan *task, im.jobs)
	var jobs sync.WaitGroup
	for i := range queues {
		queues[i] = make(chan *task, jobQueue)
		jobs.Go(func() { im.job(ctx, queues[i]) })
	}
	err := im.distribute(ctx, lines, queues)
	for _, q := range queues {
		close(q)
	}
	jobs.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// distribute reads the lines and gives each to its job.
func (im *importer) distribute(ctx context.Context, lines *lineReader, queues []chan *task) error {
	for ctx.Err() == nil {
		raw, err := lines.next()
		if err != nil && err != errLongLine {
			if err == io.EOF {
				err = nil
			}
			return err
		}
		if lines.n == 1 { // some editors begin a file with a byte order mark
			raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
		}
		t := &task{n: lines.n, digest: lines.digest()}
		if err == nil {
			t.q, err = im.read1(raw)
		}
		if err == errTenants {
			return fmt.Errorf("line %d: %w", t.n, err)
		}
		if !im.ledger.begin(ctx, t) {
			return nil
		}
		if err != nil {
			im.ledger.end(t, err)
			continue
		}
		select {
		case queues[t.q.hash%uint64(len(queues))] <- t:
		case <-ctx.Done():
		}
	}
	return nil
}

// errTenants: a key has one tenant, and so have the entries that it stores.
var errTenants = errors.New("the entry is another tenant's than those before it; import each with its own --tenant and --key")

// read1 reads one line.
func (im *importer) read1(raw []byte) (*question, error) {
	if len(raw) == 0 {
		return nil, errBlank
	}
	q, err := readLine(raw, im.now(), &im.sel)
	if err != nil || q.tenant == "" {
		return q, err
	}
	im.ledger.mu.Lock()
	defer im.ledger.mu.Unlock()
	if im.ledger.mark.Tenant = cmp.Or(im.ledger.mark.Tenant, q.tenant); im.ledger.mark.Tenant != q.tenant {
		return nil, errTenants
	}
	return q, nil
}

// job sends the lines of one queue, one after the other.
func (im *importer) job(ctx context.Context, queue <-chan *task) {
	for t := range queue {
		if ctx.Err() != nil {
			continue
		}
		err := im.send(ctx, t.q)
		var refused refusal
		if err != nil && !errors.As(err, new(leftOut)) && !errors.As(err, &refused) {
			im.stop(err)
			continue
		}
		im.ledger.end(t, err)
	}
}

// refusal is why the server does not take a line, and never will.
type refusal string

func (r refusal) Error() string { return string(r) }

// outlast returns a context that ends a little after ctx. A store that the client no
// longer waits for may still happen, and undo what the next run has stored by then.
func outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(graceTime, cancel) })
	return longer, func() { stop(); cancel() }
}

// store has one entry made durable. Errors: a refusal; all others are not the line's.
func (im *importer) store(ctx context.Context, q *question) error {
	longer, done := outlast(ctx)
	defer done()
	for {
		req, err := http.NewRequestWithContext(longer, http.MethodPost, im.url+"/cache/store", bytes.NewReader(q.body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header["Idempotency-Key"] = nil // to be sent again if a kept connection turns out to be dead; see http.Transport
		if im.key != "" {
			req.Header.Set("Authorization", "Bearer "+im.key)
		}
		resp, err := im.client.Do(req)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return nil
		case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
			return refusal("the server refuses it: " + detail(text))
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			if err := pause(ctx, resp.Header); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s answered %s: %s", im.url, resp.Status, detail(text))
		}
	}
}

// detail returns what a problem (RFC 9457) is about.
func detail(body []byte) string {
	var p struct{ Detail, Title string }
	if json.Unmarshal(body, &p) == nil && cmp.Or(p.Detail, p.Title) != "" {
		return cmp.Or(p.Detail, p.Title)
	}
	return string(bytes.TrimSpace(body))
}

// pause waits as long as the server asks for.
func pause(ctx context.Context, h http.Header) error {
	wait := time.Second
	if n, err := strconv.Atoi(h.Get("Retry-After")); err == nil && n > 0 {
		wait = time.Duration(n) * time.Second
	}
	if n, err := strconv.Atoi(h.Get("Retry-After-Ms")); err == nil && n > 0 {
		wait = time.Duration(n) * time.Millisecond
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// report tells how the import ended.
func (im *importer) report(err error) {
	m := im.ledger.now()
	verb := "stored"
	if im.on("dry-run") {
		verb = "could be stored"
	}
	fmt.Fprintf(im.stderr, "%d %s, %d left out, %d bad; %d lines\n", m.Stored, verb, m.leftOut(), m.Bad, m.Lines)
	for _, reason := range slices.Sorted(maps.Keys(m.LeftOut)) {
		fmt.Fprintf(im.stderr, "  %d left out: %s\n", m.LeftOut[reason], reason)
	}
	if err == nil {
		return
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("broken off")
	}
	fmt.Fprintln(im.stderr, "semcached:", err)
	if im.statePath != "" && m.Lines > 0 {
		fmt.Fprintf(im.stderr, "the same command goes on behind line %d\n", m.Lines)
	}
}
