package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/semcached/semcached/cache"
)

// Limits of what request headers may say.
const (
	MaxTTL       = 365 * 24 * time.Hour
	MaxNamespace = 128
	MaxTags      = 16
	MaxTag       = 64
)

// Controls are a request's wishes about the cache.
type Controls struct {
	NoCache      bool // serve nothing stored, but store the answer
	NoStore      bool // neither serve nor store
	OnlyIfCached bool
	MaxAge       time.Duration // < 0: no limit

	Off       bool // X-Semcached-Mode: off
	Mode      cache.Mode
	TTL       time.Duration // 0: the server's
	Threshold float32       // 0: the server's
	Namespace string
	Tags      []string
	Sync      bool

	NoFallback bool // X-Semcached-Fallback: off
}

// ParseControls reads Cache-Control (RFC 9111, section 5.2.1), Pragma and the
// X-Semcached-* headers. What makes no sense is an error that names the header,
// fit to be shown to the client.
func ParseControls(h http.Header) (Controls, error) {
	c := Controls{MaxAge: -1}
	var errs []error
	check := func(name string, parse func(value string) error) {
		if v := strings.TrimSpace(h.Get(name)); v != "" {
			if err := parse(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	for _, list := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(list, ",") {
			if err := c.directive(strings.TrimSpace(directive)); err != nil {
				errs = append(errs, fmt.Errorf("Cache-Control: %w", err))
			}
		}
	}
	if len(h["Cache-Control"]) == 0 && strings.EqualFold(h.Get("Pragma"), "no-cache") {
		c.NoCache = true
	}
	check("X-Semcached-Mode", func(v string) error {
		switch strings.ToLower(v) {
		case "exact":
			c.Mode = cache.ModeExact
		case "semantic":
		case "off":
			c.Off = true
		default:
			return fmt.Errorf("%.40q is not exact, semantic or off", v)
		}
		return nil
	})
	check("X-Semcached-Ttl", func(v string) (err error) {
		c.TTL, err = ParseTTL(v)
		return err
	})
	check("X-Semcached-Threshold", func(v string) (err error) {
		c.Threshold, err = parseThreshold(v)
		return err
	})
	check("X-Semcached-Namespace", func(v string) error {
		c.Namespace = v
		return CheckNamespace(v)
	})
	check("X-Semcached-Tags", func(v string) error {
		for tag := range strings.SplitSeq(v, ",") {
			c.Tags = append(c.Tags, strings.TrimSpace(tag))
		}
		return CheckTags(c.Tags)
	})
	check("X-Semcached-Fallback", func(v string) error {
		if !strings.EqualFold(v, "off") && !strings.EqualFold(v, "on") {
			return fmt.Errorf("%.20q is not on or off", v)
		}
		c.NoFallback = strings.EqualFold(v, "off")
		return nil
	})
	check("X-Semcached-Durability", func(v string) (err error) {
		c.Sync, err = ParseDurability(v)
		return err
	})
	return c, errors.Join(errs...)
}

// directive reads one part of Cache-Control. Unknown ones are ignored, as the RFC
// asks.
func (c *Controls) directive(d string) error {
	name, value, _ := strings.Cut(d, "=")
	switch strings.ToLower(name) {
	case "no-cache":
		c.NoCache = true
	case "no-store":
		c.NoStore = true
	case "only-if-cached":
		c.OnlyIfCached = true
	case "max-age":
		n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
		if err != nil {
			return fmt.Errorf("max-age %.20q is not a number of seconds", value)
		}
		c.MaxAge = time.Duration(n) * time.Second
	}
	return nil
}

// ParseTTL reads a life in seconds, 1 to a year.
func ParseTTL(v string) (time.Duration, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > int64(MaxTTL/time.Second) {
		return 0, fmt.Errorf("%.20q is not a number of seconds from 1 to %d", v, MaxTTL/time.Second)
	}
	return time.Duration(n) * time.Second, nil
}

func parseThreshold(v string) (float32, error) {
	f, err := strconv.ParseFloat(v, 32)
	if err != nil {
		return 0, fmt.Errorf("%.20q is not a number", v)
	}
	return CheckThreshold(f)
}

// CheckThreshold returns f as a threshold, which lies above 0 and at most at 1.
func CheckThreshold(f float64) (float32, error) {
	if !(f > 0 && f <= 1) {
		return 0, fmt.Errorf("%v does not lie between 0 and 1", f)
	}
	return float32(f), nil
}

// CheckNamespace returns an error unless v is made of letters, digits and ._:/-
func CheckNamespace(v string) error {
	if len(v) > MaxNamespace {
		return fmt.Errorf("longer than %d characters", MaxNamespace)
	}
	return plainText(v)
}

// CheckTags returns an error unless there are few tags, each of them short, not
// empty, and made of letters, digits and ._:/-
func CheckTags(tags []string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("more than %d tags", MaxTags)
	}
	for _, t := range tags {
		if t == "" || len(t) > MaxTag {
			return fmt.Errorf("a tag has 1 to %d characters", MaxTag)
		}
		if err := plainText(t); err != nil {
			return err
		}
	}
	return nil
}

func plainText(v string) error {
	for _, c := range v {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._:/-", c)) {
			return fmt.Errorf("%.40q has a character other than letters, digits and ._:/-", v)
		}
	}
	return nil
}

// ParseDurability reads async or sync.
func ParseDurability(v string) (sync bool, err error) {
	switch strings.ToLower(v) {
	case "sync":
		return true, nil
	case "async":
		return false, nil
	}
	return false, fmt.Errorf("%.20q is not async or sync", v)
}
