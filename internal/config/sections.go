package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/internal/filter"
	"github.com/semcached/semcached/internal/tenant"
)

// Fallback is the OpenAI-compatible server that steps in.
type Fallback struct {
	URL       *url.URL // /v1 included
	Key       Secret
	Models    map[string]string // its names of models, by ours; "*" for all others
	MaxTokens string            // field that bounds an answer
}

// Quota bounds what one tenant keeps in the cache; 0 is no bound.
type Quota struct {
	MaxBytes   int64
	MaxEntries int
}

// Alerts says who is told when an upstream goes down or comes back.
type Alerts struct {
	HoldDown time.Duration // how long a change must last before it is told
	Webhook  *Webhook      // nil: none
	SMTP     *SMTP         // nil: none
}

// Webhook is an address that takes a POST.
type Webhook struct {
	URL    Secret // whoever knows it can post there
	Format string // json, slack
}

// SMTP is a mail server and whom to write to.
type SMTP struct {
	Addr     string // host:port
	From     string
	To       []string
	Username string
	Password Secret
}

// sections are the parts of the file that have a shape of their own.
type sections struct {
	Fallback *struct {
		URL        string            `yaml:"url"`
		APIKeyEnv  string            `yaml:"api_key_env"`
		APIKeyFile string            `yaml:"api_key_file"`
		Models     map[string]string `yaml:"models"`
		MaxTokens  string            `yaml:"max_tokens_field"`
	} `yaml:"fallback"`
	Tenants []struct {
		Name        string   `yaml:"name"`
		KeySHA256   string   `yaml:"key_sha256"`
		Rate        float64  `yaml:"rate"`
		Burst       int      `yaml:"burst"`
		Concurrency int      `yaml:"concurrency"`
		Roles       []string `yaml:"roles"`
		Fallback    *bool    `yaml:"fallback"`
		MaxBytes    any      `yaml:"max_bytes"`
		MaxEntries  int      `yaml:"max_entries"`
	} `yaml:"tenants"`
	Filter struct {
		Rules []struct {
			Name        string   `yaml:"name"`
			Match       string   `yaml:"match"`
			Words       []string `yaml:"words"`
			Action      string   `yaml:"action"`
			Replacement string   `yaml:"replacement"`
		} `yaml:"rules"`
	} `yaml:"filter"`
	Alerts struct {
		HoldDown string `yaml:"hold_down"`
		Webhook  *struct {
			URL    string `yaml:"url"`
			URLEnv string `yaml:"url_env"`
			Format string `yaml:"format"`
		} `yaml:"webhook"`
		SMTP *struct {
			Addr         string   `yaml:"addr"`
			From         string   `yaml:"from"`
			To           []string `yaml:"to"`
			Username     string   `yaml:"username"`
			PasswordEnv  string   `yaml:"password_env"`
			PasswordFile string   `yaml:"password_file"`
		} `yaml:"smtp"`
	} `yaml:"alerts"`
}

// defaultHoldDown lets an upstream restart without waking anybody.
const defaultHoldDown = 30 * time.Second

// into checks the sections and puts them into c.
func (s *sections) into(c *Config, src Source) error {
	return errors.Join(s.fallback(c, src), s.tenants(c), s.filter(c), s.alerts(c, src))
}

// secret reads a secret from the environment or a file.
func (src Source) secret(env, file string) (Secret, error) {
	switch {
	case env != "" && file != "":
		return "", errors.New("is given twice")
	case env != "":
		v, ok := src.Getenv(env)
		if !ok || v == "" {
			return "", fmt.Errorf("the environment has no %s", env)
		}
		return Secret(v), nil
	case file != "":
		raw, err := src.ReadFile(file)
		if err != nil {
			return "", err
		}
		return Secret(strings.TrimSpace(string(raw))), nil
	}
	return "", nil
}

// tracing reads from OpenTelemetry's own variables whether there are to be traces.
func (src Source) tracing(c *Config) error {
	get := func(name string) string { v, _ := src.Getenv(name); return strings.ToLower(strings.TrimSpace(v)) }
	if get("OTEL_SDK_DISABLED") == "true" || get("OTEL_TRACES_EXPORTER") == "none" {
		return nil
	}
	c.Tracing = get("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	for _, name := range [...]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if p := get(name); p != "" && p != "http/protobuf" && c.Tracing {
			return fmt.Errorf("%s: %q is not supported, only http/protobuf", name, p)
		}
	}
	return nil
}

