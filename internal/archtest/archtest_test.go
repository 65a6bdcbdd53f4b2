// Package archtest keeps the rules of the house: who imports whom, who owns
// which framework, and that every package says what it is for.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/semcached/semcached"

// allowed is the import table: what each package may import of this module. A
// name that ends in "/*" stands for everything below it, "*" for everything.
// Test files are free, for they stand outside.
var allowed = map[string][]string{
	"cmd/semcached":      {"*"},
	"api":                {"api/admin", "cache", "internal/proxy", "internal/telemetry", "internal/tenant", "internal/wire"},
	"api/admin":          {},
	"cache":              {"cache/admission", "cache/guard", "index", "store"},
	"cache/admission":    {},
	"cache/guard":        {},
	"index":              {"index/vec"},
	"index/*":            {"index", "index/slab", "index/vec"},
	"index/slab":         {},
	"index/vec":          {},
	"store":              {},
	"store/*":            {"store"},
	"bench":              {"cache", "index", "index/*", "store", "store/*"},
	"bench/eviction":     {"cache/admission"},
	"bench/start":        {"cache", "index", "index/sketch", "store/bolt"},
	"bench/index":        {"bench/index/vectors", "index", "index/*"},
	"bench/index/*":      {"index/vec"},
	"internal/alert":     {},
	"internal/archtest":  {},
	"internal/calllog":   {},
	"internal/config":    {"internal/filter", "internal/tenant"},
	"internal/e2e":       {"internal/standin"},
	"internal/embedder":  {},
	"internal/flight":    {},
	"internal/filter":    {},
	"internal/proxy":     {"cache", "internal/filter", "internal/flight", "internal/span", "internal/tenant", "internal/upstream", "internal/wire"},
	"internal/span":      {},
	"internal/tenant":    {},
	"internal/standin":   {},
	"internal/telemetry": {"cache", "internal/span", "internal/upstream"},
	"internal/upstream":  {"internal/wire"},
	"internal/wire":      {},
}

// owners says which package alone may import a framework.
var owners = map[string]string{
	"github.com/gin-gonic/gin":            "api",
	"go.etcd.io/bbolt":                    "store/bolt",
	"github.com/coder/hnsw":               "index/coder",
	"github.com/prometheus/client_golang": "internal/telemetry",
	"go.opentelemetry.io/otel":            "internal/telemetry",
	"github.com/goccy/go-yaml":            "internal/config",
}

// pkg is one package of the module, test files left out.
type pkg struct {
	name    string // path below the module
	doc     bool
	imports map[string]string // import path -> file
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		may, ok := rule(p.name)
		if !ok {
			t.Errorf("%s is not in the import table: say what it may import", p.name)
			continue
		}
		for path, file := range p.imports {
			own, ok := strings.CutPrefix(path, module+"/")
			if ok && !matchesAny(own, may) {
				t.Errorf("%s: %s must not import %s", file, p.name, own)
			}
		}
	}
}

func TestFrameworksHaveOneOwner(t *testing.T) {
	for _, p := range packages(t) {
		for path, file := range p.imports {
			for framework, owner := range owners {
				if (path == framework || strings.HasPrefix(path, framework+"/")) && p.name != owner {
					t.Errorf("%s: only %s may import %s", file, owner, framework)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range packages(t) {
		if !p.doc {
			t.Errorf("%s has no package comment", p.name)
		}
		switch last := p.name[strings.LastIndex(p.name, "/")+1:]; last {
		case "util", "utils", "common", "helper", "helpers", "base", "core", "manager", "types", "models", "embed":
			t.Errorf("%s: a package is named after what it gives, not %q", p.name, last)
		}
	}
}

func TestNoLeftOverMarks(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "X" + "XX:"}
	walkGo(t, func(path string, src []byte) {
		for _, m := range marks {
			if strings.Contains(string(src), m) {
				t.Errorf("%s contains %s", path, m)
			}
		}
	})
}

func rule(name string) ([]string, bool) {
	if may, ok := allowed[name]; ok {
		return may, true
	}
	may, ok := allowed[name[:strings.LastIndex(name, "/")+1]+"*"]
	return may, ok
}

func matchesAny(name string, patterns []string) bool {
	for _, p := range patterns {
		prefix, wild := strings.CutSuffix(p, "*")
		if p == name || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func packages(t *testing.T) []*pkg {
	t.Helper()
	byName := make(map[string]*pkg)
	fset := token.NewFileSet()
	walkGo(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			if !strings.HasPrefix(path, "internal/archtest/") {
				return
			}
		}
		f, err := parser.ParseFile(fset, path, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.ToSlash(filepath.Dir(path))
		p := byName[name]
		if p == nil {
			p = &pkg{name: name, imports: make(map[string]string)}
			byName[name] = p
		}
		p.add(path, f)
	})
	var all []*pkg
	for _, p := range byName {
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("found only %d packages: is the test run from its own folder?", len(all))
	}
	return all
}

func (p *pkg) add(path string, f *ast.File) {
	p.doc = p.doc || f.Doc != nil
	for _, im := range f.Imports {
		p.imports[strings.Trim(im.Path.Value, `"`)] = path
	}
}

// walkGo calls fn for every Go file of the module, with its path below the root.
// Folders with a go.mod of their own are other modules.
func walkGo(t *testing.T, fn func(path string, src []byte)) {
	t.Helper()
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := fs.Stat(root, path+"/go.mod"); err == nil && path != "." {
				return fs.SkipDir
			}
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := fs.ReadFile(root, path)
		if err == nil {
			fn(path, src)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
