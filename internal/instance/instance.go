package instance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/pkg/supervisor"
)

// Options are what an instance is made with. JetStream, Owner, Settings and Sink are required.
type Options struct {
	JetStream jetstream.JetStream // its connection is the instance's
	Owner     registration.Owner  // this run
	Version   string              // told in the session
	Weight    int                 // share of the subscriptions, 1 to 100; default 1
	TTL       time.Duration       // of the session; default membership's
	// Registry is the bucket of registrations. Its replicas and storage are those of the other bucket, and
	// of the parked stream.
	Registry kv.Config
	Parked   deadletter.Config // default: replicas and storage of the registry
	Settings proxy.Settings
	// Sink is where a subscription's events go (see delivery.Options).
	Sink func(s subscription.Subscription) (sink.Sink, sink.Config)
	// Publisher is the one that publish sinks share, if any.
	Publisher *sink.Publisher
	Memory    int64 // bytes of events that wait for their sinks, in all; default delivery.DefaultBudget

	// Unfit looks at what else must be as it should at the start; nil: nothing. Its error is told with the
	// registry's own.
	Unfit func(context.Context) error
	// Permitted is a permission that the server has refused so far; nil: none is known.
	Permitted func() error
	// Hindered is why the instance can't do its work, whatever the subscription; empty: it can. It may be
	// nil.
	Hindered func() string
	// OnRegistered is the supervisor's (see supervisor.Options).
	OnRegistered func(store string, cause registration.Cause, n int, at time.Time)
	Logger       *slog.Logger
	Metrics      Metrics
}

// Metrics are what an instance's parts count, each its own. Those that are nil are not registered.
type Metrics struct {
	Proxies  *supervisor.Metrics
	Delivery *delivery.Metrics
	Cluster  *cluster.Metrics
}

// Events are the cluster events that an instance hears.
type Events struct {
	Off                                           bool   // it hears none
	LeaderChangedSubject, EmitterRestartedSubject string // empty: the standard ones
	// Bridge is of elections of these streams; that of the registry itself is bridged where BridgeRegistry
	// is set.
	Bridge         []cluster.Bridged
	BridgeRegistry bool
}

// Instance is one run. Its methods are safe for concurrent use once Begin has returned.
type Instance struct {
	o           Options
	log         *slog.Logger
	nc          *nats.Conn
	records     records
	sessions    sessions
	deadLetters *DeadLetters
	delivery    *delivery.Delivery
	supervisor  *supervisor.Supervisor
	alerts      *alertBook
	barrier     *barrier

	mu       sync.Mutex // guards listener and events
	listener *cluster.Listener
	events   Events

	running  atomic.Bool // Begin was called: cluster events and reconnects count
	stopping atomic.Bool // Stop was called
	followed context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup
	ended    sync.Once
}

// Open opens the buckets and makes the instance. It waits, until ctx ends, for a JetStream that is only
// starting. Nothing is heard, taken or claimed before Start and Begin; Close ends the instance.
func Open(ctx context.Context, o Options) (*Instance, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Permitted == nil {
		o.Permitted = func() error { return nil }
	}
	if o.Metrics.Proxies == nil {
		o.Metrics.Proxies = supervisor.NewMetrics(nil)
	}
	o.Registry.Logger = o.Logger
	i := &Instance{o: o, log: o.Logger, nc: o.JetStream.Conn()}
	i.followed, i.cancel = context.WithCancel(context.Background())
	i.records.init(i)
	i.sessions.init(i)
	if err := i.openBuckets(ctx); err != nil {
		i.cancel()
		return nil, err
	}
	i.deadLetters = NewDeadLetters(o.JetStream, o.parked())
	i.delivery = delivery.New(delivery.Options{
		Conn: i.nc, Owner: o.Owner, Sink: o.Sink, Publisher: o.Publisher, Park: i.deadLetters.Park, Budget: o.Memory,
		Logger: o.Logger, Metrics: o.Metrics.Delivery,
	})
	i.alerts = newAlertBook(i.sessions.bucket, o.Owner, i.nc.IsConnected, i.publishAlert, i.log)
	return i, nil
}

