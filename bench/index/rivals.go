package main

import (
	"fmt"
	"io"
	"slices"
)

// rivals are the drivers of other systems, compiled once.
type rivals struct {
	bins   map[string]string
	faults map[string]error
	order  []string
}

// newRivals compiles those that are wanted into dir.
func newRivals(dir string, wanted []string) *rivals {
	r := &rivals{bins: make(map[string]string), faults: make(map[string]error)}
	for name, compile := range map[string]func(string) (string, error){"hnswlib": compileHNSWLib, "weaviate": compileWeaviate} {
		if !slices.Contains(wanted, name) {
			continue
		}
		progress("compiling the driver of %s", name)
		bin, err := compile(dir)
		if err != nil {
			r.failed(name, err)
		}
		r.bins[name] = bin
		r.order = append(r.order, name)
	}
	slices.Sort(r.order)
	return r
}

// failed leaves a rival out from now on.
func (r *rivals) failed(name string, err error) {
	progress("%s is left out: %v", name, err)
	r.faults[name] = err
}

// start runs a driver; nil if it has failed before.
func (r *rivals) start(name string) (system, error) {
	if r.faults[name] != nil {
		return nil, nil
	}
	c, err := startChild(name, r.bins[name])
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// missing says which rivals took no part.
func (r *rivals) missing(w io.Writer) {
	for _, name := range r.order {
		if err := r.faults[name]; err != nil {
			fmt.Fprintf(w, "\n%s: not there (%v)\n", name, err)
		}
	}
}
