package connect

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// CheckServer returns an error where the server is too old: buckets need per-message TTLs, which nats-server
// has since 2.11.
func CheckServer(nc *nats.Conn) error {
	if version := nc.ConnectedServerVersion(); !isRecent(version) {
		return fmt.Errorf("needs nats-server 2.11: %s is nats-server %s, which lacks per-message TTLs; upgrade it", nc.ConnectedUrlRedacted(), version)
	}
	return nil
}

// isRecent reports whether a server has per-message TTLs. A version that can't be read is taken to have.
func isRecent(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err1 != nil || err2 != nil || a > 2 || a == 2 && b >= 11
}