// Start takes what is sent to the instance, and knows its subscriptions: who asks from here on is answered.
// Nothing is claimed before Begin.
func (i *Instance) Start(ctx context.Context, e Events, subs []subscription.Subscription) error {
	if err := i.delivery.Start(); err != nil {
		return err
	}
	o := i.o
	i.supervisor = supervisor.New(supervisor.Options{
		Owner: o.Owner, Bucket: i.records.bucket, Delivery: i.delivery, Settings: o.Settings, Publish: i.nc.Publish, Connected: i.nc.IsConnected,
		Hindered: o.Hindered, MaxPayload: i.nc.MaxPayload, Shares: true, Alerts: i.alerts, OnRetired: i.announceSuperseded, Ensure: i.records.ensure,
		Logger: i.log, Metrics: o.Metrics.Proxies, OnRegistered: o.OnRegistered,
	})
	subject := event.ProgressPrefix + "*"
	if _, err := i.nc.Subscribe(subject, i.progress); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := i.Listen(e); err != nil {
		return err
	}
	i.sessions.stores = i.sessions.storesOf(subs)
	i.supervisor.Apply(subs)
	_, err := i.supervisor.Summaries(ctx)
	return err
}

// Begin follows the registry and the other instances, and lets the proxies begin once both are known. It
// returns when the others can see this instance, or when that takes long.
func (i *Instance) Begin(ctx context.Context) error {
	i.barrier = newBarrier(i.supervisor.Begin)
	if err := i.records.follow(); err != nil {
		return err
	}
	if err := i.sessions.join(ctx); err != nil {
		return err
	}
	i.running.Store(true)
	return nil
}

// Apply makes these the instance's subscriptions: those added start, those removed are released, those
// changed restart, the rest don't notice.
func (i *Instance) Apply(ctx context.Context, subs []subscription.Subscription) {
	i.sessions.tellStores(ctx, i.sessions.storesOf(subs))
	i.supervisor.Apply(subs)
}

// Configure changes the settings.
func (i *Instance) Configure(s proxy.Settings) { i.supervisor.SetSettings(s) }

// Supervisor is for what reads statuses and acts on proxies.
func (i *Instance) Supervisor() *supervisor.Supervisor { return i.supervisor }

// Delivery takes the proxies' events.
func (i *Instance) Delivery() *delivery.Delivery { return i.delivery }

// DeadLetters is where events go that were refused too often.
func (i *Instance) DeadLetters() *DeadLetters { return i.deadLetters }

// Registry is the bucket of registrations.
func (i *Instance) Registry() *kv.Bucket { return i.records.bucket }

// Followed ends with the instance.
func (i *Instance) Followed() context.Context { return i.followed }

func (i *Instance) progress(m *nats.Msg) {
	var p event.Progress
	if err := json.Unmarshal(m.Data, &p); err == nil {
		i.supervisor.Progress(p)
	}
}

// Stop hands over and releases: the others take over what they know, every registration that is left is
// deleted, and the session is given back. When ctx ends first it stops where it is.
func (i *Instance) Stop(ctx context.Context) {
	i.stopping.Store(true)
	i.stopListening()
	i.sessions.drain(ctx)
	i.supervisor.Stop(ctx)
	i.alerts.finish(ctx)
	i.sessions.leave(ctx)
	if i.nc.IsConnected() { // else it would wait for a connection
		if err := i.nc.FlushWithContext(ctx); err != nil {
			i.log.Debug("flush on stop", "error", err)
		}
	}
	i.Close()
}

// Close ends what was begun, without releasing anything. Again is fine.
func (i *Instance) Close() {
	i.stopListening()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if i.supervisor != nil {
		i.supervisor.Stop(ended)
	}
	i.sessions.leave(ended)
	i.cancel()
	i.work.Wait()
	i.ended.Do(i.delivery.Stop)
}

// DeadLetters opens the stream of parked events when it is first needed.
type DeadLetters struct {
	js  jetstream.JetStream
	cfg deadletter.Config

	mu    sync.Mutex
	store *deadletter.Store
}

// NewDeadLetters says how the stream is created where it is absent.
func NewDeadLetters(js jetstream.JetStream, cfg deadletter.Config) *DeadLetters {
	return &DeadLetters{js: js, cfg: cfg}
}

func (o *Options) parked() deadletter.Config {
	if o.Parked == (deadletter.Config{}) {
		return deadletter.Config{Replicas: o.Registry.Replicas, Memory: o.Registry.Memory, Storage: o.Registry.Storage}
	}
	return o.Parked
}

// Park keeps an event that was refused so many times.
func (d *DeadLetters) Park(ctx context.Context, e *sink.Event, c sink.Config, reason string, attempts int) error {
	store, err := d.open(ctx)
	if err != nil {
		return err
	}
	return sink.Park(ctx, store, e, c, reason, attempts)
}

func (d *DeadLetters) open(ctx context.Context) (*deadletter.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store != nil {
		return d.store, nil
	}
	store, err := deadletter.Open(ctx, d.js, d.cfg)
	if err == nil {
		d.store = store
	}
	return store, err
}
