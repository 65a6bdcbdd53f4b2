package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/semcached/semcached/internal/alert"
)

// newKey prints a random API key and what the configuration needs of it.
func newKey(env environment) int {
	if len(env.args) > 0 {
		fmt.Fprintln(env.stderr, "semcached: key takes no arguments")
		return exitUsage
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	key := "sc-" + base64.RawURLEncoding.EncodeToString(raw)
	fmt.Fprintf(env.stdout, "key         %s\nkey_sha256  %x\n", key, sha256.Sum256([]byte(key)))
	return exitOK
}

// testAlert sends an alert to every sink of the configuration.
func testAlert(ctx context.Context, env environment) int {
	c, code, ok := load(env)
	if !ok {
		return code
	}
	all := sinks(c.Alerts)
	if len(all) == 0 {
		fmt.Fprintln(env.stderr, "semcached: the configuration names nobody to alert (alerts.webhook, alerts.smtp)")
		return exitUsage
	}
	code = exitOK
	for _, s := range all {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := s.Send(ctx, alert.Alert{Instance: instance(), Name: "test", State: "firing", Text: "This is a test of semcached's alerts.", Since: time.Now().UTC()})
		cancel()
		if err != nil {
			fmt.Fprintf(env.stderr, "semcached: %s: %v\n", s.Name(), err)
			code = exitFailed
			continue
		}
		fmt.Fprintf(env.stdout, "%s: sent\n", s.Name())
	}
	return code
}
