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
	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/pkg/subscription"
)

const instancesStore = "bench_instances"

// town is a server, an emitter, and instances that share subscriptions, as processes; a publisher, and a subscriber of some of
// the subscriptions.
type town struct {
	InstancesOptions
	dir       string
	server    *testbed.Cluster[*testbed.Server]
	emitter   *testbed.Program
	instances map[string]*testbed.Program // that run, by name
	holdings  *holdings
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

func openTown(ctx context.Context, o InstancesOptions) (_ *town, err error) {
	t := &town{InstancesOptions: o, instances: map[string]*testbed.Program{}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.dir, err = os.MkdirTemp("", "subproxy-bench-"); err != nil {
		return nil, err
	}
	if t.server, err = testbed.StartServers(ctx, o.Servers, testbed.ServerOptions{}); err != nil {
		return nil, err
	}
	nc, js, err := t.dial()
	if err != nil {
		return nil, err
	}
	if _, err := createStore(ctx, nc, instancesStore, o.Servers); err != nil {
		return nil, err
	}
	if err := createTarget(ctx, nc, o.Servers); err != nil {
		return nil, err
	}
	if err := t.follow(ctx, js); err != nil {
		return nil, err
	}
	if err := t.subscribe(nc); err != nil {
		return nil, err
	}
	if nc, js, err = t.dial(); err != nil {
		return nil, err
	}
	w, err := newWriter(nc, instancesStore, 1, 200)
	if err != nil {
		return nil, err
	}
	t.pub = &publisher{w: w, js: js, every: instanceEvery}
	if t.emitter, err = newEmitter(t.Subproxy, t.dir, t.server.URLs(), "emitter", instancesStore, o.Servers); err != nil {
		return nil, err
	}
	return t, t.emitter.Start(ctx)
}

func (t *town) close() {
	for _, p := range t.instances {
		_ = p.Kill()
	}
	if t.emitter != nil {
		_ = t.emitter.Kill()
	}
	for i := len(t.ends) - 1; i >= 0; i-- {
		t.ends[i]()
	}
	if t.server != nil {
		t.server.Shutdown()
	}
	_ = os.RemoveAll(t.dir) // what is left is in a temporary directory
}

func (t *town) dial() (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(t.server.URLs(), nats.MaxReconnects(-1))
	if err != nil {
		return nil, nil, err
	}
	t.ends = append(t.ends, nc.Close)
	js, err := jetstream.New(nc)
	return nc, js, err
}

// follow begins to see who holds what.
func (t *town) follow(ctx context.Context, js jetstream.JetStream) error {
	bucket, err := connect.Ask(ctx, func(ctx context.Context) (*kv.Bucket, error) {
		return kv.Open(ctx, js, kv.Config{Replicas: t.Servers})
	})
	if err != nil {
		return err
	}
	t.holdings = newHoldings(bucket, instancesStore)
	records, err := feed.New(js, feed.Config{Stream: bucket.Stream(), StartSeq: 1, Handler: t.holdings})
	if err != nil {
		return err
	}
	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	followed := make(chan struct{})
	go func() {
		_ = records.Run(following) // it returns nil
		close(followed)
	}()
	t.ends = append(t.ends, func() {
		cancel()
		<-followed
	})
	return nil
}

func sharedName(i int) string { return fmt.Sprintf("shared_%06d", i) }

// subscribe is the subscriber, and decides which subscriptions get events: some of all, evenly.
func (t *town) subscribe(nc *nats.Conn) error {
	every := t.Subscriptions / t.Sampled
	byName := map[string]*sample{}
	for i := range t.Subscriptions {
		s := subscription.Subscription{Store: instancesStore, Type: subscription.ByEventType, Selector: idleType, Name: sharedName(i)}
		if i%every == 0 && len(t.samples) < t.Sampled {
			s.Selector = eventType(0)
			sink := sampledSinks[len(t.samples)%len(sampledSinks)]
			byName[s.Name] = &sample{arrivals: newArrivals(s.Name), key: s.Key(), sink: sink}
			t.samples = append(t.samples, byName[s.Name])
		}
		t.keys = append(t.keys, s.Key())
		t.holdings.keyOf[s.Name] = s.Key()
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
	if _, err := nc.Subscribe(health.HandOverPrefix+"*", t.holdings.give); err != nil {
		return err
	}
	return nc.Flush()
}

// idleType is of events that nobody publishes.
const idleType = "never:v1"

func (t *town) conf(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nats: {url: %q}\ninstance: {name: %s, session_ttl: %s}\nregistry: {replicas: %d}\n", t.server.URLs(), name, sessionTTL, t.Servers)
	fmt.Fprintf(&b, "stores:\n  - id: %s\n    stream: {replicas: %d}\n    defaults: {type: by_event_type, selector: %q}\n    subscriptions:\n", instancesStore, t.Servers, idleType)
	sampled := map[string]string{}
	for _, s := range t.samples {
		sampled[s.name] = s.sink
	}
	for i := range t.Subscriptions {
		name := sharedName(i)
		if sink := sampled[name]; sink != "" {
			fmt.Fprintf(&b, "      - {name: %s, selector: %q, forward: {sink: %s, subject: %s%s.%s}}\n", name, eventType(0), sink, outPrefix, sink, name)
			continue
		}
		fmt.Fprintf(&b, "      - name: %s\n", name)
	}
	return b.String()
}

func (t *town) start(ctx context.Context, name string) error {
	p := &testbed.Program{File: t.Subproxy, Dir: t.dir, Name: name, Command: "run"}
	if err := p.Configure(t.conf(name)); err != nil {
		return err
	}
	t.instances[name] = p
	return p.Start(ctx)
}

// end ends an instance and returns once it is gone.
func (t *town) end(name string, how syscall.Signal) error {
	p := t.instances[name]
	delete(t.instances, name)
	return p.End(how, testbed.StopTimeout)
}

// assignment is who should hold what where those names share.
func (t *town) assignment(names []string) map[string]string {
	members := make([]placement.Member, len(names))
	for i, name := range names {
		members[i] = placement.Member{Name: name, Weight: 1}
	}
	sharing, wanted := placement.NewRendezvous(members), make(map[string]string, len(t.keys))
	for _, key := range t.keys {
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

// balanced waits until everything is held as wanted and nothing moves any more, and returns when something moved last.
func (t *town) balanced(ctx context.Context, wanted map[string]string) (last time.Time, err error) {
	t.holdings.want(wanted)
	err = until(ctx, balanceWithin, func() bool {
		var off int
		off, last = t.holdings.off()
		return t.failed() != nil || off == 0 && time.Since(last) > atRest
	})
	if failed := t.failed(); failed != nil {
		return last, failed
	}
	if errors.Is(err, errNotAll) {
		off, _ := t.holdings.off()
		return last, fmt.Errorf("after %v %d of %d subscriptions are not where they should be", balanceWithin, off, len(wanted))
	}
	return last, err
}

// failed is the error of an instance that ended by itself.
func (t *town) failed() error {
	for _, p := range t.instances {
		if !p.Running() {
			return fmt.Errorf("%w: %w", errInstanceEnded, p.Ended())
		}
	}
	return nil
}
