package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// healthcheck asks the configured admin address. It is for containers, which have
// no other program to ask with.
func healthcheck(ctx context.Context, env environment) int {
	c, code, ok := load(env)
	if !ok {
		return code
	}
	host, port, err := net.SplitHostPort(c.Admin)
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitUsage
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, port) + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitFailed
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Fprintln(env.stderr, "unwell:", err)
		return exitFailed
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		fmt.Fprintln(env.stderr, "unwell:", url, resp.Status)
		return exitFailed
	}
	fmt.Fprintln(env.stdout, "well:", url)
	return exitOK
}
