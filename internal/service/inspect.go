package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Finding is what Inspect found out about one thing that a configuration needs of NATS.
type Finding struct {
	What    string // server, bucket, stream, forward, bridge
	Name    string
	State   string // what it is, in words
	Problem error  // nil: it is as it should be
	Warning bool   // the problem does not keep subproxy from starting
}

// inspectTimeout bounds each look.
const inspectTimeout = 3 * time.Second

// Inspect connects as the configuration says and looks at all that the configuration needs, and starts,
// creates and changes nothing. The error is that it could not connect.
func Inspect(ctx context.Context, c *config.Config) ([]Finding, error) {
	i := inspection{ctx: ctx, cfg: c}
	var err error
	i.nc, i.js, err = connect.Connect(ctx, dialOptions(c, connect.Options{Name: "subproxy check", Logger: slog.New(slog.DiscardHandler)}))
	if err != nil {
		return nil, err
	}
	defer i.nc.Close()
	if !i.server() {
		return i.findings, nil
	}
	i.buckets()
	i.stores()
	i.forwards()
	i.bridge()
	return i.findings, nil
}

type inspection struct {
	ctx      context.Context
	cfg      *config.Config
	nc       *nats.Conn
	js       jetstream.JetStream
	limits   jetstream.AccountLimits
	findings []Finding
}

// look does one thing within its time. An answer that does not come is explained by what the server refused
// meanwhile.
func (i *inspection) look(what, name string, do func(context.Context) (state string, err error)) {
	ctx, cancel := context.WithTimeout(i.ctx, inspectTimeout)
	defer cancel()
	state, err := do(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		state, err = "not known", fmt.Errorf("no answer within %s: %w", inspectTimeout, err)
		if denied := connect.Explain(i.nc.LastError()); errors.Is(denied, connect.ErrPermission) {
			err = denied
		}
	}
	i.findings = append(i.findings, Finding{What: what, Name: name, State: state, Problem: connect.Explain(err)})
}

func (i *inspection) warn(what, name, state string, problem error) {
	i.findings = append(i.findings, Finding{What: what, Name: name, State: state, Problem: problem, Warning: problem != nil})
}

// server reports whether there is a JetStream to look at further.
func (i *inspection) server() (ok bool) {
	version := i.nc.ConnectedServerVersion()
	state := fmt.Sprintf("nats-server %s, max_payload %d", version, i.nc.MaxPayload())
	i.look("server", i.nc.ConnectedUrlRedacted(), func(ctx context.Context) (string, error) {
		info, err := i.js.AccountInfo(ctx)
		ok = err == nil
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return state, fmt.Errorf("JetStream is not enabled for this account: set jetstream in the server's configuration, or choose another user: %w", err)
		case err != nil:
			return state, err
		}
		if err := connect.CheckServer(i.nc); err != nil {
			return state, err
		}
		i.limits = info.Limits
		return state, nil
	})
	return ok
}

func (i *inspection) buckets() {
	c := bucketConfig(i.cfg)
	sessions, points := c, checkpointConfig(i.cfg)
	sessions.Kind, sessions.Bucket, sessions.Records = kv.Cluster, kv.Cluster.DefaultBucket(), 0
	points.Bucket = kv.Checkpoints.DefaultBucket()
	all := []kv.Config{c, sessions}
	if i.cfg.Emitter.Enabled {
		all = append(all, points)
	}
	for _, b := range all {
		i.look("bucket", b.Bucket, func(ctx context.Context) (string, error) {
			there, err := kv.Inspect(ctx, i.js, b)
			flags := fmt.Sprintf("nats kv add %s --history=1 --replicas=%d %s--max-bucket-size=1GB", b.Bucket, max(b.Replicas, 1), b.Kind.Flags(b.Bucket))
			section := "registry"
			if b.Kind == kv.Checkpoints && i.cfg.Emitter.Replicas > 0 {
				section = "emitter"
			}
			return i.state(there, err, b.Replicas, b.Storage, section, flags)
		})
	}
	i.look("stream", deadletter.Stream, func(ctx context.Context) (string, error) {
		there, err := deadletter.Inspect(ctx, i.js)
		parked, section := parkedConfig(i.cfg), "registry"
		if i.cfg.Parked.Replicas > 0 {
			section = "parked"
		}
		flags := fmt.Sprintf("nats stream add %s --subjects='%s>' --replicas=%d --allow-direct --discard=new --max-bytes=1GB --defaults", deadletter.Stream, deadletter.Prefix, max(parked.Replicas, 1))
		return i.state(there, err, parked.Replicas, parked.Storage, section, flags)
	})
}

