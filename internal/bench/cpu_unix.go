//go:build unix

package bench

import (
	"syscall"
	"time"
)

// cpuTime is what the process has used, user and system. On a machine that is shared it says more than the
// clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
