package cache

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestBlocksAreDecodedInOrder(t *testing.T) {
	var want, got []int
	d := decode(t.Context(), func(b []byte) error {
		got = append(got, len(b))
		return nil
	})
	for _, n := range []int{0, 1, ticketBytes, 3 * ticketBytes, (tickets + 5) * ticketBytes, (tickets + 5) * ticketBytes, 7} {
		want = append(want, n)
		d.add(make([]byte, n))
	}
	if err := d.finish(); err != nil || !slices.Equal(got, want) {
		t.Errorf("decoded %v, want %v (%v)", got, want, err)
	}
}

func TestDecodingEndsWithTheFirstError(t *testing.T) {
	broken, calls := errors.New("broken"), 0
	d := decode(t.Context(), func(b []byte) error {
		if calls++; b[0] == 1 {
			return broken
		}
		return nil
	})
	for i := range byte(80) {
		d.add([]byte{i})
	}
	if err := d.finish(); err != broken || calls != 2 || !d.failed.Load() {
		t.Errorf("%v after %d blocks, failed: %v", err, calls, d.failed.Load())
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d = decode(ctx, func([]byte) error { t.Error("decoded after the end"); return nil })
	d.add(nil)
	if err := d.finish(); err != context.Canceled {
		t.Error(err)
	}
}
