// Command semcached is a semantic cache in front of Ollama.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ends := make(chan os.Signal, 2)
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())
	hurry := make(chan struct{})
	go func() {
		<-ends
		stop()
		<-ends
		close(hurry)
		signal.Reset(syscall.SIGINT, syscall.SIGTERM) // a third one ends the process at once
	}()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	os.Exit(run(ctx, environment{
		args: os.Args[1:], getenv: os.LookupEnv, readFile: os.ReadFile, reload: reload, hurry: hurry, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
