//go:build unix

package integration

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What users do to the stream of a store, as faults of a schedule.

// mark stores what the server leaves where a limit removed the last event of a subject. It is no event.
func (c *chaos) mark() bool {
	return c.try(func(ctx context.Context) error {
		_, err := c.JS.PublishMsg(ctx, &nats.Msg{
			Subject: "exesdb.events." + deliveryStore + ".plant-1.grown=3Av1", Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}},
		})
		return err
	})
}

// shorten removes old events from the store while nobody appends. Subscriptions that were behind lose
// these, and no others.
func (c *chaos) shorten(remove func(context.Context, jetstream.Stream) error) bool {
	c.appending.Lock()
	defer c.appending.Unlock()
	answers := func(ctx context.Context) error {
		_, err := c.JS.Stream(ctx, storeStream)
		return err
	}
	if !c.try(answers) {
		return false
	}
	before := c.stored()
	done := c.try(func(ctx context.Context) error {
		stream, err := c.JS.Stream(ctx, storeStream)
		if err != nil {
			return err
		}
		return remove(ctx, stream)
	})
	there := map[uint64]bool{}
	for _, e := range c.stored() { // also where it failed: it may have been done
		there[e.Seq] = true
	}
	for _, e := range before {
		if !there[e.Seq] {
			c.gone = append(c.gone, e)
		}
	}
	return done
}

// purge removes all but the last few.
func (c *chaos) purge(ctx context.Context, stream jetstream.Stream) error {
	return stream.Purge(ctx, jetstream.WithPurgeKeep(5))
}

// limit has retention remove them.
func (c *chaos) limit(ctx context.Context, stream jetstream.Stream) error {
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs = 20
	if _, err := c.JS.UpdateStream(ctx, cfg); err != nil {
		return err
	}
	cfg.MaxMsgs = -1
	_, err := c.JS.UpdateStream(ctx, cfg)
	return err
}

// restoreStore replaces the store's stream by a backup of it, while no emitter runs: one that does makes a
// stream that is gone anew. One that is stopped (SIGSTOP) finds the restored stream when it goes on.
func (c *chaos) restoreStore() {
	c.Helper()
	var running []string
	for name, run := range c.emitters {
		if !run.HasEnded() && !c.paused[name] {
			run.MustSignal(syscall.SIGTERM)
			c.stopping, running = append(c.stopping, run), append(running, name)
		}
	}
	for _, name := range running {
		c.emitters[name].Exit()
	}
	c.appending.Lock()
	c.hand(c.restored)
	c.appending.Unlock()
	for _, name := range running {
		c.start(name)
	}
}

func (c *chaos) restored() bool {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	attempt, done := context.WithTimeout(ctx, 3*time.Second)
	defer done()
	backup, err := testbed.BackUp(attempt, c.NC, storeStream)
	if err != nil {
		return false
	}
	for {
		err = c.JS.DeleteStream(ctx, storeStream)
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			err = backup.Restore(ctx, c.NC)
		}
		if err == nil {
			return true
		}
		c.Logf("the store is not restored yet: %v", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			c.Fatalf("the store is not restored: %v", err)
		}
	}
}
