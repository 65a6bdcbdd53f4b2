// Command index measures the indexes beside their rivals and prints one table:
//
//	go run ./bench/index [-quick] [-only REGEXP] [-systems LIST] [-o FILE]
//
// A set of data is called SHAPE/n=N/dims=DIMS, as in clustered/n=100000/dims=384; -only
// picks some. Data and questions are those of package vectors, recall is against brute
// force. All systems are asked on one thread, a hundred questions of each in turn, so that
// noise hits all alike; graphs are searched with the smallest width (ef) at which they find
// 0.99 of what is to be found. hnswlib takes part if g++ and its header (Debian:
// libhnswlib-dev) are there, weaviate's graph if the modules of bench/rivals can be had.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/semcached/semcached/bench/index/vectors"
)

// everything is the systems in the order of the table.
var everything = []string{"sketch", "hnsw", "flat", "coder", "hnswlib", "weaviate"}

// part is one set of data and what is measured on it.
type part struct {
	shape   vectors.Shape
	n, dims int
	topk    bool     // ask for the ten nearest as well
	beyond  bool     // and measure more than lookups of ours
	systems []string // those that make sense here
	quick   bool     // belongs to the quick run
}

func (p part) name() string { return fmt.Sprintf("%s/n=%d/dims=%d", p.shape, p.n, p.dims) }

// plan is what a full run measures. Graphs take a minute or two to build from 100,000
// vectors on, so they take part where they are compared.
func plan() (all []part) {
	threshold := []string{"sketch", "flat", "hnswlib"}
	for _, shape := range []vectors.Shape{vectors.Clustered, vectors.MeanHeavy, vectors.None} {
		all = append(all, part{shape, 10_000, 384, true, shape == vectors.Clustered, everything, true})
	}
	return append(all,
		part{vectors.Clustered, 100_000, 384, true, true, everything, true},
		part{vectors.MeanHeavy, 100_000, 384, false, false, []string{"sketch", "flat"}, true},
		part{vectors.None, 100_000, 384, false, false, threshold, true},
		part{vectors.Clustered, 100_000, 768, true, false, []string{"sketch", "hnsw", "flat", "hnswlib"}, false},
		part{vectors.None, 100_000, 768, false, false, threshold, false},
		part{vectors.Clustered, 1_000_000, 384, false, true, []string{"sketch", "flat"}, false},
	)
}

func main() {
	quick := flag.Bool("quick", false, "10,000 vectors, and 100,000 of 384 dimensions: minutes")
	only := flag.String("only", "", "regular expression: sets of data to measure")
	systems := flag.String("systems", strings.Join(everything, ","), "what to measure")
	file := flag.String("o", "", "file to write the table to as well")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err == nil {
		err = run(*quick, match, strings.Split(*systems, ","), *file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "index:", err)
		os.Exit(1)
	}
}

func run(quick bool, only *regexp.Regexp, systems []string, file string) error {
	for _, name := range systems {
		if !slices.Contains(everything, name) {
			return fmt.Errorf("-systems: %q is not one of %s", name, strings.Join(everything, ", "))
		}
	}
	dir, err := os.MkdirTemp("", "semcached-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var text strings.Builder
	out := io.MultiWriter(os.Stdout, &text)
	r := runner{rivals: newRivals(dir, systems), systems: systems, pace: pace{time.Second, 4 * time.Second}, out: out}
	fmt.Fprint(out, preface(), head())
	for _, p := range plan() {
		if only.MatchString(p.name()) && (p.quick || !quick) {
			if err := r.part(p); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	fmt.Fprint(out, beyondHead())
	for _, b := range r.beyond {
		fmt.Fprint(out, b)
	}
	goals{r.rows, r.beyond, out}.write()
	r.rivals.missing(out)
	if file == "" {
		return nil
	}
	return os.WriteFile(file, []byte(text.String()), 0o644)
}

// runner collects what was measured.
type runner struct {
	rivals  *rivals
	systems []string
	pace    pace
	out     io.Writer
	rows    []row
	beyond  []beyond
}

// part measures all systems on one set of data.
func (r *runner) part(p part) error {
	progress("%s: making data and true answers", p.name())
	s := vectors.New(p.shape, p.n, p.dims, p.questions(), 1)
	var all []*job
	for _, name := range p.systems {
		sys, err := r.start(name)
		if err != nil {
			return err
		}
		if sys == nil {
			continue
		}
		defer sys.close()
		progress("%s: filling %s", p.name(), sys.name())
		f, err := sys.fill(s)
		if _, rival := sys.(*child); rival && err != nil {
			r.rivals.failed(name, fmt.Errorf("%s: %w", p.name(), err))
			continue
		}
		if err != nil {
			return err
		}
		more, err := jobs(s, sys, f, p.topk)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	progress("%s: asking", p.name())
	rows, err := measure(s, all)
	if err != nil {
		return err
	}
	for _, row := range rows {
		fmt.Fprint(r.out, row)
	}
	r.rows = append(r.rows, rows...)
	if p.beyond {
		return r.more(s, all)
	}
	return nil
}

// more measures what is beyond lookups of our indexes, each at the width it was asked with.
func (r *runner) more(s *vectors.Set, all []*job) error {
	for _, j := range all {
		l, own := j.system.(*local)
		if !own || l.load == nil || j.row.Question != "hit" {
			continue
		}
		progress("beyond lookups: %s", l.label)
		b, err := measureBeyond(l, s, j.query.width, r.pace)
		if err != nil {
			return err
		}
		r.beyond = append(r.beyond, b)
	}
	return nil
}

// questions is how many hits and misses are asked: fewer where the true answers take long.
func (p part) questions() int {
	if p.n > 100_000 {
		return 300
	}
	return 1000
}

// start returns a system, or nil if it is not wanted or not there.
func (r *runner) start(name string) (system, error) {
	if !slices.Contains(r.systems, name) {
		return nil, nil
	}
	if l := newLocal(name); l != nil {
		return l, nil
	}
	return r.rivals.start(name)
}
