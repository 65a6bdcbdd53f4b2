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
		if r.bins[name], r.faults[name] = compile(dir); r.faults[name] != nil {
			progress("%s is not there: %v", name, r.faults[name])
		}
		r.order = append(r.order, name)
	}
	slices.Sort(r.order)
	return r
}

// start runs a driver; nil if it could not be compiled.
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
