package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

var epoch = time.UnixMilli(1_800_000_000_000)

// record returns version op of record id. All of it follows from the two numbers, so that whatever is
// read can be told right or wrong.
func record(id, op uint64) *store.Record {
	rng := rand.New(rand.NewPCG(id, op))
	r := &store.Record{
		ID: id, Key: [32]byte{byte(id), byte(id >> 8)}, Partition: [32]byte{7}, Space: "drill/8",
		Tenant: "local", Namespace: "n", Op: "chat", Model: "m:latest", Digest: strconv.FormatUint(op, 10), Provider: "ollama",
		Tags: []string{"drill"}, Canonical: text(rng, 20+rng.IntN(200)), Prompt: fmt.Sprintf("prompt %d of %d", op, id),
		Vector:  make([]float32, 8),
		Created: epoch, Expires: epoch.Add(time.Duration(1+rng.IntN(1000)) * time.Hour),
		Cost: time.Duration(rng.IntN(1e9)), InputTokens: uint32(op), OutputTokens: 4,
		Answer: answer(id, op),
	}
	for i := range r.Vector {
		r.Vector[i] = rng.Float32()
	}
	return r
}

// answer is mostly smaller than a page, sometimes a few pages, rarely many.
func answer(id, op uint64) []byte {
	rng := rand.New(rand.NewPCG(op, id))
	n := rng.IntN(3000)
	switch rng.IntN(32) {
	case 0:
		n = 60_000
	case 1, 2:
		n = 10_000
	}
	return append(fmt.Appendf(nil, "answer %d of %d: ", op, id), text(rng, n)...)
}

func text(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rng.IntN(26))
	}
	return b
}

// snapshotOf is the content of the snapshot that covers change seq: some blocks of the file.
func snapshotOf(seq uint64) []byte {
	rng := rand.New(rand.NewPCG(seq, 9))
	b := make([]byte, 10_000+rng.IntN(20_000))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func version(r *store.Record) uint64 {
	op, _ := strconv.ParseUint(r.Digest, 10, 64)
	return op
}

// state is what a record may be: a version, or gone.
type state struct {
	op   uint64
	gone bool
}

// model knows, for each record ever written, the states in which it may be found: the last
// acknowledged one, and all submitted after it. A record that has none must not be there. Record 0 is the
// snapshot, whose version is the change that it covers.
type model map[uint64][]state

func (m model) submit(id uint64, s state) {
	if m[id] == nil {
		m[id] = []state{{gone: true}}
	}
	m[id] = append(m[id], s)
}

func (m model) ack(id, op uint64) {
	for m[id][0].op != op {
		m[id] = m[id][1:]
	}
}

// hear takes the lines of a child, whose last one may be cut off.
func (m model) hear(y *tally, lines io.Reader) (done bool) {
	in := bufio.NewReader(lines)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return done
		}
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		var id, op uint64
		if len(f) >= 3 {
			id, _ = strconv.ParseUint(f[1], 10, 64)
			op, _ = strconv.ParseUint(f[2], 10, 64)
		}
		switch f[0] {
		case "P", "D":
			m.submit(id, state{op: op, gone: f[0] == "D"})
		case "A":
			y.acked++
			if y.failed > 0 {
				y.recovered++
			}
			m.ack(id, op)
		case "E":
			y.failed++ // it may be there or not
		case "B":
			y.problem(&y.corrupt, "during the drill: %s", line)
		case "N":
			y.note("%s", strings.TrimSpace(line[1:]))
		case "Z":
			done = true
		}
	}
}

// copy returns a model that may be changed apart from m.
func (m model) copy() model {
	c := make(model, len(m))
	for id, s := range m {
		c[id] = append([]state(nil), s...)
	}
	return c
}

// opened is a store with its Run running.
type opened struct {
	*bolt.Store
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
}

func open(dir string) (*opened, error) {
	return openWith(bolt.Options{Path: filepath.Join(dir, dataFile)})
}

