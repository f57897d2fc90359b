package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// ErrOutOfReach is returned by Reach.
var ErrOutOfReach = errors.New("not all of JetStream can be reached here")

// reachTimeout is how long what was written may take to be heard, and an answer to come.
const (
	reachTimeout = 5 * time.Second
	reachTries   = 3 // of a write: a bucket's leader may just have been elected
)

// Reach writes a record that nobody reads into a bucket of another domain or account, hears it republished,
// and reads it as many records at once are read. That the bucket could be opened shows none of that: an
// account can import a part of what is needed. The error says which part is missing.
func (b *Bucket) Reach(ctx context.Context) error {
	prefix := feed.Prefix(b.js)
	if prefix == jetstream.DefaultAPIPrefix {
		return nil
	}
	heard := make(chan *nats.Msg, 16)
	if to := b.kind.republishTo; to != "" {
		sub, err := b.js.Conn().ChanSubscribe(to+proofKey, heard)
		if err != nil {
			return fmt.Errorf("subscribe to %s%s: %w", to, proofKey, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	}
	err := b.prove(ctx)
	for tries := 1; err != nil && tries < reachTries && ctx.Err() == nil; tries++ {
		err = b.prove(ctx)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: nothing takes what is written to bucket %s, on %s>; an account that imports JetStream imports the service %s> too, as %s>",
			ErrOutOfReach, b.bucket, b.written, subjectPrefix, prefix+subjectPrefix), err)
	}
	limited, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if b.kind.republishTo != "" {
		select {
		case <-heard:
		case <-limited.Done():
			return fmt.Errorf("%w: what bucket %s republishes is not heard on %s>; import it as a stream, or let it pass the leaf node's link",
				ErrOutOfReach, b.bucket, b.kind.republishTo)
		}
	}
	short, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := b.direct.LastOf(short, []string{b.Subject(proofKey)}, func(feed.Message) {}); err != nil {
		return fmt.Errorf("%w: of the answers to one request for many records of bucket %s only the first comes; export $JS.API.> with response_type: stream: %w",
			ErrOutOfReach, b.bucket, err)
	}
	return nil
}
