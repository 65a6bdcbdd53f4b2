// Command semcached is a semantic cache in front of Ollama.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	os.Exit(run(ctx, environment{
		args: os.Args[1:], getenv: os.LookupEnv, readFile: os.ReadFile, reload: reload, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
