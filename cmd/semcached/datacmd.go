package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/internal/config"
	"github.com/semcached/semcached/internal/wire"
	"github.com/semcached/semcached/store"
	"github.com/semcached/semcached/store/bolt"
)

// dataFile is the name of the data file in its folder.
const dataFile = "semcached.db"

// own takes a tool's own flags out of the arguments; the rest are those of serve.
func own(args []string, names ...string) (values map[string]string, rest []string, err error) {
	values = make(map[string]string)
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") || !slices.Contains(names, name) {
			rest = append(rest, args[i])
			continue
		}
		if !inline {
			if i++; i == len(args) {
				return nil, nil, fmt.Errorf("--%s needs a value", name)
			}
			value = args[i]
		}
		values[name] = value
	}
	return values, rest, nil
}

// tool reads a tool's flags and the configuration; on false it has told why.
func tool(env environment, names ...string) (flags map[string]string, c *config.Config, path string, code int, ok bool) {
	flags, rest, err := own(env.args, names...)
	if err != nil {
		fmt.Fprintln(env.stderr, "semcached:", err)
		return nil, nil, "", exitUsage, false
	}
	env.args = rest
	if c, code, ok = load(env); !ok {
		return nil, nil, "", code, false
	}
	return flags, c, filepath.Join(c.Data, dataFile), exitOK, true
}

// failedTool tells of an error and returns the exit code.
func failedTool(env environment, err error) int {
	switch {
	case errors.Is(err, store.ErrLocked):
		err = fmt.Errorf("%w: a server has the file open; stop it first, or copy it with `semcached backup`", err)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w (--data names the folder)", err)
	}
	fmt.Fprintln(env.stderr, "semcached:", err)
	return exitFailed
}

// checkData verifies the data file, or writes what is sound in it to a new one.
func checkData(ctx context.Context, env environment) int {
	flags, _, path, code, ok := tool(env, "file", "repair")
	if !ok {
		return code
	}
	if f := flags["file"]; f != "" {
		path = f
	}
	r, err := bolt.Check(ctx, path, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%s\n  %d records, %d of them expired\n  %d bytes, %d of them free\n  %d damaged, %d stray, %d put aside earlier\n",
		path, r.Records, r.Expired, r.Bytes, r.Free, r.Damaged, r.Stray, r.Quarantined)
	for _, p := range r.Problems {
		fmt.Fprintln(env.stdout, "  -", p)
	}
	to := flags["repair"]
	if to == "" {
		if r.Sound() {
			fmt.Fprintln(env.stdout, "sound")
			return exitOK
		}
		fmt.Fprintln(env.stdout, "not sound; --repair FILE writes what is to a new file, for `semcached restore --from FILE`")
		return exitFailed
	}
	kept, left, err := bolt.Rewrite(ctx, path, to, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%d records written to %s, %d left out\n", kept, to, left)
	return exitOK
}

// compactData gives the room of removed records back to the disk.
func compactData(ctx context.Context, env environment) int {
	_, _, path, code, ok := tool(env)
	if !ok {
		return code
	}
	before, err := bolt.Check(ctx, path, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	if !before.Sound() {
		fmt.Fprintln(env.stderr, "semcached: the file is not sound; `semcached check` tells what is wrong")
		return exitFailed
	}
	next := path + ".compact"
	os.Remove(next) // of a run that was broken off
	kept, left, err := bolt.Rewrite(ctx, path, next, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	old, err := bolt.Replace(next, path)
	if err != nil {
		return failedTool(env, err)
	}
	after, err := bolt.Check(ctx, path, time.Now())
	if err != nil || !after.Sound() || after.Records != kept {
		return failedTool(env, fmt.Errorf("the new file does not check (%v); the old one is %s", err, old))
	}
	if err := os.Remove(old); err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%d bytes became %d; %d records, %d expired ones left out\n", before.Bytes, after.Bytes, kept, left)
	return exitOK
}

// dataStats prints what is in the data file.
func dataStats(ctx context.Context, env environment) int {
	_, _, path, code, ok := tool(env)
	if !ok {
		return code
	}
	by := map[string]map[string]int{"tenant": {}, "model": {}, "provider": {}, "vector space": {}}
	var records, expired, answers int
	var saved time.Duration
	err := bolt.Each(ctx, path, func(r *store.Record) error {
		records++
		if !r.Expires.After(time.Now()) {
			expired++
		}
		answers += len(r.Answer)
		saved += r.Cost
		by["tenant"][r.Tenant]++
		by["model"][r.Model]++
		by["provider"][r.Provider]++
		by["vector space"][cmp.Or(r.Space, "(none)")]++
		return nil
	})
	if err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%s\n  %d records, %d expired; answers of %d bytes that took the models %v\n", path, records, expired, answers, saved.Round(time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(by)) {
		names := slices.Sorted(maps.Keys(by[what]))
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(by[what][b], by[what][a]) })
		for _, name := range names[:min(10, len(names))] {
			fmt.Fprintf(env.stdout, "  %-12s %7d  %s\n", what, by[what][name], name)
		}
	}
	return exitOK
}

