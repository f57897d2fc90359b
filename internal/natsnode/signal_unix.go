//go:build unix

package natsnode

import "syscall"

// childAttributes put the child in a process group of its own. Ctrl-C in the terminal then reaches only the parent, which
// ends its children in its own order; and when the parent is killed while a child is paused, which can't see its
// standard input end, the kernel ends it: a process group that is orphaned while it is stopped gets SIGHUP and SIGCONT.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func pause(c *child) error { return send(c, syscall.SIGSTOP) }

func resume(c *child) error { return send(c, syscall.SIGCONT) }

func send(c *child, s syscall.Signal) error {
	if !c.running() {
		return ErrNotRunning
	}
	return c.cmd.Process.Signal(s)
}
