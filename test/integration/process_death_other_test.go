//go:build unix && !linux

package integration

import "os/exec"

// processDiesWithParent is Linux's.
func processDiesWithParent(*exec.Cmd) {}