// line is one entry in an export.
type line struct {
	Tenant    string          `json:"tenant,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Operation string          `json:"operation,omitempty"`
	Model     string          `json:"model,omitempty"`
	Provider  string          `json:"provider,omitempty"`
	Tags      []string        `json:"tags,omitempty"`
	Request   json.RawMessage `json:"request,omitempty"`
	Answer    json.RawMessage `json:"answer,omitempty"`
	Created   time.Time       `json:"created,omitzero"`
	Expires   time.Time       `json:"expires,omitzero"`

	// What plain lists of questions and answers have.
	Prompt   string `json:"prompt,omitempty"`
	Question string `json:"question,omitempty"`
	System   string `json:"system,omitempty"`
}

// exportData writes every entry as a line of JSON.
func exportData(ctx context.Context, env environment) int {
	flags, _, path, code, ok := tool(env, "to", "tenant")
	if !ok {
		return code
	}
	out := env.stdout
	if to := flags["to"]; to != "" && to != "-" {
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return failedTool(env, err)
		}
		defer f.Close()
		out = f
	}
	w := bufio.NewWriter(out)
	written := 0
	err := bolt.Each(ctx, path, func(r *store.Record) error {
		if t := flags["tenant"]; t != "" && t != r.Tenant || !r.Expires.After(time.Now()) {
			return nil
		}
		a, err := wire.DecodeAnswer(r.Answer)
		if err != nil {
			return nil // counted by check
		}
		model := cmp.Or(a.Model, r.Model)
		l := line{
			Tenant: r.Tenant, Namespace: r.Namespace, Operation: r.Op, Model: r.Model, Provider: r.Provider, Tags: r.Tags, Request: r.Canonical,
			Answer: wire.Replay{Op: wire.Op(r.Op), Model: model, Now: r.Created, Elapsed: a.Total}.AppendObject(nil, a), Created: r.Created.UTC(), Expires: r.Expires.UTC(),
		}
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if written++; written%10_000 == 0 {
			fmt.Fprintf(env.stderr, "%d entries\n", written)
		}
		_, err = w.Write(append(b, '\n'))
		return err
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stderr, "%d entries exported\n", written)
	return exitOK
}

// maxImportLine bounds a line of an import.
const maxImportLine = 64 << 20

// importData stores the entries of an export, or a plain list of questions and answers,
// through a running server: that embeds them with its own model.
func importData(ctx context.Context, env environment) int {
	flags, c, _, code, ok := tool(env, "from", "url", "key", "skip")
	if !ok {
		return code
	}
	skip, err := strconv.Atoi(cmp.Or(flags["skip"], "0"))
	if err != nil || skip < 0 || flags["from"] == "" {
		fmt.Fprintln(env.stderr, "semcached: import --from FILE [--url http://HOST:PORT] [--key KEY] [--skip LINES]")
		return exitUsage
	}
	f, err := os.Open(flags["from"])
	if err != nil {
		return failedTool(env, err)
	}
	defer f.Close()
	to := importer{ctx: ctx, url: strings.TrimSuffix(cmp.Or(flags["url"], "http://"+c.Listen), "/"), key: flags["key"]}
	in := bufio.NewScanner(f)
	in.Buffer(nil, maxImportLine)
	n := 0
	for in.Scan() {
		if n++; n <= skip || len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		if err := to.line(in.Bytes()); err != nil {
			fmt.Fprintf(env.stderr, "semcached: line %d: %v\n%d stored, %d left out; go on with --skip %d\n", n, err, to.stored, to.left, n-1)
			return exitFailed
		}
		if n%1000 == 0 {
			fmt.Fprintf(env.stderr, "%d lines\n", n)
		}
	}
	if err := in.Err(); err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stderr, "%d stored, %d left out (expired, a fallback's, with images, or refused as not cacheable)\n", to.stored, to.left)
	return exitOK
}

// importer stores lines through a server's cache API.
type importer struct {
	ctx          context.Context
	url, key     string
	stored, left int
}

// body returns what to send for a line, nil if it cannot be imported.
func (im *importer) body(raw []byte) ([]byte, error) {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	fields := map[string]any{}
	switch {
	case l.Provider != "" && l.Provider != "ollama" && l.Provider != "api":
		return nil, nil // a fallback's answer must not become the local model's
	case len(l.Answer) == 0:
		return nil, errors.New("no answer")
	case len(l.Request) > 0:
		var request map[string]json.RawMessage
		if err := json.Unmarshal(l.Request, &request); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		if bytes.Contains(l.Request, []byte(`"images"`)) {
			return nil, nil // an export has their hashes only
		}
		for name, v := range request {
			fields[name] = v
		}
	case cmp.Or(l.Prompt, l.Question) != "":
		fields["prompt"] = cmp.Or(l.Prompt, l.Question)
		if l.Model != "" {
			fields["model"] = l.Model
		}
		if l.System != "" {
			fields["system"] = l.System
		}
	default:
		return nil, errors.New("neither request nor prompt nor question")
	}
	fields["answer"] = l.Answer
	if l.Namespace != "" {
		fields["namespace"] = l.Namespace
	}
	if len(l.Tags) > 0 {
		fields["tags"] = l.Tags
	}
	if !l.Expires.IsZero() {
		left := int64(time.Until(l.Expires) / time.Second)
		if left < 1 {
			return nil, nil
		}
		fields["ttl_seconds"] = left
	}
	return json.Marshal(fields)
}

// line stores one line. What the server refuses for what it is, is left out; anything
// else is an error.
func (im *importer) line(raw []byte) error {
	body, err := im.body(raw)
	if err != nil {
		return err
	}
	if body == nil {
		im.left++
		return nil
	}
	for {
		req, err := http.NewRequestWithContext(im.ctx, http.MethodPost, im.url+"/cache/store", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		if im.key != "" {
			req.Header.Set("Authorization", "Bearer "+im.key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			im.stored++
			return nil
		case http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
			im.left++
			return nil
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			select {
			case <-time.After(time.Duration(max(wait, 1)) * time.Second):
			case <-im.ctx.Done():
				return im.ctx.Err()
			}
		default:
			return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
		}
	}
}

// backupData copies the data file: of a running server through its admin address, else
// from the disk. The copy is checked before it gets its name.
func backupData(ctx context.Context, env environment) int {
	flags, c, path, code, ok := tool(env, "to")
	if !ok {
		return code
	}
	to := flags["to"]
	if to == "" {
		fmt.Fprintln(env.stderr, "semcached: backup --to FILE")
		return exitUsage
	}
	if _, err := os.Stat(to); err == nil {
		return failedTool(env, fmt.Errorf("%w: %s", fs.ErrExist, to))
	}
	part := to + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return failedTool(env, err)
	}
	defer os.Remove(part)
	defer f.Close()
	from := "the running server"
	err = download(ctx, c.Admin, f)
	if errors.Is(err, errNoServer) {
		from = path
		err = bolt.Copy(path, f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return failedTool(env, err)
	}
	r, err := bolt.Check(ctx, part, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	if !r.Sound() {
		return failedTool(env, fmt.Errorf("the copy does not check: %s", strings.Join(r.Problems, "; ")))
	}
	if err := os.Rename(part, to); err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%d records, %d bytes, from %s\n", r.Records, r.Bytes, from)
	return exitOK
}

var errNoServer = errors.New("no server runs")

// download fetches a consistent copy from a server's admin address.
func download(ctx context.Context, admin string, w io.Writer) error {
	url, err := adminURL(admin, "/backup")
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoServer, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// restoreData puts a checked copy in the place of the data file.
func restoreData(ctx context.Context, env environment) int {
	flags, c, path, code, ok := tool(env, "from")
	if !ok {
		return code
	}
	from := flags["from"]
	if from == "" {
		fmt.Fprintln(env.stderr, "semcached: restore --from FILE")
		return exitUsage
	}
	r, err := bolt.Check(ctx, from, time.Now())
	if err != nil {
		return failedTool(env, err)
	}
	if !r.Sound() {
		return failedTool(env, fmt.Errorf("%s is not sound; `semcached check --file %s --repair NEW` writes what is to a new file", from, from))
	}
	if _, err := bolt.Check(ctx, path, time.Now()); errors.Is(err, store.ErrLocked) {
		return failedTool(env, err)
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return failedTool(env, err)
	}
	next := path + ".restore"
	if err := copyFile(from, next); err != nil {
		return failedTool(env, err)
	}
	old, err := bolt.Replace(next, path)
	if err != nil {
		return failedTool(env, err)
	}
	fmt.Fprintf(env.stdout, "%d records are in place", r.Records)
	if old != "" {
		fmt.Fprintf(env.stdout, "; what was there is %s", old)
	}
	fmt.Fprintln(env.stdout)
	return exitOK
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	return err
}
