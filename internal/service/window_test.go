package service

import (
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/sink"
)

func TestWindowHasToOutlastAnAttemptAWaitAndASession(t *testing.T) {
	for _, c := range []struct{ timeout, ttl, least time.Duration }{
		{0, 3 * time.Second, sink.DefaultTimeout + 2500*time.Millisecond + 4*time.Second},
		{time.Second, 500 * time.Millisecond, 5 * time.Second},
	} {
		if got := leastWindow(c.timeout, c.ttl); got != c.least {
			t.Errorf("%v, %v: %v", c.timeout, c.ttl, got)
		}
	}
}
