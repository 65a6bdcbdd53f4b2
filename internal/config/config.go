// Package config gathers the settings from flags, environment, file and defaults,
// in this order of precedence, and reports every mistake at once.
//
// Each setting has one name: the flag --max-bytes is SEMCACHED_MAX_BYTES in the
// environment and max-bytes in the file. This is the only package that reads the
// environment.
package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/tenant"
)

// Config is the effective configuration.
type Config struct {
	Listen       string
	Admin        string
	Upstreams    []*url.URL
	Data         string
	Embedder     string // auto, lexical, ollama:MODEL, openai:MODEL
	EmbedTimeout time.Duration
	Threshold    float32 // 0: the embedder's own
	Index        string  // auto, sketch, hnsw, flat, coder
	TTL          time.Duration
	MaxBytes     int64
	AnswerMemory int64
	MaxFile      int64 // of the data file; 0: no limit
	MaxBody      int64
	Durability   string // async, sync
	Origins      []string
	LogFormat    string // text, json
	LogLevel     string // debug, info, warn, error
	OpenAIURL    string
	OpenAIKey    Secret

	TLSCert, TLSKey  string        // files; both or neither
	Routes           []string      // allowed ones, as "POST /api/chat" or "/v1/*"; none: all
	StaleIfError     time.Duration // how long an expired answer may step in
	FirstByteTimeout time.Duration
	ProbeInterval    time.Duration
	BreakerFailures  int
	BreakerDelay     time.Duration
	TraceFile        string // of the call log; "" writes none
	TracePrompts     bool
	TraceAnswers     bool
	File             string // the YAML file; "" if there is none
	DrainTime        time.Duration
	Tracing          bool // the standard OTEL_* variables ask for traces

	Fallback *Fallback // nil: none
	Tenants  []tenant.Spec
	Quotas   map[string]Quota // by tenant's name
	Rules    []filter.Rule    // of the output filter
	Alerts   Alerts

	sources map[string]string // where each setting comes from
}

// Secret is a text that is never printed.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "********"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// setting is one thing that can be set. Every default is here.
type setting struct {
	name, value, usage string
	list               bool // may be given several times
	noFlag             bool
	parse              func(c *Config, v string) error
}

