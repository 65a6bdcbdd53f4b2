package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/semcached/semcached/store/bolt"
)

// compactData gives the room of removed records back to the disk.
func compactData(ctx context.Context, env environment) int {
	t, code, ok := newTool(env)
	if !ok {
		return code
	}
	if t.path == "" {
		return t.fail(errInMemory)
	}
	before, err := bolt.Check(ctx, t.path, time.Now())
	if err != nil {
		return t.fail(err)
	}
	if !before.Sound() {
		fmt.Fprintln(t.stderr, "semcached: the file is not sound; `semcached check` tells what is wrong")
		return exitFailed
	}
	next := t.path + ".compact"
	os.Remove(next) // of a run that was broken off
	kept, left, err := bolt.Rewrite(ctx, t.path, next, time.Now())
	if err != nil {
		return t.fail(err)
	}
	after, err := bolt.Check(ctx, next, time.Now())
	if err == nil && (!after.Sound() || after.Records != kept) {
		err = fmt.Errorf("%v", after.Problems)
	}
	if err != nil {
		os.Remove(next)
		return t.fail(fmt.Errorf("the new file does not check, and the old one stays: %w", err))
	}
	old, err := bolt.Replace(next, t.path)
	if err != nil {
		return t.fail(err)
	}
	if err := os.Remove(old); err != nil {
		return t.fail(err)
	}
	fmt.Fprintf(t.stdout, "%d bytes became %d; %d records, %d expired ones left out\n", before.Bytes, after.Bytes, kept, left)
	return exitOK
}