func (s *sections) fallback(c *Config, src Source) error {
	in := s.Fallback
	if in == nil {
		return nil
	}
	var errs []error
	u, err := httpURL(in.URL)
	if err != nil {
		errs = append(errs, fmt.Errorf("fallback.url: %w", err))
	}
	key, err := src.secret(in.APIKeyEnv, in.APIKeyFile)
	if err != nil {
		errs = append(errs, fmt.Errorf("fallback.api_key: %w", err))
	}
	if len(in.Models) == 0 {
		errs = append(errs, errors.New(`fallback.models: names no model; {"*": NAME} stands for all`))
	}
	for name, to := range in.Models {
		if name == "" || to == "" {
			errs = append(errs, errors.New("fallback.models: an empty name"))
		}
	}
	if in.MaxTokens == "" {
		in.MaxTokens = "max_completion_tokens"
	}
	if in.MaxTokens != "max_completion_tokens" && in.MaxTokens != "max_tokens" {
		errs = append(errs, fmt.Errorf("fallback.max_tokens_field: %q is not max_completion_tokens or max_tokens", in.MaxTokens))
	}
	c.Fallback = &Fallback{URL: u, Key: key, Models: in.Models, MaxTokens: in.MaxTokens}
	return errors.Join(errs...)
}

func (s *sections) tenants(c *Config) error {
	for _, t := range s.Tenants {
		c.Tenants = append(c.Tenants, tenant.Spec{
			Name: t.Name, KeySHA256: t.KeySHA256, Rate: t.Rate, Burst: t.Burst, Concurrency: t.Concurrency,
			Roles: t.Roles, NoFallback: t.Fallback != nil && !*t.Fallback,
		})
	}
	_, err := tenant.New(c.Tenants, nil)
	return prefixed("tenants", errors.Join(err, s.quotas(c)))
}

// quotas reads what tenants may keep. Of a tenant with several keys one may say it, or
// all the same.
func (s *sections) quotas(c *Config) error {
	var errs []error
	c.Quotas = make(map[string]Quota)
	for _, t := range s.Tenants {
		if t.MaxBytes == nil && t.MaxEntries == 0 {
			continue
		}
		q := Quota{MaxEntries: t.MaxEntries}
		if t.MaxBytes != nil {
			n, err := ParseSize(fmt.Sprint(t.MaxBytes))
			if err != nil {
				errs = append(errs, fmt.Errorf("tenant %.40q: max_bytes: %w", t.Name, err))
			}
			q.MaxBytes = n
		}
		if q.MaxEntries < 0 {
			errs = append(errs, fmt.Errorf("tenant %.40q: max_entries must not be negative", t.Name))
		}
		if was, ok := c.Quotas[t.Name]; ok && was != q {
			errs = append(errs, fmt.Errorf("tenant %.40q: its keys name different quotas", t.Name))
		}
		c.Quotas[t.Name] = q
	}
	return errors.Join(errs...)
}

// prefixed puts a section's name before each line of an error.
func prefixed(section string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(section + ": " + strings.ReplaceAll(err.Error(), "\n", "\n"+section+": "))
}

func (s *sections) filter(c *Config) error {
	var errs []error
	for _, r := range s.Filter.Rules {
		action, err := filter.ParseAction(r.Action)
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %s: action: %w", r.Name, err))
		}
		c.Rules = append(c.Rules, filter.Rule{Name: r.Name, Match: r.Match, Words: r.Words, Action: action, Replacement: r.Replacement})
	}
	_, err := filter.New(c.Rules)
	return prefixed("filter", errors.Join(append(errs, err)...))
}