// settings in the order in which they are shown.
var settings = []setting{
	{name: "listen", value: "127.0.0.1:11435", usage: "address for clients", parse: func(c *Config, v string) (err error) { c.Listen, err = address(v); return }},
	{name: "admin", value: "127.0.0.1:11436", usage: "address for health, metrics and profiles", parse: func(c *Config, v string) (err error) { c.Admin, err = address(v); return }},
	{name: "upstream", usage: "URL of an Ollama server, in order of preference (default: OLLAMA_HOST, else http://127.0.0.1:11434)", list: true, parse: parseUpstream},
	{name: "data", value: "./semcached-data", usage: "folder for the data file; \":memory:\" keeps nothing", parse: text(func(c *Config) *string { return &c.Data })},
	{name: "embedder", value: "auto", usage: "auto, lexical, ollama:MODEL or openai:MODEL", parse: parseEmbedder},
	{name: "embed-timeout", value: "150ms", usage: "how long a request waits for its embedding", parse: duration(func(c *Config) *time.Duration { return &c.EmbedTimeout }, time.Millisecond, time.Minute)},
	{name: "threshold", value: "0", usage: "cosine from which a rephrased question hits, 0 to 1 (0: the embedder's own)", parse: parseThreshold},
	{name: "index", value: "auto", usage: "auto, sketch, hnsw, flat or coder", parse: oneOf(func(c *Config) *string { return &c.Index }, "auto", "sketch", "hnsw", "flat", "coder")},
	{name: "ttl", value: "1h", usage: "life of an answer", parse: duration(func(c *Config) *time.Duration { return &c.TTL }, time.Second, 10*365*24*time.Hour)},
	{name: "max-bytes", value: "512MiB", usage: "bytes of all entries together, answers on disk included", parse: size(func(c *Config) *int64 { return &c.MaxBytes }, 1<<20)},
	{name: "answer-memory", value: "256MiB", usage: "bytes of answers held in memory; others are read from the disk", parse: size(func(c *Config) *int64 { return &c.AnswerMemory }, 1<<16)},
	{name: "max-file", value: "0", usage: "bytes that the data file may grow to, on top of what eviction does; 0 is no limit", parse: size(func(c *Config) *int64 { return &c.MaxFile }, 0)},
	{name: "max-body", value: "20MiB", usage: "bytes of a request body, uploads excepted", parse: size(func(c *Config) *int64 { return &c.MaxBody }, 1<<10)},
	{name: "durability", value: "async", usage: "async acknowledges from memory, sync after the disk has it", parse: oneOf(func(c *Config) *string { return &c.Durability }, "async", "sync")},
	{name: "origin", usage: "further allowed Origin of browsers (default: OLLAMA_ORIGINS)", list: true, parse: func(c *Config, v string) error { c.Origins = append(c.Origins, v); return nil }},
	{name: "log-format", value: "text", usage: "text or json", parse: oneOf(func(c *Config) *string { return &c.LogFormat }, "text", "json")},
	{name: "log-level", value: "info", usage: "debug, info, warn or error", parse: oneOf(func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
	{name: "tls-cert", usage: "certificate file (PEM) to serve clients by TLS", parse: text(func(c *Config) *string { return &c.TLSCert })},
	{name: "tls-key", usage: "its key file", parse: text(func(c *Config) *string { return &c.TLSKey })},
	{name: "route", usage: "route that clients may use, as \"POST /api/chat\" or \"/v1/*\" (default: all)", list: true, parse: parseRoute},
	{name: "stale-if-error", value: "0s", usage: "how long an expired answer may step in when nobody else answers", parse: duration(func(c *Config) *time.Duration { return &c.StaleIfError }, 0, 365*24*time.Hour)},
	{name: "first-byte-timeout", value: "10m", usage: "how long an upstream may take to begin its answer, loading the model included", parse: duration(func(c *Config) *time.Duration { return &c.FirstByteTimeout }, 100*time.Millisecond, 24*time.Hour)},
	{name: "probe-interval", value: "10s", usage: "how often upstreams are asked whether they are there", parse: duration(func(c *Config) *time.Duration { return &c.ProbeInterval }, 50*time.Millisecond, time.Hour)},
	{name: "breaker-failures", value: "5", usage: "failures among ten calls after which an upstream is left alone", parse: parseBreakerFailures},
	{name: "breaker-delay", value: "10s", usage: "for how long", parse: duration(func(c *Config) *time.Duration { return &c.BreakerDelay }, 50*time.Millisecond, time.Hour)},
	{name: "trace-file", usage: "file for the log of calls, a JSON object for each; \"on\" is llm_traces.jsonl in the data folder", parse: text(func(c *Config) *string { return &c.TraceFile })},
	{name: "trace-prompts", value: "false", usage: "write the questions' text into the log of calls", parse: boolean(func(c *Config) *bool { return &c.TracePrompts })},
	{name: "trace-answers", value: "false", usage: "and the answers that were kept, for \"semcached import\"", parse: boolean(func(c *Config) *bool { return &c.TraceAnswers })},
	{name: "drain-time", value: "30s", usage: "how long answers under way may go on after SIGTERM", parse: duration(func(c *Config) *time.Duration { return &c.DrainTime }, 0, time.Hour)},
	{name: "openai.url", value: "https://api.openai.com/v1", usage: "base URL for openai:MODEL", noFlag: true, parse: parseOpenAIURL},
	{name: "openai.api-key", usage: "key for openai:MODEL", noFlag: true, parse: func(c *Config, v string) error { c.OpenAIKey = Secret(v); return nil }},
}

// Source is where settings are read from. Getenv and ReadFile are os.LookupEnv and
// os.ReadFile.
type Source struct {
	Args     []string
	Getenv   func(string) (string, bool)
	ReadFile func(string) ([]byte, error)
	Usage    io.Writer // where -h prints; nil discards
}

// ErrHelp: the arguments asked for help, which has been printed.
var ErrHelp = flag.ErrHelp

// given is a value before it is parsed.
type given struct {
	values []string
	source string
}

// Load gathers and checks the settings. The error lists every mistake, one on a
// line, each with the setting's name and where it was made.
func Load(src Source) (*Config, error) {
	flags, file, err := src.flags()
	if err != nil {
		return nil, err
	}
	var errs []error
	all := defaults()
	fromFile, sections, err := src.file(file)
	errs = append(errs, err)
	maps.Copy(all, fromFile)
	maps.Copy(all, src.env())
	maps.Copy(all, flags)
	src.fallbacks(all)
	c := &Config{sources: make(map[string]string)}
	for _, s := range settings {
		g := all[s.name]
		c.sources[s.name] = g.source
		for _, v := range g.values {
			if err := s.parse(c, v); err != nil {
				errs = append(errs, fmt.Errorf("%s (from %s): %w", s.name, g.source, err))
			}
		}
	}
	c.File = file.path()
	if c.File == "" {
		if v, ok := src.Getenv("SEMCACHED_CONFIG"); ok {
			c.File = v
		}
	}
	errs = append(errs, sections.into(c, src), src.tracing(c), c.check())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func defaults() map[string]given {
	all := make(map[string]given)
	for _, s := range settings {
		if s.value != "" {
			all[s.name] = given{[]string{s.value}, "default"}
		}
	}
	return all
}

func (g given) path() string {
	if g.values == nil {
		return ""
	}
	return g.values[0]
}

// flags reads the command line; file is the value of --config.
func (src Source) flags() (set map[string]given, file given, err error) {
	set = make(map[string]given)
	fs := flag.NewFlagSet("semcached", flag.ContinueOnError)
	out := src.Usage
	if out == nil {
		out = io.Discard
	}
	fs.SetOutput(out)
	fs.Func("config", "YAML `file` with these settings", func(v string) error { file = given{[]string{v}, "--config"}; return nil })
	for _, s := range settings {
		if s.noFlag {
			continue
		}
		usage := s.usage
		if s.value != "" {
			usage += " (default " + s.value + ")"
		}
		fs.Func(s.name, usage, func(v string) error {
			g := given{[]string{v}, "flag --" + s.name}
			if s.list {
				g.values = append(set[s.name].values, v)
			}
			set[s.name] = g
			return nil
		})
	}
	if err := fs.Parse(src.Args); err != nil {
		return nil, file, err
	}
	if fs.NArg() > 0 {
		return nil, file, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return set, file, nil
}

// EnvName returns the environment variable of a setting.
func EnvName(name string) string {
	return "SEMCACHED_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
}

func (src Source) env() map[string]given {
	set := make(map[string]given)
	for _, s := range settings {
		if v, ok := src.Getenv(EnvName(s.name)); ok && v != "" {
			values := []string{v}
			if s.list {
				values = splitList(v)
			}
			set[s.name] = given{values, "environment " + EnvName(s.name)}
		}
	}
	return set
}

func splitList(v string) []string {
	var list []string
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// fallbacks takes what is not set from the variables of others.
func (src Source) fallbacks(all map[string]given) {
	take := func(name, env string, value func(string) []string) {
		if g, ok := all[name]; ok && g.source != "default" {
			return
		}
		if v, ok := src.Getenv(env); ok && strings.TrimSpace(v) != "" {
			all[name] = given{value(v), "environment " + env}
		}
	}
	one := func(v string) []string { return []string{v} }
	take("upstream", "OLLAMA_HOST", func(v string) []string { return []string{OllamaHost(v)} })
	take("origin", "OLLAMA_ORIGINS", splitList)
	take("openai.url", "OPENAI_BASE_URL", one)
	take("openai.api-key", "OPENAI_API_KEY", one)
	if _, ok := all["upstream"]; !ok {
		all["upstream"] = given{[]string{OllamaHost("")}, "default"}
	}
}

// file reads the YAML file, if one is named by --config or SEMCACHED_CONFIG.
func (src Source) file(named given) (map[string]given, *sections, error) {
	if v, ok := src.Getenv("SEMCACHED_CONFIG"); ok && named.values == nil && v != "" {
		named = given{[]string{v}, "environment SEMCACHED_CONFIG"}
	}
	if named.values == nil {
		return nil, new(sections), nil
	}
	name := named.values[0]
	raw, err := src.ReadFile(name)
	if err != nil {
		return nil, new(sections), fmt.Errorf("config (from %s): %w", named.source, err)
	}
	set, sections, err := parseFile(raw, "file "+name, src.Getenv)
	if err != nil {
		return set, sections, fmt.Errorf("file %s: %w", name, err)
	}
	return set, sections, nil
}

// document is the shape of the file.
type document struct {
	sections  sections
	scalars   map[string]any
	Upstreams []struct {
		URL string `yaml:"url"`
	} `yaml:"upstreams"`
	OpenAI struct {
		URL       string `yaml:"url"`
		APIKeyEnv string `yaml:"api_key_env"`
	} `yaml:"openai"`
}

// parseFile reads the settings of a file. Unknown names and values of the wrong
// shape are mistakes.
func parseFile(raw []byte, source string, getenv func(string) (string, bool)) (map[string]given, *sections, error) {
	var top map[string]any
	if err := yaml.Unmarshal(raw, &top); err != nil {
		return nil, new(sections), errors.New(strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	doc := document{scalars: make(map[string]any)}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(top)) {
		switch plain := strings.ReplaceAll(name, "_", "-"); plain {
		case "upstreams", "openai", "fallback", "tenants", "filter", "alerts":
			var into any = &doc
			if plain != "upstreams" && plain != "openai" {
				into = &doc.sections
			}
			part, _ := yaml.Marshal(map[string]any{name: top[name]})
			if err := yaml.NewDecoder(bytes.NewReader(part), yaml.Strict()).Decode(into); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s", name, strings.TrimSpace(yaml.FormatError(err, false, false))))
			}
		default:
			doc.scalars[plain] = top[name]
		}
	}
	set := make(map[string]given)
	for _, name := range slices.Sorted(maps.Keys(doc.scalars)) {
		values, err := scalar(name, doc.scalars[name])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		set[name] = given{values, source}
	}
	doc.nested(set, source, getenv, &errs)
	return set, &doc.sections, errors.Join(errs...)
}

// nested takes the settings that have a shape of their own.
func (doc *document) nested(set map[string]given, source string, getenv func(string) (string, bool), errs *[]error) {
	for _, u := range doc.Upstreams {
		g := set["upstream"]
		set["upstream"] = given{append(g.values, u.URL), source}
	}
	if doc.OpenAI.URL != "" {
		set["openai.url"] = given{[]string{doc.OpenAI.URL}, source}
	}
	if name := doc.OpenAI.APIKeyEnv; name != "" {
		v, ok := getenv(name)
		if !ok || v == "" {
			*errs = append(*errs, fmt.Errorf("openai.api_key_env: the environment has no %s", name))
			return
		}
		set["openai.api-key"] = given{[]string{v}, "environment " + name}
	}
}

// scalar returns the values of a plain setting in the file.
func scalar(name string, v any) ([]string, error) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == name && !s.noFlag })
	if i < 0 {
		return nil, fmt.Errorf("unknown setting %q", name)
	}
	switch v := v.(type) {
	case []any:
		if !settings[i].list {
			return nil, fmt.Errorf("%s: a list is not expected", name)
		}
		var list []string
		for _, item := range v {
			list = append(list, fmt.Sprint(item))
		}
		return list, nil
	case map[string]any, nil:
		return nil, fmt.Errorf("%s: a plain value is expected", name)
	case float64:
		return []string{strconv.FormatFloat(v, 'g', -1, 64)}, nil
	default:
		return []string{fmt.Sprint(v)}, nil
	}
}

// Effective writes the configuration as a file that Load would read, with a
// comment on where each setting comes from. Secrets are masked.
func (c *Config) Effective(w io.Writer) {
	line := func(name, value string) {
		fmt.Fprintf(w, "%-42s # %s\n", name+": "+value, c.sources[name])
	}
	line("listen", c.Listen)
	line("admin", c.Admin)
	fmt.Fprintf(w, "upstreams: %31s # %s\n", "", c.sources["upstream"])
	for _, u := range c.Upstreams {
		fmt.Fprintf(w, "  - url: %s\n", u.Redacted())
	}
	line("data", strconv.Quote(c.Data))
	line("embedder", c.Embedder)
	line("embed-timeout", c.EmbedTimeout.String())
	line("threshold", strconv.FormatFloat(float64(c.Threshold), 'g', -1, 32))
	line("index", c.Index)
	line("ttl", c.TTL.String())
	line("max-bytes", strconv.FormatInt(c.MaxBytes, 10))
	line("answer-memory", strconv.FormatInt(c.AnswerMemory, 10))
	line("max-file", strconv.FormatInt(c.MaxFile, 10))
	line("max-body", strconv.FormatInt(c.MaxBody, 10))
	line("durability", c.Durability)
	if len(c.Origins) > 0 {
		line("origin", fmt.Sprintf("[%s]", strings.Join(c.Origins, ", ")))
	}
	line("log-format", c.LogFormat)
	line("log-level", c.LogLevel)
	if c.TLSCert != "" {
		line("tls-cert", strconv.Quote(c.TLSCert))
		line("tls-key", strconv.Quote(c.TLSKey))
	}
	if len(c.Routes) > 0 {
		quoted := make([]string, len(c.Routes))
		for i, r := range c.Routes {
			quoted[i] = strconv.Quote(r)
		}
		line("route", fmt.Sprintf("[%s]", strings.Join(quoted, ", ")))
	}
	line("stale-if-error", c.StaleIfError.String())
	line("first-byte-timeout", c.FirstByteTimeout.String())
	line("probe-interval", c.ProbeInterval.String())
	line("breaker-failures", strconv.Itoa(c.BreakerFailures))
	line("breaker-delay", c.BreakerDelay.String())
	if c.TraceFile != "" {
		line("trace-file", strconv.Quote(c.TraceFile))
	}
	line("drain-time", c.DrainTime.String())
	line("trace-prompts", strconv.FormatBool(c.TracePrompts))
	line("trace-answers", strconv.FormatBool(c.TraceAnswers))
	c.effectiveSections(w)
	fmt.Fprintf(w, "openai:\n  url: %-35s # %s\n", c.OpenAIURL, c.sources["openai.url"])
	if c.OpenAIKey != "" {
		fmt.Fprintf(w, "  # the key is %s, from %s\n", c.OpenAIKey, c.sources["openai.api-key"])
	}
}
