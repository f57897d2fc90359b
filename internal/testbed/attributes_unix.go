//go:build unix && !linux

package testbed

import "syscall"

// attributes put the child in a process group of its own. Ctrl-C in the terminal then reaches only the
// parent, which ends its children in its own order; and when the parent is killed while a child is paused,
// which can't see its standard input end, the kernel ends it: a process group that is orphaned while it is
// stopped gets SIGHUP and SIGCONT.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
