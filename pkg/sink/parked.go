package sink

import (
	"context"

	"github.com/exesdb/subproxy/pkg/deadletter"
)

// Park parks an event that the sink of a configuration refused so many times, for that reason.
func Park(ctx context.Context, store *deadletter.Store, e *Event, c Config, reason string, attempts int) error {
	return store.Park(ctx, &deadletter.Refused{
		ID: messageID(e), Store: e.Store, Subscription: e.Subscription, Key: e.Key, Sequence: e.Sequence, Incarnation: e.Incarnation, Message: e.Message,
		Sink: string(c.Kind), Subject: c.Subject, Reason: reason, Attempts: attempts,
	})
}

// ParkedConfig is the sink that a parked event was to go to. The timeout is the default one.
func ParkedConfig(p *deadletter.Parked) Config {
	return Config{Kind: Kind(p.Sink), Subject: p.Subject}
}

// Replay delivers a parked event to the sink, and drops it once the sink has accepted it. The error is
// Deliver's or Store.Replay's.
func Replay(ctx context.Context, store *deadletter.Store, p deadletter.Parked, s Sink) error {
	return store.Replay(ctx, p, func(ctx context.Context) error {
		return s.Deliver(ctx, &Event{Store: p.Store, Subscription: p.Subscription, Key: p.Key(), Sequence: p.StoreSequence, Message: p.Message()})
	})
}