func openWith(opts bolt.Options) (*opened, error) {
	s, err := bolt.Open(opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &opened{Store: s, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		s.Run(ctx)
	}()
	return o, nil
}

func (o *opened) close() error {
	o.cancel()
	<-o.done
	return o.Close()
}

// all loads every record with its answer.
func (o *opened) all() (map[uint64]*store.Record, error) {
	found := make(map[uint64]*store.Record)
	_, err := o.Load(context.Background(), epoch, func(r *store.Record) error {
		if found[r.ID] != nil {
			return fmt.Errorf("record %d twice", r.ID)
		}
		found[r.ID] = r
		return nil
	})
	return found, err
}

// same reports whether r, which came from Load, and its answer are what was written, and which version.
func same(r *store.Record, got []byte) (op uint64, ok bool) {
	op = version(r)
	want := record(r.ID, op)
	ok = string(got) == string(want.Answer)
	want.AnswerBytes, want.Answer = len(want.Answer), nil
	return op, ok && reflect.DeepEqual(r, want)
}

// replica is kept up to date by changes alone, as an index is.
type replica struct {
	seq uint64
	has map[uint64]uint64 // versions of records
}

// follow brings the replica up to date and compares it with what was found. Where the log does not
// reach back far enough it begins anew.
func (r *replica) follow(y *tally, s *opened, found map[uint64]*store.Record) {
	if s.Seq() < r.seq {
		y.problem(&y.lost, "change %d was the last, now it is %d", r.seq, s.Seq())
	}
	err := s.Changes(context.Background(), r.seq, func(c store.Change) error {
		if c.Put != nil {
			r.has[c.Put.ID] = version(c.Put)
		}
		for _, id := range c.Deleted {
			delete(r.has, id)
		}
		r.seq = c.Seq
		return nil
	})
	if err == nil {
		for id, op := range r.has {
			if found[id] == nil || version(found[id]) != op {
				y.problem(&y.lost, "by its changes record %d has version %d, it is %v", id, op, found[id])
			}
		}
		if len(r.has) != len(found) {
			y.problem(&y.lost, "by the changes there are %d records, not %d", len(r.has), len(found))
		}
	} else if !errors.Is(err, store.ErrGone) {
		y.problem(&y.unsound, "changes: %v", err)
	}
	r.seq, r.has = s.Seq(), make(map[uint64]uint64)
	for id, rec := range found {
		r.has[id] = version(rec)
	}
}

// verify opens the data after a death and compares it with the model, which it then narrows to what was
// found. Nothing may be lost, invented or damaged. r follows, if it is not nil.
func (m model) verify(y *tally, dir string, r *replica) {
	y.rounds++
	nothing := m.empty()
	began := time.Now()
	s, err := open(dir)
	if err != nil {
		y.problem(&y.lost, "open: %v", err)
		return
	}
	found, err := s.all()
	y.worst = max(y.worst, time.Since(began))
	if err != nil {
		y.problem(&y.lost, "load: %v", err)
	}
	for id, r := range found {
		got, err := s.Answer(id)
		op, ok := same(r, got)
		if err != nil || !ok {
			y.problem(&y.corrupt, "record %d: version %d is not what was written (%v)", id, op, err)
		}
		m.judge(y, id, state{op: op})
	}
	m.judge(y, 0, snapshotState(y, s))
	if r != nil {
		r.follow(y, s, found)
	}
	for id := range m {
		if id != 0 && found[id] == nil {
			m.judge(y, id, state{gone: true})
			if _, err := s.Answer(id); !errors.Is(err, store.ErrNotFound) {
				y.problem(&y.invented, "record %d is gone, its answer is not: %v", id, err)
			}
		}
	}
	if ids, err := s.Expired(epoch.Add(1e6*time.Hour), len(found)+100); err != nil || len(ids) != len(found) {
		y.problem(&y.unsound, "%d records, of which %d expire (%v)", len(found), len(ids), err)
	}
	st := s.Stats()
	if st.Quarantined != "" && nothing {
		// Half made when the power failed, before anything was acknowledged.
		os.Remove(st.Quarantined)
		st.Quarantined, st.Corrupt = "", 0
	}
	if st.Corrupt != 0 || st.Quarantined != "" || st.Records != int64(len(found)) {
		y.problem(&y.unsound, "%d records, stats %+v", len(found), st)
	}
	if err := s.close(); err != nil {
		y.problem(&y.unsound, "close: %v", err)
	}
	y.check(dir)
}

// empty reports whether there need not be a single record.
func (m model) empty() bool {
	for _, may := range m {
		if !may[0].gone {
			return false
		}
	}
	return true
}

// snapshotState reads the snapshot.
func snapshotState(y *tally, s *opened) state {
	seq, r, err := s.Snapshot()
	if errors.Is(err, store.ErrNotFound) {
		return state{gone: true}
	}
	if err == nil {
		defer r.Close()
		var b []byte
		if b, err = io.ReadAll(r); err == nil && string(b) == string(snapshotOf(seq)) {
			return state{op: seq}
		}
	}
	y.problem(&y.corrupt, "snapshot of %d: %v", seq, err)
	return state{op: seq}
}

// judge compares one record with the model.
func (m model) judge(y *tally, id uint64, got state) {
	may := m[id]
	if got.gone && len(may) == 0 {
		return
	}
	for i, s := range may {
		if s.gone == got.gone && (s.gone || s.op == got.op) {
			m[id] = may[i : i+1 : i+1]
			return
		}
	}
	switch {
	case len(may) == 0:
		y.problem(&y.invented, "record %d, version %d, was never written", id, got.op)
	case got.gone:
		y.problem(&y.lost, "record %d is gone, may be %v", id, may)
	case may[0].gone:
		y.problem(&y.invented, "record %d is back in version %d, may be %v", id, got.op, may)
	default:
		y.problem(&y.lost, "record %d has version %d, may be %v", id, got.op, may)
	}
	m[id] = []state{got}
}

// check reads the whole file with the tool for it.
func (y *tally) check(dir string) {
	r, err := bolt.Check(context.Background(), filepath.Join(dir, dataFile), epoch)
	if err != nil {
		y.problem(&y.unsound, "check: %v", err)
	} else if !r.Sound() {
		y.problem(&y.unsound, "check: %q", r.Problems)
	}
	files, err := os.ReadDir(dir)
	for _, f := range files {
		switch strings.TrimPrefix(f.Name(), dataFile) {
		case "", ".reserve", ".snapshot", ".snapshot.corrupt":
		default:
			y.problem(&y.unsound, "left behind: %s", f.Name())
		}
	}
	if err != nil {
		y.problem(&y.unsound, "%v", err)
	}
}

// size is that of a file, 0 if there is none.
func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}
