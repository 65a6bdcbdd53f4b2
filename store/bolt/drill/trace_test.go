package drill

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// syscalls is what strace has recorded of a process, in the order in which the calls began and ended.
type moment struct {
	*call
	ends bool // the call returns, else it begins
}

type call struct {
	name    string
	fd      string   // path of the first argument, if that is a descriptor
	texts   []string // arguments in quotes
	numbers []int64  // the arguments behind the last text, or behind the descriptor
	flags   string   // the rest of the arguments, undecoded
	result  int64
	began   int // its number among the moments
}

// recorded are the calls that change a disk, those that say what was acknowledged, and those that would change
// a disk in ways that disk does not know, so that nobody overlooks them.
const recorded = "openat,pwrite64,write,lseek,fdatasync,fsync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,link,linkat,sendto," +
	"fallocate,truncate,pwritev,pwritev2,writev,copy_file_range,sendfile,splice"

// recordTo are the arguments of strace that record all of that, every byte.
func recordTo(path string) []string {
	return []string{"-o", path, "-y", "-xx", "-s", strconv.Itoa(32 << 20), "-e", "trace=" + recorded, "-e", "signal=none"}
}

var (
	begins  = regexp.MustCompile(`^(\d+) +(\w+)\((.*)$`)
	resumes = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>`)
	result  = regexp.MustCompile(`\) += (-?\d+)[^)"]*$`)
	fdPath  = regexp.MustCompile(`^[A-Z_\d]+<((?:\\x[0-9a-f]{2})*)>`)
)

// readTrace parses a record.
func readTrace(path string) ([]moment, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []moment
	open := make(map[string]*call) // by process
	in := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return all, nil
		}
		line = strings.TrimSuffix(line, "\n")
		if m := resumes.FindStringSubmatch(line); m != nil {
			c := open[m[1]]
			if c == nil || c.name != m[2] {
				return nil, fmt.Errorf("%s resumes what had not begun", line)
			}
			all = append(all, c.end(line))
			continue
		}
		m := begins.FindStringSubmatch(line)
		if m == nil {
			continue // a signal, the end of a thread
		}
		c, err := parseCall(m[2], m[3])
		if err != nil {
			return nil, err
		}
		c.began = len(all)
		all = append(all, moment{call: c})
		if strings.HasSuffix(line, "<unfinished ...>") {
			open[m[1]] = c
		} else {
			all = append(all, c.end(line))
		}
	}
}

func (c *call) end(line string) moment {
	c.result = -1
	if m := result.FindStringSubmatch(line); m != nil {
		c.result, _ = strconv.ParseInt(m[1], 10, 64)
	}
	return moment{call: c, ends: true}
}

func parseCall(name, args string) (*call, error) {
	c := &call{name: name}
	if m := fdPath.FindStringSubmatch(args); m != nil {
		c.fd = unhex(m[1])
		args = args[len(m[0]):]
	}
	for {
		before, rest, ok := strings.Cut(args, `"`)
		c.flags += before
		if !ok {
			break
		}
		text, after, ok := strings.Cut(rest, `"`)
		if !ok || strings.HasPrefix(after, "...") {
			return nil, fmt.Errorf("%s: a text that was cut off", name)
		}
		c.texts = append(c.texts, unhex(text))
		args, c.flags = after, ""
	}
	for _, n := range strings.FieldsFunc(c.flags, func(r rune) bool { return r == ',' || r == ' ' || r == ')' }) {
		v, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			break
		}
		c.numbers = append(c.numbers, v)
	}
	return c, nil
}

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	if err != nil {
		return s
	}
	return string(b)
}
