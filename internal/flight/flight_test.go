package flight

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func readAll(t *testing.T, r *Reader) (string, error) {
	t.Helper()
	defer r.Close()
	if _, _, err := r.Head(t.Context()); err != nil {
		return "", err
	}
	var b strings.Builder
	for {
		c, err := r.Next(t.Context())
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		b.Write(c)
	}
}

func TestManyReadersShareOneStream(t *testing.T) {
	var g Group[string]
	var starts atomic.Int32
	release := make(chan struct{})
	maker := func(ctx context.Context, s *Stream) error {
		starts.Add(1)
		s.SetHead(200, http.Header{"X": {"y"}})
		s.Write([]byte("one "))
		<-release
		s.Write([]byte("two"))
		return nil
	}
	var wg sync.WaitGroup
	leaders := atomic.Int32{}
	var joined sync.WaitGroup
	for range 1000 {
		wg.Add(1)
		joined.Add(1)
		go func() {
			defer wg.Done()
			r, leader := g.Join(t.Context(), "k", maker)
			joined.Done()
			if leader {
				leaders.Add(1)
			}
			if text, err := readAll(t, r); text != "one two" || err != nil {
				t.Errorf("%q %v", text, err)
			}
		}()
	}
	joined.Wait()
	close(release)
	wg.Wait()
	if starts.Load() != 1 || leaders.Load() != 1 {
		t.Errorf("%d starts, %d leaders", starts.Load(), leaders.Load())
	}
	if len(g.streams) != 0 {
		t.Error("a finished stream is still there")
	}
}

func TestTheLastToLeaveEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[int]
		ended := make(chan error, 1)
		maker := func(ctx context.Context, s *Stream) error {
			s.SetHead(200, nil)
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		leader, _ := g.Join(ctx, 1, maker)
		follower, first := g.Join(t.Context(), 1, maker)
		if first {
			t.Fatal("two leaders")
		}
		cancel() // the leader's client has gone
		leader.Close()
		leader.Close()
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("the stream ended with its leader")
		default:
		}
		follower.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		other, first := g.Join(t.Context(), 1, func(_ context.Context, s *Stream) error { s.SetHead(201, nil); return nil })
		if !first {
			t.Error("a new reader joined an abandoned stream")
		}
		if status, _, _ := other.Head(t.Context()); status != 201 {
			t.Errorf("status %d", status)
		}
		other.Close()
		synctest.Wait()
	})
}

func TestErrorsReachEveryReader(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		maker func(ctx context.Context, s *Stream) error
		want  error
	}{
		"before the head": {func(context.Context, *Stream) error { return boom }, boom},
		"no head":         {func(context.Context, *Stream) error { return nil }, io.ErrUnexpectedEOF},
		"in mid-stream":   {func(_ context.Context, s *Stream) error { s.SetHead(200, nil); s.Write([]byte("x")); return boom }, boom},
		"panic":           {func(context.Context, *Stream) error { panic("oops") }, ErrPanic},
	} {
		var g Group[int]
		r, _ := g.Join(t.Context(), 1, c.maker)
		if _, err := readAll(t, r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestReadersStopWaitingWhenTheirContextEnds(t *testing.T) {
	var g Group[int]
	hold := make(chan struct{})
	r, _ := g.Join(t.Context(), 1, func(_ context.Context, s *Stream) error { <-hold; s.SetHead(200, nil); <-hold; return nil })
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Head(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("head: %v", err)
	}
	hold <- struct{}{}
	if _, _, err := r.Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
	close(hold)
}

func TestLongStreamsAdmitNobodyNew(t *testing.T) {
	var g Group[int]
	hold, written := make(chan struct{}), make(chan struct{})
	r, _ := g.Join(t.Context(), 1, func(_ context.Context, s *Stream) error {
		s.SetHead(200, nil)
		s.Write(make([]byte, maxShared+1))
		close(written)
		<-hold
		return nil
	})
	<-written
	other, leader := g.Join(t.Context(), 1, func(_ context.Context, s *Stream) error { s.SetHead(200, nil); return nil })
	if !leader {
		t.Error("joined a stream that cannot be caught up with")
	}
	other.Close()
	r.Close()
	close(hold)
}
