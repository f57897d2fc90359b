package testbed

import "syscall"

// attributes put the child in a process group of its own, so that Ctrl-C in the terminal reaches only the
// parent, which ends its children in its own order. A child that is paused can't see its standard input
// end, so the kernel kills it when its parent dies; more exactly, when the thread dies that started it, and
// Go ends no thread that is not locked.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
