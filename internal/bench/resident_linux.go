package bench

import (
	"fmt"
	"os"
)

// resident is the memory of a process, in bytes; 0: not known.
func resident(pid int) float64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, pages int
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		return 0
	}
	return float64(pages * os.Getpagesize())
}
