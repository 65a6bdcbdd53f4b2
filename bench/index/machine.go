package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// preface is the head of the file: what was run where, and what the columns mean.
func preface() string {
	return fmt.Sprintf("# Indexes measured\n\n"+
		"`%s`\non %s, %d processors, %s; %s %s/%s; %s. Load average at the start: %s.\n\n"+
		"One thread, times around each question, in microseconds. Recall is the share of the true nearest that were found\n"+
		"(brute force); a hit has a vector at a cosine of 0.93 to 0.99, a miss none at 0.92. inserts/s is of one thread, for the last\n"+
		"tenth of the vectors. bytes is memory per vector with everything, hot bytes without the exact vectors, allocations per question.\n\n",
		command(), processor(), runtime.NumCPU(), memory(),
		runtime.Version(), runtime.GOOS, runtime.GOARCH, compiler(), load())
}

// command is the one that measures the same again.
func command() string {
	all := []string{"go run ./bench/index"}
	flag.Visit(func(f *flag.Flag) {
		if f.Name != "o" {
			all = append(all, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	return strings.Join(all, " ")
}

// processor, memory, load and compiler ask Linux; elsewhere they do not know.
func processor() string { return field("/proc/cpuinfo", "model name") }

func memory() string { return field("/proc/meminfo", "MemTotal") + " of memory" }

func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "an unknown amount"
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func compiler() string {
	out, err := exec.Command("g++", "-dumpfullversion").Output()
	if err != nil {
		return "no g++"
	}
	return "g++ " + strings.TrimSpace(string(out)) + " -O3 -march=native"
}