func (s *sections) alerts(c *Config, src Source) error {
	in := s.Alerts
	var errs []error
	c.Alerts.HoldDown = defaultHoldDown
	if in.HoldDown != "" {
		parse := duration(func(c *Config) *time.Duration { return &c.Alerts.HoldDown }, 0, time.Hour)
		if err := parse(c, in.HoldDown); err != nil {
			errs = append(errs, fmt.Errorf("alerts.hold_down: %w", err))
		}
	}
	if w := in.Webhook; w != nil {
		address := Secret(w.URL)
		if w.URLEnv != "" {
			var err error
			if address, err = src.secret(w.URLEnv, w.URL); err != nil {
				errs = append(errs, fmt.Errorf("alerts.webhook.url_env: %w", err))
			}
		}
		if u, err := url.Parse(string(address)); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			errs = append(errs, errors.New("alerts.webhook.url: is not an http URL"))
		}
		if w.Format == "" {
			w.Format = "json"
		}
		if w.Format != "json" && w.Format != "slack" {
			errs = append(errs, fmt.Errorf("alerts.webhook.format: %q is not json or slack", w.Format))
		}
		c.Alerts.Webhook = &Webhook{URL: address, Format: w.Format}
	}
	if m := in.SMTP; m != nil {
		password, err := src.secret(m.PasswordEnv, m.PasswordFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("alerts.smtp.password: %w", err))
		}
		if _, err := address(m.Addr); err != nil {
			errs = append(errs, fmt.Errorf("alerts.smtp.addr: %w", err))
		}
		if len(m.To) == 0 {
			errs = append(errs, errors.New("alerts.smtp.to: nobody is named"))
		}
		for _, who := range append([]string{m.From}, m.To...) {
			if _, err := mail.ParseAddress(who); err != nil {
				errs = append(errs, fmt.Errorf("alerts.smtp: %q is not a mail address", who))
			}
		}
		c.Alerts.SMTP = &SMTP{Addr: m.Addr, From: m.From, To: m.To, Username: m.Username, Password: password}
	}
	return errors.Join(errs...)
}

// effectiveSections writes the sections. What is secret is left out or masked.
func (c *Config) effectiveSections(w io.Writer) {
	if f := c.Fallback; f != nil {
		fmt.Fprintf(w, "fallback:\n  url: %s\n  max_tokens_field: %s\n  models:\n", f.URL.Redacted(), f.MaxTokens)
		for _, name := range slices.Sorted(maps.Keys(f.Models)) {
			fmt.Fprintf(w, "    %s: %s\n", strconv.Quote(name), strconv.Quote(f.Models[name]))
		}
		if f.Key != "" {
			fmt.Fprintf(w, "  # the key is %s\n", f.Key)
		}
	}
	if len(c.Tenants) > 0 {
		fmt.Fprintln(w, "tenants:")
	}
	for _, t := range c.Tenants {
		fmt.Fprintf(w, "  - {name: %s, key_sha256: %q, rate: %v, burst: %d, concurrency: %d, fallback: %v", t.Name, t.KeySHA256, t.Rate, t.Burst, t.Concurrency, !t.NoFallback)
		if t.Roles != nil {
			fmt.Fprintf(w, ", roles: [%s]", strings.Join(t.Roles, ", "))
		}
		if q := c.Quotas[t.Name]; q.MaxBytes > 0 {
			fmt.Fprintf(w, ", max_bytes: %d", q.MaxBytes)
		}
		if q := c.Quotas[t.Name]; q.MaxEntries > 0 {
			fmt.Fprintf(w, ", max_entries: %d", q.MaxEntries)
		}
		fmt.Fprintln(w, "}")
	}
	if len(c.Rules) > 0 {
		fmt.Fprint(w, "filter:\n  rules:\n")
	}
	for _, r := range c.Rules {
		what := "match: " + strconv.Quote(r.Match)
		if r.Match == "" {
			words := make([]string, len(r.Words))
			for i, word := range r.Words {
				words[i] = strconv.Quote(word)
			}
			what = "words: [" + strings.Join(words, ", ") + "]"
		}
		fmt.Fprintf(w, "    - {name: %q, %s, action: %s", r.Name, what, r.Action)
		if r.Replacement != "" {
			fmt.Fprintf(w, ", replacement: %q", r.Replacement)
		}
		fmt.Fprintln(w, "}")
	}
	fmt.Fprintf(w, "alerts:\n  hold_down: %v\n", c.Alerts.HoldDown)
	if h := c.Alerts.Webhook; h != nil {
		fmt.Fprintf(w, "  # webhook (%s): %s\n", h.Format, h.URL)
	}
	if m := c.Alerts.SMTP; m != nil {
		fmt.Fprintf(w, "  smtp: {addr: %q, from: %q, to: [%s], username: %q}", m.Addr, m.From, `"`+strings.Join(m.To, `", "`)+`"`, m.Username)
		if m.Password != "" {
			fmt.Fprintf(w, " # the password is %s", m.Password)
		}
		fmt.Fprintln(w)
	}
}
