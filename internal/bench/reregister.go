package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/registration"
)

const store = "greenhouse_tycoon"

// ReregisterOptions say what Reregister measures.
type ReregisterOptions struct {
	Subscriptions int // most that are registered together
	Servers       int // 1 or 3, embedded
	Samples       int // of one put, one get and one re-registration
	Rounds        int // of many
	Progress      io.Writer
}

// compared is the number of subscriptions that more of them are compared with.
const compared = 10_000

// Reregister measures how long a cluster event takes until the registrations that it causes are verified.
func Reregister(ctx context.Context, o ReregisterOptions) (*Report, error) {
	servers, err := testbed.StartNodes(ctx, o.Servers, natsnode.Options{})
	if err != nil {
		return nil, err
	}
	defer servers.Shutdown()
	urls := servers.URLs()
	nc, err := nats.Connect(urls)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	b := &reregister{ReregisterOptions: o, urls: urls, nc: nc, report: &Report{
		Bench: "reregister", Setup: fmt.Sprintf("%d embedded server(s), replicas %d, %d CPU(s), %s", o.Servers, o.Servers, runtime.NumCPU(), runtime.Version()),
	}}
	if err := b.one(ctx); err != nil {
		return nil, err
	}
	if err := b.timerOnly(ctx); err != nil {
		return nil, err
	}
	first, err := b.many(ctx, min(o.Subscriptions, compared))
	if err != nil {
		return nil, err
	}
	if o.Subscriptions > compared {
		last, err := b.many(ctx, o.Subscriptions)
		if err != nil {
			return nil, err
		}
		bound := 1.2 * float64(o.Subscriptions) / compared
		b.report.target(fmt.Sprintf("%d registrations against %d", o.Subscriptions, compared), ratio(last, first), bound, "×")
	}
	return b.report, nil
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

type reregister struct {
	ReregisterOptions
	urls   string
	nc     *nats.Conn
	report *Report
}

// registered is a batch that was registered and verified.
type registered struct {
	Cause registration.Cause `json:"cause"`
	N     int                `json:"n"`
	At    time.Time          `json:"at"`
}

// start runs an instance with n subscriptions and returns when all are verified. Its timers don't get in
// the way.
func (b *reregister) start(ctx context.Context, n int, change func(*config.Config)) (*service.Service, <-chan registered, error) {
	c := benchConfig(b.urls, n, b.Servers)
	if change != nil {
		change(c)
	}
	events := make(chan registered, n+1024)
	s, err := service.Start(ctx, service.Options{
		Config: c, Version: "0.0.0-bench", Logger: slog.New(slog.DiscardHandler),
		OnRegistered: func(_ string, cause registration.Cause, n int, at time.Time) {
			events <- registered{Cause: cause, N: n, At: at}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := await(ctx, events, "", n); err != nil {
		stopService(s)
		return nil, nil, err
	}
	return s, events, nil
}

func stopService(s *service.Service) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.Stop(ctx)
}

// await returns when n registrations of the cause were verified, and when the last of them was.
func await(ctx context.Context, events <-chan registered, cause registration.Cause, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var last time.Time
	for n > 0 {
		select {
		case e := <-events:
			if cause == "" || e.Cause == cause {
				n -= e.N
				last = e.At
			}
		case <-ctx.Done():
			return last, fmt.Errorf("%d registrations are still missing: %w", n, ctx.Err())
		}
	}
	return last, nil
}

func benchConfig(urls string, n, replicas int) *config.Config {
	c := config.Default()
	c.NATS.URL = urls
	c.Instance.Name = "bench"
	c.Registry.Replicas = replicas
	c.SubscriptionProxy.InitialReregisterInterval, c.SubscriptionProxy.NormalReregisterInterval = time.Hour, 24*time.Hour
	c.Status.HeartbeatInterval = time.Hour
	c.Status.EmitterSilentAfter = 0 // there is none
	s := config.Store{ID: store}
	for _, sub := range benchSubscriptions(n) {
		s.Subscriptions = append(s.Subscriptions, config.Subscription{Name: sub.Name, Type: string(sub.Type), Selector: sub.Selector})
	}
	c.Stores = []config.Store{s}
	return c
}

// change publishes a leader change and returns how long it took until n registrations were verified.
func (b *reregister) change(ctx context.Context, events <-chan registered, n int) (time.Duration, error) {
	start := time.Now()
	if err := b.nc.Publish(cluster.LeaderChangedSubject, []byte(`{"store":"`+store+`","leader":"n2"}`)); err != nil {
		return 0, err
	}
	last, err := await(ctx, events, registration.LeaderChanged, n)
	return last.Sub(start), err
}

// spacing keeps the events of a measurement from being taken for a flood.
const spacing = 210 * time.Millisecond

func (b *reregister) one(ctx context.Context) error {
	r, err := newRaw(ctx, b.nc, 1, b.Servers)
	if err != nil {
		return err
	}
	s, events, err := b.start(ctx, 1, nil)
	if err != nil {
		return err
	}
	defer stopService(s)
	var puts, gets, changes []time.Duration
	for range b.Samples {
		// Turn by turn, and each after the same pause: what follows an idle time takes longer than in a
		// tight loop.
		put, get, err := r.single(ctx)
		if err != nil {
			return err
		}
		puts, gets = append(puts, put), append(gets, get)
		if err := backoff.Sleep(ctx, spacing); err != nil {
			return err
		}
		d, err := b.change(ctx, events, 1)
		if err != nil {
			return err
		}
		changes = append(changes, d)
		if err := backoff.Sleep(ctx, spacing); err != nil {
			return err
		}
	}
	put := b.report.durations("one put", puts)
	get := b.report.durations("one get", gets)
	change := b.report.durations("leader change to verified, 1 subscription", changes)
	b.report.target("leader change to verified against one put and one get", ratio(change, put+get), 2.5, "×")
	return b.tight(ctx, r, s, events)
}

// tight measures the same without pauses between, where the processors don't fall asleep: cluster events at
// this rate are taken for a flood, so it is an operator's requests that cause the registrations.
func (b *reregister) tight(ctx context.Context, r *raw, s *service.Service, events <-chan registered) error {
	var puts, gets, changes []time.Duration
	for range 20 * b.Samples {
		put, get, err := r.single(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err := s.Supervisor().Reregister(ctx, store, benchSubscriptions(1)[0].Name); err != nil {
			return err
		}
		puts, gets, changes = append(puts, put), append(gets, get), append(changes, time.Since(start))
		if _, err := await(ctx, events, registration.Manual, 1); err != nil { // the instance waits for who listens to it
			return err
		}
	}
	put := b.report.durations("one put, in a tight loop", puts)
	get := b.report.durations("one get, in a tight loop", gets)
	change := b.report.durations("request to verified, in a tight loop", changes)
	b.report.target("the same in a tight loop", ratio(change, put+get), 2.5, "×")
	return nil
}

// timerOnly shows what the old way costs: no events, only the timer. Its interval is a second here, to get
// samples; the default is 15 of them.
func (b *reregister) timerOnly(ctx context.Context) error {
	const interval = time.Second
	s, events, err := b.start(ctx, 1, func(c *config.Config) {
		t := &c.SubscriptionProxy
		t.EnableClusterEventSubscriptions = false
		t.InitialReregisterInterval, t.NormalReregisterInterval = interval, interval
	})
	if err != nil {
		return err
	}
	defer stopService(s)
	var waits []time.Duration
	for range 10 {
		if err := backoff.Sleep(ctx, time.Duration(rand.Int64N(int64(interval)))); err != nil {
			return err
		}
		for len(events) > 0 {
			<-events
		}
		start := time.Now()
		last, err := await(ctx, events, registration.Timer, 1)
		if err != nil {
			return err
		}
		waits = append(waits, last.Sub(start))
	}
	b.report.durations("the same by a timer of 1 s, without events", waits)
	return nil
}

func (b *reregister) many(ctx context.Context, n int) (time.Duration, error) {
	fmt.Fprintf(b.Progress, "measuring %d subscriptions, %d rounds…\n", n, b.Rounds)
	r, err := newRaw(ctx, b.nc, n, b.Servers)
	if err != nil {
		return 0, err
	}
	s, events, err := b.start(ctx, n, nil)
	if err != nil {
		return 0, err
	}
	defer stopService(s)
	var puts, reads, both, changes []time.Duration
	for round := range b.Rounds + 1 {
		put, read, err := r.pipelined(ctx)
		if err != nil {
			return 0, err
		}
		if err := backoff.Sleep(ctx, time.Second); err != nil {
			return 0, err
		}
		d, err := b.change(ctx, events, n)
		if err != nil {
			return 0, err
		}
		if err := backoff.Sleep(ctx, time.Second); err != nil {
			return 0, err
		}
		if round > 0 { // the first warms up
			puts, reads, both, changes = append(puts, put), append(reads, read), append(both, put+read), append(changes, d)
		}
	}
	b.report.durations(fmt.Sprintf("%d pipelined puts", n), puts)
	b.report.durations(fmt.Sprintf("reading %d back", n), reads)
	baseline := quantile(both, 0.5)
	change := b.report.durations(fmt.Sprintf("leader change to the last verified, %d subscriptions", n), changes)
	b.report.target(fmt.Sprintf("%d registrations against pipelined puts and reading back", n), ratio(change, baseline), 1.5, "×")
	return change, nil
}
