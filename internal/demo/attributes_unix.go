//go:build unix && !linux

package demo

import "syscall"

// attributes put the child in a process group of its own, so that Ctrl-C in the terminal reaches only the parent, which ends
// its children in its own order. One whose parent was killed lives on here, without servers to connect to.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
