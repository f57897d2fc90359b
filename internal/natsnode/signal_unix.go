//go:build unix

package natsnode

import "syscall"

func pause(c *child) error { return send(c, syscall.SIGSTOP) }

func resume(c *child) error { return send(c, syscall.SIGCONT) }

func send(c *child, s syscall.Signal) error {
	if !c.running() {
		return ErrNotRunning
	}
	return c.cmd.Process.Signal(s)
}
