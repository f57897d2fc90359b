package emitter

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Names of a store's stream. The store follows as one token.
const (
	StreamPrefix  = "EXESDB_"
	StoredSubject = "exesdb.stored." // where the stream republishes each event once it is committed
)

// ErrNoStream is returned for a store's stream that the user named and that is not there.
var ErrNoStream = errors.New("there is no such stream")

// StreamName is the name of the JetStream stream that holds a store's events.
func StreamName(store string) string { return StreamPrefix + subscription.EncodeToken(store) }

// StreamConfig is how OpenStream creates a store's stream.
type StreamConfig struct {
	Store    string
	Name     string // of a stream of the user's own, which must be there; default StreamName(Store), created where it is absent
	Replicas int    // 1, 3 or 5; default 1
	Memory   bool
	Storage  feed.Storage // one with a limit refuses events that are beyond it
}

func (c *StreamConfig) name() string {
	if c.Name != "" {
		return c.Name
	}
	return StreamName(c.Store)
}

// OpenStream opens the store's stream, creating it where it is absent. An existing one is the user's and
// stays as it is; whether it republishes and allows direct get is for whoever follows it to look at.
func OpenStream(ctx context.Context, js jetstream.JetStream, cfg StreamConfig) (jetstream.Stream, error) {
	if cfg.Store == "" {
		return nil, fmt.Errorf("open a store's stream: %w", subscription.ErrEmptyName)
	}
	name, token := cfg.name(), subscription.EncodeToken(cfg.Store)
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && name == StreamName(cfg.Store) {
		sc := jetstream.StreamConfig{
			Name: name, Description: "Events of store " + cfg.Store, Subjects: []string{event.SubjectPrefix + token + ".>"},
			Replicas: max(cfg.Replicas, 1), AllowDirect: true,
			RePublish: &jetstream.RePublish{Source: event.SubjectPrefix + token + ".>", Destination: StoredSubject + token + ".>"},
		}
		cfg.Storage.Set(&sc)
		if cfg.Storage.MaxBytes > 0 {
			sc.Discard = jetstream.DiscardNew
		}
		if cfg.Memory {
			sc.Storage = jetstream.MemoryStorage
		}
		stream, err = js.CreateStream(ctx, sc)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = feed.AwaitStream(ctx, js, name) // somebody else was faster
		}
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) && cfg.Name != "" {
		return nil, missing(&cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s of store %s: %w", name, cfg.Store, err)
	}
	return stream, nil
}

// UnfitStreamError is returned by Open for a store's stream that can't be followed as it is configured. An
// existing stream is the user's, and is never changed here.
type UnfitStreamError struct {
	Store   string
	Stream  string
	Setting string // what is wrong with it
	Mend    string // the nats command that mends it
}

func (e *UnfitStreamError) Error() string {
	return fmt.Sprintf("stream %s (stores[].stream.name of store %s) %s; mend it with: %s", e.Stream, e.Store, e.Setting, e.Mend)
}

// CheckStream returns an *UnfitStreamError where a store's stream of that configuration can't be followed
// without events being lost, else nil.
func CheckStream(store string, cfg jetstream.StreamConfig) error {
	var retention *feed.RetentionError
	if errors.As(feed.Check(cfg), &retention) {
		return unfit(store, retention)
	}
	return nil
}

func unfit(store string, r *feed.RetentionError) *UnfitStreamError {
	e := &UnfitStreamError{Store: store, Stream: r.Stream}
	if r.Retention == jetstream.WorkQueuePolicy {
		e.Setting = "has work-queue retention and does not republish all that it stores, or allows no direct get: " +
			"to follow it would take a consumer, and that would take the events away"
		e.Mend = "nats stream edit " + r.Stream + " --allow-direct " + republishFlags(store)
		return e
	}
	e.Setting = "has interest retention: an event that no consumer waits for is not stored, and one that all consumers had is deleted"
	e.Mend = "nats stream edit " + r.Stream + " --retention=limits"
	return e
}

// republishFlags make a stream republish as ours do.
func republishFlags(store string) string {
	return "--republish-source='>' --republish-destination='" + StoredSubject + subscription.EncodeToken(store) + ".>'"
}

// InspectStream looks whether the store's stream is there and can be followed, and changes nothing.
func InspectStream(ctx context.Context, js jetstream.JetStream, cfg StreamConfig) (there bool, err error) {
	stream, err := js.Stream(ctx, cfg.name())
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && cfg.name() != StreamName(cfg.Store):
		return false, missing(&cfg)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at stream %s of store %s: %w", cfg.name(), cfg.Store, err)
	}
	return true, CheckStream(cfg.Store, stream.CachedInfo().Config)
}

func missing(cfg *StreamConfig) error {
	return fmt.Errorf("%w: %s, which stores[].stream.name says holds the events of store %s; create it, or leave the name out", ErrNoStream, cfg.name(), cfg.Store)
}
