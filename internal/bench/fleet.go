package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const instancesStore = "bench_instances"

// fleet is a server, an emitter, and instances that share subscriptions, as processes; a publisher, and a
// subscriber of some of the subscriptions.
type fleet struct {
	InstancesOptions
	dir       string
	server    *testbed.Cluster[*testbed.Server]
	emitter   *testbed.Program
	instances map[string]*testbed.Program // that run, by name
	ownership *ownership
	keys      []string
	samples   []*sample
	pub       *publisher
	ends      []func() // undo what was begun, last first
}

// sample is a subscription that gets events.
type sample struct {
	*arrivals
	key, sink string
}

// sampledSinks are those of the subscriptions that get events, in turn.
var sampledSinks = []string{"stream", "publish"}

const (
	// instanceEvery is how often those subscriptions get an event.
	instanceEvery = 20 * time.Millisecond
	// sessionTTL is the instances', the default, and sessionGrace what is waited after it.
	sessionTTL   = 3 * time.Second
	sessionGrace = time.Second
)

func startFleet(ctx context.Context, o InstancesOptions) (_ *fleet, err error) {
	f := &fleet{InstancesOptions: o, instances: map[string]*testbed.Program{}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.dir, err = os.MkdirTemp("", "subproxy-bench-"); err != nil {
		return nil, err
	}
	if f.server, err = testbed.StartServers(ctx, o.Servers, testbed.ServerOptions{}); err != nil {
		return nil, err
	}
	nc, js, err := f.dial()
	if err != nil {
		return nil, err
	}
	if _, err := createStore(ctx, nc, instancesStore, o.Servers); err != nil {
		return nil, err
	}
	if err := createTarget(ctx, nc, o.Servers); err != nil {
		return nil, err
	}
	if err := f.follow(ctx, js); err != nil {
		return nil, err
	}
	if err := f.subscribe(nc); err != nil {
		return nil, err
	}
	if nc, js, err = f.dial(); err != nil {
		return nil, err
	}
	w, err := newWriter(nc, instancesStore, 1, 200)
	if err != nil {
		return nil, err
	}
	f.pub = &publisher{w: w, js: js, every: instanceEvery}
	if f.emitter, err = newEmitter(f.Subproxy, f.dir, f.server.URLs(), "emitter", instancesStore, o.Servers); err != nil {
		return nil, err
	}
	return f, f.emitter.Start(ctx)
}

func (f *fleet) close() {
	for _, p := range f.instances {
		_ = p.Kill()
	}
	if f.emitter != nil {
		_ = f.emitter.Kill()
	}
	for i := len(f.ends) - 1; i >= 0; i-- {
		f.ends[i]()
	}
	if f.server != nil {
		f.server.Shutdown()
	}
	_ = os.RemoveAll(f.dir) // what is left is in a temporary directory
}

func (f *fleet) dial() (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(f.server.URLs(), nats.MaxReconnects(-1))
	if err != nil {
		return nil, nil, err
	}
	f.ends = append(f.ends, nc.Close)
	js, err := jetstream.New(nc)
	return nc, js, err
}

// follow begins to see who holds what.
func (f *fleet) follow(ctx context.Context, js jetstream.JetStream) error {
	bucket, err := connect.Ask(ctx, func(ctx context.Context) (*kv.Bucket, error) {
		return kv.Open(ctx, js, kv.Config{Replicas: f.Servers})
	})
	if err != nil {
		return err
	}
	f.ownership = newOwnership(bucket, instancesStore)
	records, err := feed.New(js, feed.Config{Stream: bucket.Stream(), StartSeq: 1, Handler: f.ownership})
	if err != nil {
		return err
	}
	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	followed := make(chan struct{})
	go func() {
		_ = records.Run(following) // it returns nil
		close(followed)
	}()
	f.ends = append(f.ends, func() {
		cancel()
		<-followed
	})
	return nil
}

func sharedName(i int) string { return fmt.Sprintf("shared_%06d", i) }

// subscribe is the subscriber, and decides which subscriptions get events: some of all, evenly.
func (f *fleet) subscribe(nc *nats.Conn) error {
	every := f.Subscriptions / f.Sampled
	byName := map[string]*sample{}
	for i := range f.Subscriptions {
		s := subscription.Subscription{Store: instancesStore, Type: subscription.ByEventType, Selector: idleType, Name: sharedName(i)}
		if i%every == 0 && len(f.samples) < f.Sampled {
			s.Selector = eventType(0)
			sink := sampledSinks[len(f.samples)%len(sampledSinks)]
			byName[s.Name] = &sample{arrivals: newArrivals(s.Name), key: s.Key(), sink: sink}
			f.samples = append(f.samples, byName[s.Name])
		}
		f.keys = append(f.keys, s.Key())
		f.ownership.keyOf[s.Name] = s.Key()
	}
	for _, prefix := range []string{outPrefix + "publish.", storedPrefix} {
		sub, err := nc.Subscribe(prefix+"*", func(m *nats.Msg) {
			if s := byName[m.Subject[len(prefix):]]; s != nil {
				s.got(m.Data)
			}
		})
		if err != nil {
			return err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return err
		}
	}
	if _, err := nc.Subscribe(status.HandOverPrefix+"*", f.ownership.give); err != nil {
		return err
	}
	return nc.Flush()
}

// idleType is of events that nobody publishes.
const idleType = "never:v1"

func (f *fleet) conf(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nats: {url: %q}\ninstance: {name: %s, session_ttl: %s}\nregistry: {replicas: %d}\n", f.server.URLs(), name, sessionTTL, f.Servers)
	fmt.Fprintf(&b, "stores:\n  - id: %s\n    stream: {replicas: %d}\n    defaults: {type: by_event_type, selector: %q}\n    subscriptions:\n", instancesStore, f.Servers, idleType)
	sampled := map[string]string{}
	for _, s := range f.samples {
		sampled[s.name] = s.sink
	}
	for i := range f.Subscriptions {
		name := sharedName(i)
		if sink := sampled[name]; sink != "" {
			fmt.Fprintf(&b, "      - {name: %s, selector: %q, forward: {sink: %s, subject: %s%s.%s}}\n", name, eventType(0), sink, outPrefix, sink, name)
			continue
		}
		fmt.Fprintf(&b, "      - name: %s\n", name)
	}
	return b.String()
}

func (f *fleet) start(ctx context.Context, name string) error {
	p := &testbed.Program{File: f.Subproxy, Dir: f.dir, Name: name, Command: "run"}
	if err := p.Configure(f.conf(name)); err != nil {
		return err
	}
	f.instances[name] = p
	return p.Start(ctx)
}

// end ends an instance and returns once it is gone.
func (f *fleet) end(name string, how syscall.Signal) error {
	p := f.instances[name]
	delete(f.instances, name)
	return p.End(how, testbed.StopTimeout)
}

// assignment is who should hold what where those names share.
func (f *fleet) assignment(names []string) map[string]string {
	members := make([]placement.Member, len(names))
	for i, name := range names {
		members[i] = placement.Member{Name: name, Weight: 1}
	}
	sharing, wanted := placement.NewRendezvous(members), make(map[string]string, len(f.keys))
	for _, key := range f.keys {
		wanted[key] = sharing.Assign(key)
	}
	return wanted
}

const (
	// balanceWithin is when what does not come to rest is given up.
	balanceWithin = 2 * time.Minute
	// atRest is how long nothing has moved once it has come to rest.
	atRest = 500 * time.Millisecond
)

var errInstanceEnded = errors.New("an instance ended by itself")

// balanced waits until everything is held as wanted and nothing moves any more, and returns when something
// moved last.
func (f *fleet) balanced(ctx context.Context, wanted map[string]string) (last time.Time, err error) {
	f.ownership.want(wanted)
	err = until(ctx, balanceWithin, func() bool {
		var off int
		off, last = f.ownership.off()
		return f.failed() != nil || off == 0 && time.Since(last) > atRest
	})
	if failed := f.failed(); failed != nil {
		return last, failed
	}
	if errors.Is(err, errNotAll) {
		off, _ := f.ownership.off()
		return last, fmt.Errorf("after %v %d of %d subscriptions are not where they should be", balanceWithin, off, len(wanted))
	}
	return last, err
}

// failed is the error of an instance that ended by itself.
func (f *fleet) failed() error {
	for _, p := range f.instances {
		if !p.Running() {
			return fmt.Errorf("%w: %w", errInstanceEnded, p.Ended())
		}
	}
	return nil
}
