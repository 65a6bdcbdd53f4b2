package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" {
			return errors.New("must not be empty")
		}
		*field(c) = v
		return nil
	}
}

func oneOf(field func(*Config) *string, choices ...string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if !slices.Contains(choices, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(choices, ", "))
		}
		*field(c) = v
		return nil
	}
}

func duration(field func(*Config) *time.Duration, least, most time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 90s or 1h", v)
		}
		if d < least || d > most {
			return fmt.Errorf("%v does not lie between %v and %v", d, least, most)
		}
		*field(c) = d
		return nil
	}
}

func size(field func(*Config) *int64, least int64) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := ParseSize(v)
		if err == nil && n < least {
			err = fmt.Errorf("%s is less than %d bytes", v, least)
		}
		if err == nil {
			*field(c) = n
		}
		return err
	}
}

// ParseSize reads a number of bytes: 1048576, 512MiB, 2GB, 1.5g.
func ParseSize(v string) (int64, error) {
	bad := fmt.Errorf("%q is not a size such as 512MiB or 2GB", v)
	end := strings.LastIndexAny(v, "0123456789.") + 1
	n, err := strconv.ParseFloat(v[:end], 64)
	if err != nil || n < 0 {
		return 0, bad
	}
	factors := map[string]float64{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
	f, ok := factors[strings.ToLower(strings.TrimSpace(v[end:]))]
	if !ok || n*f > math.MaxInt64/2 {
		return 0, bad
	}
	return int64(n * f), nil
}

func parseThreshold(c *Config, v string) error {
	f, err := strconv.ParseFloat(v, 32)
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%q does not lie between 0 and 1", v)
	}
	c.Threshold = float32(f)
	return nil
}

func parseEmbedder(c *Config, v string) error {
	kind, model, named := strings.Cut(v, ":")
	switch {
	case (v == "auto" || v == "lexical"), named && model != "" && (kind == "ollama" || kind == "openai"):
		c.Embedder = v
		return nil
	}
	return fmt.Errorf("%q is not auto, lexical, ollama:MODEL or openai:MODEL", v)
}

func parseUpstream(c *Config, v string) error {
	if !strings.Contains(v, "://") {
		v = "http://" + v
	}
	u, err := httpURL(v)
	if err == nil {
		c.Upstreams = append(c.Upstreams, u)
	}
	return err
}

func parseOpenAIURL(c *Config, v string) error {
	_, err := httpURL(v)
	c.OpenAIURL = strings.TrimSuffix(v, "/")
	return err
}

func httpURL(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL", v)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q does not begin with http:// or https://", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has a query or fragment", u.Redacted())
	}
	return u, nil
}

// parseRoute checks a method, or none, and a path that may end in *.
func parseRoute(c *Config, v string) error {
	method, path, ok := strings.Cut(v, " ")
	if !ok {
		method, path = "", v
	}
	if method != strings.ToUpper(method) || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#") || strings.Contains(strings.TrimSuffix(path, "*"), "*") {
		return fmt.Errorf("%q is not a route such as \"POST /api/chat\" or \"/v1/*\"", v)
	}
	c.Routes = append(c.Routes, v)
	return nil
}

func parseBreakerFailures(c *Config, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 10 {
		return fmt.Errorf("%q is not a number from 1 to 10", v)
	}
	c.BreakerFailures = n
	return nil
}

func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is not true or false", v)
		}
		*field(c) = on
		return nil
	}
}

// address checks host:port; a missing host listens everywhere.
func address(v string) (string, error) {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return "", fmt.Errorf("%q is not host:port", v)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("%q is not a port", port)
	}
	return v, nil
}

// OllamaHost reads OLLAMA_HOST as Ollama's own clients do: the scheme defaults to
// http, the port to 11434, or to that of a scheme that was written out; quotes and
// spaces around are trimmed; an unusable port counts as absent; and an address to
// listen on everywhere means this machine.
func OllamaHost(v string) string {
	v = strings.Trim(strings.TrimSpace(v), `"'`)
	port := "11434"
	scheme, rest, ok := strings.Cut(v, "://")
	switch {
	case !ok:
		scheme, rest = "http", v
		if v == "ollama.com" {
			scheme, port = "https", "443"
		}
	case scheme == "http":
		port = "80"
	case scheme == "https":
		port = "443"
	}
	rest, path, _ := strings.Cut(rest, "/")
	host, p, err := net.SplitHostPort(rest)
	if err != nil {
		host, p = strings.Trim(rest, "[]"), port
	}
	if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 65535 {
		p = port
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	u := scheme + "://" + net.JoinHostPort(host, p)
	if path != "" {
		u += "/" + strings.TrimSuffix(path, "/")
	}
	return u
}

// check finds settings that do not go together.
func (c *Config) check() error {
	var errs []error
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("tls-cert and tls-key: one without the other"))
	}
	if c.TraceFile == "on" || c.TraceFile == "true" {
		c.TraceFile = filepath.Join(c.Data, "llm_traces.jsonl")
	}
	if c.TraceFile == "off" || c.TraceFile == "false" {
		c.TraceFile = ""
	}
	if c.TraceAnswers && !c.TracePrompts {
		errs = append(errs, errors.New("trace-answers: needs trace-prompts as well"))
	}
	if c.Listen != "" && samePlace(c.Listen, c.Admin) {
		errs = append(errs, fmt.Errorf("admin: %s is the address of listen as well", c.Admin))
	}
	for _, u := range c.Upstreams {
		for name, own := range map[string]string{"listen": c.Listen, "admin": c.Admin} {
			if samePlace(own, hostPort(u)) {
				errs = append(errs, fmt.Errorf("upstream: %s is the address of %s: semcached would call itself", u.Redacted(), name))
			}
		}
	}
	return errors.Join(errs...)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// samePlace reports whether two addresses reach the same listener on this machine.
// Port 0 is a free one each time.
func samePlace(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || local(hostA) && local(hostB)
}

func local(host string) bool {
	if host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}

// Loopback reports whether the address is reachable from this machine only.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
