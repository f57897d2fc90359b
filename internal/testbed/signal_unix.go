//go:build unix

package testbed

import "syscall"

func pause(p *Process) error { return p.Signal(syscall.SIGSTOP) }

func resume(p *Process) error { return p.Signal(syscall.SIGCONT) }