// state says how something is that subproxy creates where it is absent, and what will keep it from that.
func (i *inspection) state(there bool, err error, replicas int, storage feed.Storage, section, create string) (string, error) {
	switch {
	case there && err == nil:
		return "there, and as it must be", nil
	case there:
		return "there, and not as it must be", err
	case err != nil:
		return "not known", err
	case replicas > 1 && i.nc.ConnectedClusterName() == "":
		return "absent", fmt.Errorf("it can't be created with %s.replicas: %d on a server that is in no cluster; set it to 1", section, replicas)
	case i.limits.MaxBytesRequired && storage.MaxBytes == 0:
		return "absent", fmt.Errorf("it can't be created: this account requires max_bytes of every stream; create it with the size that you want: %s; or set %s.max_bytes", create, section)
	default:
		return "absent; it will be created", nil
	}
}

func (i *inspection) stores() {
	if !i.cfg.Emitter.Enabled {
		return
	}
	for _, s := range i.cfg.Stores {
		cfg := streamConfig(&s)
		name := s.Stream.Name
		if name == "" {
			name = emitter.StreamName(s.ID)
		}
		i.look("store "+s.ID, name, func(ctx context.Context) (string, error) {
			there, err := emitter.InspectStream(ctx, i.js, cfg)
			create := fmt.Sprintf("nats stream add %s --subjects='exesdb.events.%s.>' --replicas=%d --allow-direct --max-bytes=10GB --defaults", name, subscription.EncodeToken(s.ID), max(cfg.Replicas, 1))
			return i.state(there, err, cfg.Replicas, cfg.Storage, "stores[].stream", create)
		})
	}
}

func (i *inspection) forwards() {
	checked := map[sink.Config]bool{}
	for _, store := range i.cfg.Stores {
		for _, sub := range store.Subscriptions {
			if sub.Forward == nil || checked[sinkConfig(sub.Forward)] {
				continue
			}
			to := sinkConfig(sub.Forward)
			checked[to] = true
			i.look("forward", to.Subject, func(ctx context.Context) (string, error) {
				if err := sink.Check(ctx, i.js, to); err != nil {
					return "sink " + string(to.Kind), fmt.Errorf("subscription %s/%s: %w", store.ID, sub.Name, err)
				}
				return "sink " + string(to.Kind), nil
			})
		}
	}
}

func (i *inspection) bridge() {
	for _, b := range i.cfg.Bridge.Streams {
		ctx, cancel := context.WithTimeout(i.ctx, inspectTimeout)
		state, problem := lookAtBridge(ctx, i.js, b.Stream)
		cancel()
		i.warn("bridge", b.Stream, state, problem)
	}
}

// lookAtBridge says what keeps a bridged stream's elections from being heard of.
func lookAtBridge(ctx context.Context, js jetstream.JetStream, name string) (state string, problem error) {
	stream, err := js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return "absent", fmt.Errorf("bridge.streams: there is no stream %s, so nothing is heard of it until there is", name)
	case err != nil:
		return "not known", fmt.Errorf("bridge.streams: stream %s could not be looked at: %w", name, err)
	case stream.CachedInfo().Config.Replicas < 2:
		return "one replica", fmt.Errorf("bridge.streams: stream %s has one replica, and of such a stream no server ever tells of an election: nothing will be heard of it; "+
			"give it more (nats stream edit %s --replicas=3), or take it out", name, name)
	default:
		return fmt.Sprintf("%d replicas", stream.CachedInfo().Config.Replicas), nil
	}
}

// warnOfBridges logs at the start, and where the configuration changes, which bridged streams nothing will
// be heard of. It may take a while.
func (s *Service) warnOfBridges(c *config.Config) {
	for _, b := range c.Bridge.Streams {
		ctx, cancel := context.WithTimeout(s.instance.Followed(), inspectTimeout)
		_, problem := lookAtBridge(ctx, s.connections.js, b.Stream)
		cancel()
		if problem != nil && s.instance.Followed().Err() == nil {
			s.log.Warn("a bridged stream tells of no elections", "stream", b.Stream, "store", b.Store, "reason", problem)
		}
	}
}
