package cache

import (
	"context"
	"sync/atomic"
)

// How many bytes of entries may wait to be decoded: as many tickets of so many bytes.
// That is more than the entries of a million short prompts have.
const (
	ticketBytes = 64 << 10
	tickets     = 4096
)

// decoding makes entries of blocks in a goroutine of its own, while the indexes behind
// them are being read.
type decoding struct {
	blocks chan []byte
	room   chan struct{} // a ticket each for what waits
	failed atomic.Bool
	done   chan struct{} // closed by the goroutine at the end
	err    error         // valid after done
}

// decode returns a decoding that calls block for each block until one fails or ctx ends.
// The caller ends it by finish.
func decode(ctx context.Context, block func([]byte) error) *decoding {
	d := &decoding{blocks: make(chan []byte, tickets), room: make(chan struct{}, tickets), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for b := range d.blocks {
			if d.err == nil {
				if d.err = ctx.Err(); d.err == nil {
					d.err = block(b)
				}
				d.failed.Store(d.err != nil)
			}
			for range ticketsOf(b) {
				<-d.room
			}
		}
	}()
	return d
}

func ticketsOf(b []byte) int { return min(1+len(b)/ticketBytes, tickets) }

// add hands a block over, for good. It waits while there is no room.
func (d *decoding) add(b []byte) {
	for range ticketsOf(b) {
		d.room <- struct{}{}
	}
	d.blocks <- b
}

// finish waits for what has been handed over and returns the first error. Nothing may be
// added after it.
func (d *decoding) finish() error {
	close(d.blocks)
	<-d.done
	return d.err
}
