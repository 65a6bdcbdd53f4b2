package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// revision returns the commit that the binary was built from, "" if unknown.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

func showVersion(env environment) int {
	fmt.Fprintf(env.stdout, "semcached %s %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if r := revision(); r != "" {
		fmt.Fprintf(env.stdout, " %.12s", r)
	}
	fmt.Fprintln(env.stdout)
	return exitOK
}
