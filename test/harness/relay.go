//go:build unix

package harness

import (
	"testing"

	"github.com/exesdb/subproxy/internal/testbed"
)

// Relay is a way to a server that can be slow, and be cut.
type Relay = testbed.Relay

// NewRelay is a way to a server at url, until the test ends.
func NewRelay(t testing.TB, url string) *Relay {
	t.Helper()
	r, err := testbed.NewRelay(url, testbed.Link{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}
