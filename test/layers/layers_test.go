// Package layers holds the imports among the packages of pkg/ to one direction.
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/exesdb/subproxy/"
	pkg    = module + "pkg/"
)

// layers are the packages of pkg/: each imports only those of its own line and of the lines above.
var layers = [][]string{
	{"payload", "digest", "backoff", "link"},     // room in a message; a log that counts; waits between tries; the way to a server: they know nobody
	{"subscription", "event"},                    // what is subscribed to; what an event is
	{"kv", "registration", "feed", "deadletter"}, // what is stored
	{"cluster"},                         // cluster events
	{"lease", "election", "membership"}, // one key that a run keeps; who leads; who lives
	{"breaker"},                         // when an attempt may be made, and what failures mean
	{"status", "control"},               // what is told; what is asked: the loops build and answer it, so it stands above them
	{"proxy", "placement", "rebalance"}, // rules: one registration; who should hold what; transfers
	{"verify", "registrar"},             // attempts in batches: write, read back, judge
	{"delivery", "sink"},                // receive in order, forward, acknowledge
	{"supervisor", "emitter"},           // the loops: of a store's proxies; of a store's events
}

// strangers are packages that may not know each other though their lines would let them.
var strangers = map[string][]string{
	"delivery": {"proxy", "registrar", "supervisor"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) (packages []listed) {
	t.Helper()
	// What a test reads itself is what its cached result depends on; go list reads as another process.
	for _, dir := range []string{"cmd", "examples", "internal", "pkg"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".go" {
				_, err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...")
	command.Stderr = t.Output()
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func layerOf(name string) int {
	return slices.IndexFunc(layers, func(line []string) bool { return slices.Contains(line, name) })
}

func TestEveryPackageStandsOnOneLine(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range slices.Concat(layers...) {
		if seen[name] {
			t.Errorf("%s stands on two lines", name)
		}
		seen[name] = true
	}
	for _, p := range list(t) {
		if name, ok := strings.CutPrefix(p.ImportPath, pkg); ok && !seen[name] {
			t.Errorf("%s stands on no line; say in layers what it may import", p.ImportPath)
		}
	}
}

func TestImportsPointToTheLinesAbove(t *testing.T) {
	for _, p := range list(t) {
		name, public := strings.CutPrefix(p.ImportPath, pkg)
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			of, isPkg := strings.CutPrefix(imported, pkg)
			switch {
			case !ours:
			case strings.HasPrefix(other, "cmd/"):
				if !strings.HasPrefix(p.ImportPath, module+"cmd/") {
					t.Errorf("%s imports the command %s", p.ImportPath, other)
				}
			case !public:
			case !isPkg:
				t.Errorf("%s imports %s, which those who embed it can't", p.ImportPath, other)
			case layerOf(of) > layerOf(name):
				t.Errorf("%s imports %s, which stands below it", name, of)
			case slices.Contains(strangers[name], of):
				t.Errorf("%s imports %s, which it is not to know", name, of)
			}
		}
	}
}
