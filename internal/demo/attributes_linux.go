package demo

import "syscall"

// attributes are those of natsnode's children: a process group of its own, so that Ctrl-C in the terminal reaches only the
// parent, which ends its children in its own order; and the kernel kills it when its parent dies.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
