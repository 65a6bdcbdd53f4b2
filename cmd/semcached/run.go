package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/semcached/semcached/internal/config"
)

// environment is what a subcommand sees of the world.
type environment struct {
	args           []string
	getenv         func(string) (string, bool)
	readFile       func(string) ([]byte, error)
	reload         <-chan os.Signal // asks to read the configuration again; may be nil
	stdin          io.Reader
	hurry          <-chan struct{} // closed when the end must not take long; may be nil
	stdout, stderr io.Writer
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // something went wrong while running
	exitUsage  = 2 // the arguments or the configuration are wrong
	exitPartly = 3 // done, but for what is wrong or damaged; check: the file could not be looked at
)

const usage = `semcached is a semantic cache in front of Ollama.

  semcached serve [flags]        serve; -h lists the flags
  semcached demo                 show misses and hits, without Ollama
  semcached config [flags]       print the effective configuration, or every mistake in it
  semcached key                  make an API key and its hash
  semcached alert [flags]        send a test alert to everybody the configuration names
  semcached backup --to FILE     copy the data file, of a running server as well
  semcached restore --from FILE  put a checked copy in the place of the data file
  semcached check [--repair F]   verify the data file; write what is sound in it to a new one
  semcached compact              give the room of removed entries back to the disk
  semcached stats [--json]       what is in the data file
  semcached export [--to FILE]   every entry as a line of JSON; -h of each of these lists its flags
  semcached import --from FILE   store an export, lines of {"question", "answer"}, or a log of calls, through a running server
  semcached healthcheck [flags]  ask the admin address of a running server; exit 0 if it is well
  semcached version              print version and build
  semcached help                 print this
`

// commands are the subcommands by name.
var commands = map[string]func(context.Context, environment) int{
	"serve": serve, "demo": demo, "alert": testAlert, "healthcheck": healthcheck,
	"backup": backupData, "restore": restoreData, "check": checkData, "compact": compactData,
	"stats": dataStats, "export": exportData, "import": importData,
	"config": offline(showConfig), "key": offline(newKey),
	"version": offline(showVersion), "--version": offline(showVersion), "-v": offline(showVersion),
	"help": offline(help), "--help": offline(help), "-h": offline(help),
}

// offline is a subcommand that waits for nobody.
func offline(f func(environment) int) func(context.Context, environment) int {
	return func(_ context.Context, env environment) int { return f(env) }
}

func help(env environment) int {
	fmt.Fprint(env.stdout, usage)
	return exitOK
}

// run carries out one subcommand and returns the exit code.
func run(ctx context.Context, env environment) int {
	if len(env.args) == 0 {
		fmt.Fprint(env.stderr, usage)
		return exitUsage
	}
	name := env.args[0]
	env.args = env.args[1:]
	if command, ok := commands[name]; ok {
		return command(ctx, env)
	}
	fmt.Fprintf(env.stderr, "semcached: there is no subcommand %q\n\n%s", name, usage)
	return exitUsage
}

// load reads the configuration; on false it has told why, and code is the exit code.
func load(env environment) (c *config.Config, code int, ok bool) {
	c, err := config.Load(config.Source{Args: env.args, Getenv: env.getenv, ReadFile: env.readFile, Usage: env.stderr})
	switch {
	case errors.Is(err, config.ErrHelp):
		return nil, exitOK, false
	case err != nil:
		fmt.Fprintf(env.stderr, "semcached: the configuration has mistakes:\n%v\n", err)
		return nil, exitUsage, false
	}
	return c, exitOK, true
}

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// logger returns the structured log that the configuration asks for.
func logger(c *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
