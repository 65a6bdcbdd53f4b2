package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/semcached/semcached/internal/standin"
)

// tryRun carries out a subcommand with an empty environment.
func tryRun(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, environment{
		args: args, getenv: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &errs,
	})
	return code, out.String(), errs.String()
}

func TestSubcommands(t *testing.T) {
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{nil, 2, "", "semcached serve"}, {[]string{"help"}, 0, "semcached demo", ""}, {[]string{"sevre"}, 2, "", `no subcommand "sevre"`},
		{[]string{"version"}, 0, "semcached dev go1", ""}, {[]string{"config"}, 0, "listen: 127.0.0.1:11435", ""},
		{[]string{"config", "--threshold", "9", "--ttl", "x"}, 2, "", "threshold (from flag --threshold)"},
		{[]string{"serve", "--threshold", "9", "--ttl", "x"}, 2, "", "ttl (from flag --ttl)"},
		{[]string{"serve", "-h"}, 0, "", "-max-bytes"}, {[]string{"serve", "--upstream", "127.0.0.1:11435"}, 2, "", "would call itself"},
		{[]string{"healthcheck", "--admin", "127.0.0.1:1"}, 1, "", "unwell"}, {[]string{"demo", "extra"}, 2, "", "no arguments"},
	} {
		code, out, errs := tryRun(t.Context(), c.args...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) {
			t.Errorf("%v: exit %d\n%s\n%s", c.args, code, out, errs)
		}
	}
}

func TestTheDemoTellsItsStory(t *testing.T) {
	var out bytes.Buffer
	ok, err := playDemo(t.Context(), &out, standin.Options{NoEmbed: true})
	if err != nil || !ok || strings.Count(out.String(), "HIT") != 4 || strings.Count(out.String(), "MISS") != 7 {
		t.Errorf("%v %v\n%s", ok, err, out.String())
	}
}

func TestTakenPortsAndLockedFilesAreToldAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	for flag, want := range map[string]string{"--listen": "listen: ", "--admin": "admin: "} {
		args := []string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
		if code, _, errs := tryRun(t.Context(), append(args, flag, l.Addr().String())...); code != 1 || !strings.Contains(errs, want) || !strings.Contains(errs, "in use") {
			t.Errorf("%s: exit %d %s", flag, code, errs)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan int, 1)
	ready := make(chan struct{})
	go func() {
		first <- run(ctx, environment{
			args:   []string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--embedder", "lexical", "--upstream", "127.0.0.1:1"},
			getenv: func(string) (string, bool) { return "", false }, stdout: &closer{after: []byte("entries"), ch: ready}, stderr: new(bytes.Buffer),
		})
	}()
	<-ready
	start := time.Now()
	code, _, errs := tryRun(t.Context(), "serve", "--data", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	if code != 1 || !strings.Contains(errs, "in use by another semcached") || time.Since(start) > 20*time.Second {
		t.Errorf("second process: exit %d after %v: %s", code, time.Since(start), errs)
	}
	cancel()
	if code := <-first; code != 0 {
		t.Errorf("the first one stopped with %d", code)
	}
}

func TestFilesAreReadOnceTheyHaveStoppedChanging(t *testing.T) {
	l := looks{seen: fingerprint{'a'}}
	for i, c := range []struct {
		now  byte
		want bool
	}{{'a', false}, {0, false}, {'b', false}, {'b', true}, {'b', false}, {'c', false}, {'b', false}, {0, false}, {0, true}, {'b', false}, {'b', true}} {
		if got := l.changed(fingerprint{c.now}); got != c.want {
			t.Errorf("look %d, at %q: %v", i, c.now, got)
		}
	}
}
