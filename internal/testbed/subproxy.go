// Package testbed starts what the bench, the demo and the tests look at from outside.
package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Subproxy is the subproxy program to run: the file that is named or, for none, the one beside this program, or in PATH.
func Subproxy(file string) (string, error) {
	if file != "" {
		return file, nil
	}
	const name = "subproxy"
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if file, err = exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
		return file, nil
	}
	if file, err = exec.LookPath(name); errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("there is no %s program beside %s or in PATH: make build builds both; or name one with --subproxy FILE", name, self)
	}
	return file, err
}
