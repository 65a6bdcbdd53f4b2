package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/standin"
)

// scene is one question of the demo and what must come of it.
type scene struct {
	question string
	stream   bool
	want     string // X-Semcached-Source
	tells    string
}

var story = []scene{
	{"What is a Docker container?", false, "ollama", "new: the model is asked"},
	{"What is a Docker container?", false, "cache-exact", "the same again"},
	{"Please explain what a Docker container is", false, "cache-semantic", "in other words"},
	{"What is a Docker container?", true, "cache-exact", "the same, as a stream"},
	{"What is 15% of 240?", false, "ollama", "new: the model is asked"},
	{"What is 15% of 420?", false, "ollama", "near, but another question"},
	{"How do I turn the porch light on?", false, "ollama", "new: the model is asked"},
	{"How do I turn the porch light off?", false, "ollama", "near, but the opposite"},
	{"如何重置密码？", false, "ollama", "new: the model is asked"},
	{"请问怎么重置密码", false, "cache-semantic", "in other words"},
	{"如何不重置密码？", false, "ollama", "near, but negated"},
}

// The stand-in takes about as long as a small model on a small GPU.
const (
	demoFirstToken = 350 * time.Millisecond
	demoPerToken   = 25 * time.Millisecond
)

// demo plays a short story against a server in this process, with a stand-in
// model behind it.
func demo(ctx context.Context, env environment) int {
	if len(env.args) > 0 {
		fmt.Fprintln(env.stderr, "semcached: demo takes no arguments")
		return exitUsage
	}
	ok, err := playDemo(ctx, env.stdout, standin.Options{FirstToken: demoFirstToken, PerToken: demoPerToken, NoEmbed: true})
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return exitFailed
	}
	if !ok {
		fmt.Fprintln(env.stderr, "semcached: the story did not go as it should")
		return exitFailed
	}
	return exitOK
}

// playDemo reports whether every scene went as told.
func playDemo(ctx context.Context, w io.Writer, o standin.Options) (ok bool, err error) {
	model, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false, err
	}
	defer model.Close()
	fake := &http.Server{Handler: standin.New(o), ReadHeaderTimeout: time.Second}
	go fake.Serve(model)
	defer fake.Close()
	c, err := config.Load(config.Source{
		Args: []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", inMemory, "--embedder", "lexical",
			"--upstream", "http://" + model.Addr().String()},
		Getenv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		return false, err
	}
	s, err := newServer(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- s.run(ctx, &closer{after: []byte("entries"), ch: ready}) }()
	defer func() { cancel(); <-done }()
	select {
	case <-ready:
	case err := <-done:
		done <- err
		return false, err
	}
	return play(ctx, w, "http://"+s.front.Addr().String())
}

// closer closes ch once what is written contains after.
type closer struct {
	after []byte
	ch    chan struct{}
	done  bool
}

func (c *closer) Write(p []byte) (int, error) {
	if !c.done && bytes.Contains(p, c.after) {
		c.done = true
		close(c.ch)
	}
	return len(p), nil
}

// play asks the questions and prints the table.
func play(ctx context.Context, w io.Writer, url string) (ok bool, err error) {
	fmt.Fprintln(w, "A stand-in model answers; semcached with its built-in lexical embedder sits in front of it.")
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "QUESTION\t\tRESULT\tWHY\tMILLISECONDS\tSPEED-UP")
	ok = true
	var slow time.Duration
	for _, sc := range story {
		h, took, err := askDemo(ctx, url, sc)
		if err != nil {
			return false, err
		}
		result, speed := h.Get("X-Cache"), ""
		why := h.Get("X-Semcached-Reason")
		switch source := h.Get("X-Semcached-Source"); {
		case source != sc.want:
			ok, result = false, "UNEXPECTED "+result
		case source == "ollama":
			slow = took
		default:
			why = source
			if sim := h.Get("X-Semcached-Similarity"); sim != "" {
				why += ", cosine " + sim
			}
			speed = fmt.Sprintf("%.0fx", float64(slow)/float64(took))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.2f\t%s\n", sc.question, sc.tells, result, why, float64(took.Microseconds())/1000, speed)
	}
	table.Flush()
	fmt.Fprintln(w, "\nNext: `semcached serve`, then point your client at 127.0.0.1:11435 instead of Ollama.")
	return ok, nil
}

func askDemo(ctx context.Context, url string, sc scene) (http.Header, time.Duration, error) {
	body, err := json.Marshal(map[string]any{
		"model": "standin", "stream": sc.stream, "messages": []map[string]string{{"role": "user", "content": sc.question}}})
	if err != nil {
		return nil, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/chat", bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server answered %s", resp.Status)
	}
	return resp.Header, time.Since(start), err
}
