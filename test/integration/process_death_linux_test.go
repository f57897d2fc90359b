package integration

import (
	"os/exec"
	"syscall"
)

// processDiesWithParent has the kernel kill the process where the test's own is killed and cannot clean up.
func processDiesWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
