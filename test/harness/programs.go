//go:build unix

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Program is a program of this module, by its name below cmd, or that of another package, by its path,
// built with these flags. It is built into bin/test of the module and stays there: all packages of one go
// test, and the next one, find it there and link it again only where its source is another.
func Program(t testing.TB, pkg string, flags ...string) string {
	t.Helper()
	if !strings.Contains(pkg, "/") {
		pkg = "github.com/exesdb/subproxy/cmd/" + pkg
	}
	built, _ := programs.LoadOrStore(strings.Join(append(flags, pkg), " "), sync.OnceValues(func() (string, error) { return build(pkg, flags) }))
	file, err := built.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var programs sync.Map // of functions that build one once, by package and flags

func build(pkg string, flags []string) (file string, err error) {
	mod, err := goTool("env", "GOMOD")
	if err != nil {
		return "", err
	}
	name := path.Base(strings.TrimSuffix(pkg, "/v2")) + strings.Join(flags, "")
	file = filepath.Join(filepath.Dir(strings.TrimSpace(mod)), "bin", "test", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // gives it back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	_, err = goTool(append(append([]string{"build", "-o", file}, flags...), pkg)...)
	return file, err
}

// goTool runs the go that runs the test: go test puts its own first in PATH.
func goTool(args ...string) (string, error) {
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", err
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
