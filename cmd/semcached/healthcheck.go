package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// adminURL is where to ask a server on this machine that listens on addr.
func adminURL(addr, path string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + path, nil
}

// healthcheck asks the configured admin address. It is for containers, which have
// no other program to ask with.
func healthcheck(ctx context.Context, env environment) int {
	c, code, ok := load(env)
	if !ok {
		return code
	}
	url, err := adminURL(c.Admin, "/healthz")
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
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
