package proxy

import (
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
)

// DefaultSettings are those of a configuration that says nothing.
func DefaultSettings() Settings {
	return Settings{
		Breaker: breaker.Settings{
			MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute,
		},
		InitialInterval: time.Second, NormalInterval: 15 * time.Second,
		Verify: true, VerificationTimeout: 2 * time.Second, EventDriven: true,
		HeartbeatInterval: 30 * time.Second, SummaryInterval: 5 * time.Second,
		StalledAfter: time.Minute, EmitterSilentAfter: 25 * time.Second,
	}
}
