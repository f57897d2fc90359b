package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/instance"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
)

// EmitterOptions are what an emitter is started with. Config is required.
type EmitterOptions struct {
	Config  *config.Config
	Logger  *slog.Logger
	Metrics *emitter.Metrics
	// Beside is the instance in the same process, if any: its events don't go over NATS.
	Beside *Service
	// StartTimeout bounds how long to wait for NATS and JetStream at the start; default nats.connect_timeout.
	StartTimeout time.Duration
}

// Emitter is a running emitter: a candidate for every store of the configuration, on a connection of its
// own.
type Emitter struct {
	*emitter.Emitter
	nc     *nats.Conn
	owner  registration.Owner
	cancel context.CancelFunc
	ended  chan error // holds one
	work   sync.WaitGroup
}

// StartEmitter connects, opens what the emitter needs, and begins to contend. It returns when it contends.
func StartEmitter(ctx context.Context, o EmitterOptions) (_ *Emitter, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.StartTimeout = startTimeout(o.StartTimeout, o.Config)
	host, _ := os.Hostname()
	c := o.Config
	e := &Emitter{owner: registration.Owner{Name: c.Instance.Name, ID: nuid.Next(), Host: host, PID: os.Getpid()}, ended: make(chan error, 1)}
	starting, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	log := o.Logger.With("part", "emitter")
	refused := newViolations(log)
	hears := newHearing(func() *config.Config { return c }, "subproxy emitter "+e.owner.Name+" permissions", refused, log)
	nc, js, err := dial(starting, c, connect.Options{
		Name: "subproxy emitter " + e.owner.Name, Logger: log,
		OnReconnect:  func() { log.Info("reconnected to NATS") },
		OnDisconnect: func() { log.Warn("disconnected from NATS; reconnecting") },
		OnError: func(nc *nats.Conn, _ *nats.Subscription, err error) {
			hears.report(nc, err)
			refused.report("", err, time.Now())
		},
	})
	if err != nil {
		return nil, err
	}
	e.nc = nc
	parked := instance.NewDeadLetters(js, parkedConfig(c))
	cfg := emitter.Config{
		Candidate: e.owner, LeaseTTL: c.Emitter.LeaseTTL, CheckpointInterval: c.Emitter.CheckpointInterval, Registry: bucketConfig(c), Checkpoints: checkpointConfig(c),
		LeaderChangedSubject: c.SubscriptionProxy.LeaderChangedSubject, EmitterRestartedSubject: c.SubscriptionProxy.EmitterRestartedSubject,
		Logger: log, Metrics: o.Metrics, Hindered: func() string { return joinReasons(refused.hindering(time.Now()), hears.hindering()) },
		Park: func(ctx context.Context, r *registration.Registration, ev *event.Event, epoch, reason string) error {
			return parked.Park(ctx, &sink.Event{
				Store: r.Store, Subscription: r.Name, Key: r.Key(), Sequence: ev.Sequence, Incarnation: r.Incarnation, Epoch: epoch, Message: ev.Message(""),
			}, sink.Config{Kind: sink.Publish, Subject: r.DeliverSubject}, reason, 1)
		},
	}
	if o.Beside != nil {
		cfg.Local = o.Beside.instance.Delivery()
	}
	for _, s := range c.Stores {
		cfg.Stores = append(cfg.Stores, emitter.Store{
			Stream: streamConfig(&s),
			Layout: emitter.Layout{
				StreamToken: s.Stream.StreamToken, TypeToken: s.Stream.EventTypeToken,
				StreamHeader: s.Stream.StreamHeader, TypeHeader: s.Stream.EventTypeHeader,
			},
		})
	}
	e.Emitter, err = openEmitter(starting, js, cfg, log)
	if err = elsewhere(js, err); err == nil {
		err = reach(starting, js, c)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	e.cancel = stop
	e.work.Go(func() { hears.run(running, nc) })
	go func() {
		defer close(e.ended)
		e.ended <- e.Run(running)
	}()
	return e, nil
}

// openEmitter waits for a JetStream that is only starting.
func openEmitter(ctx context.Context, js jetstream.JetStream, cfg emitter.Config, log *slog.Logger) (*emitter.Emitter, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		e, err := emitter.Open(attempt, js, cfg)
		cancel()
		var missing *kv.MissingSettingError
		var unfit *emitter.UnfitStreamError
		if err == nil || errors.As(err, &missing) || errors.As(err, &unfit) || errors.Is(err, emitter.ErrNoStream) {
			return e, err
		}
		if denied := connect.Explain(js.Conn().LastError()); errors.Is(denied, connect.ErrPermission) {
			return nil, denied
		}
		log.Warn("JetStream is not ready yet", "error", connect.Explain(err))
		if backoff.Sleep(ctx, time.Second) != nil {
			return nil, connect.Explain(err)
		}
	}
}

// Owner is this emitter, as it stands in its leases.
func (e *Emitter) Owner() registration.Owner { return e.owner }

// Connected reports whether there is a NATS connection.
func (e *Emitter) Connected() bool { return e.nc.IsConnected() }

// Stop writes the checkpoints, gives the leases back and disconnects. When ctx ends first it says so, and
// goes on to the end. Again is fine.
func (e *Emitter) Stop(ctx context.Context) error {
	e.cancel()
	var err error
	select {
	case err = <-e.ended:
	case <-ctx.Done():
		err = fmt.Errorf("stop the emitter: %w", ctx.Err())
		e.nc.Close() // what it waits for fails at once
		<-e.ended
	}
	e.work.Wait()
	e.nc.Close()
	return err
}
