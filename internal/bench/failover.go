package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/emitter"
)

// FailoverOptions say what Failover measures.
type FailoverOptions struct {
	Rounds   int    // of each kind
	Subproxy string // the program; default: testbed.Subproxy
	Progress io.Writer
}

const (
	failoverStore = "bench_failover"
	servers       = 3
)

// How a fault ends that cuts off the clients under test, and what is counted then.
const (
	connectedToIt = "clients connected to it"
	cutOff        = ", connected to the server killed"
)

// failover is a run of Failover.
type failover struct {
	FailoverOptions
	cluster *testbed.Cluster[*testbed.Server]
	stream  string
	w       *writer
	report  *Report
	pauses  map[string][]time.Duration // by what is shown
	order   []string                   // of the keys of pauses
	lost    map[string]*account        // by subscriber
	who     []string                   // of the keys of lost
}

// Failover measures how long subscribers get nothing after a NATS node, or the emitter that leads, is gone.
func Failover(ctx context.Context, o FailoverOptions) (*Report, error) {
	f := &failover{
		FailoverOptions: o, stream: emitter.StreamName(failoverStore), pauses: map[string][]time.Duration{}, lost: map[string]*account{},
		report: &Report{Bench: "failover", Setup: fmt.Sprintf("%d nats-server processes, replicas %d; publisher, subscribers, subproxy's instance and "+
			"(while servers are killed) its emitter in one process, over connections of their own; %d CPU(s), %s", servers, servers, runtime.NumCPU(), runtime.Version())},
	}
	var err error
	if f.Subproxy, err = testbed.Subproxy(o.Subproxy); err != nil {
		return nil, err
	}
	if f.cluster, err = testbed.StartServers(ctx, servers, testbed.ServerOptions{}); err != nil {
		return nil, err
	}
	defer f.cluster.Shutdown()
	if err := f.prepare(ctx); err != nil {
		return nil, err
	}
	if err := f.emitters(ctx); err != nil {
		return nil, err
	}
	for round := range f.Rounds {
		for _, with := range []bool{false, true} {
			if err := f.node(ctx, round, with); err != nil {
				return nil, err
			}
		}
	}
	f.conclude()
	return f.report, nil
}

func (f *failover) prepare(ctx context.Context) error {
	nc, err := f.dial(f.cluster.URLs())
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := createStore(ctx, nc, failoverStore, servers); err != nil {
		return err
	}
	f.w, err = newWriter(nc, failoverStore, 10, 200)
	return err
}

// dial connects as quickly again as makes sense; subproxy's own connections wait 100 to 200 ms between
// attempts.
func (f *failover) dial(urls string) (*nats.Conn, error) {
	return nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0), nats.PingInterval(time.Second))
}

// node kills the server that leads the stream. With says whether the clients under test are connected to
// that one; the publisher and subproxy's subscribers are not, ever: what core NATS loses with a
// subscriber's connection is not subproxy's.
func (f *failover) node(ctx context.Context, round int, with bool) (err error) {
	admin, err := f.dial(f.cluster.URLs())
	if err != nil {
		return err
	}
	defer admin.Close()
	js, err := jetstream.New(admin)
	if err != nil {
		return err
	}
	victim, err := f.cluster.StreamLeader(ctx, js, f.stream)
	if err != nil {
		return err
	}
	away, near := "", ""
	for _, p := range f.cluster.Servers {
		if p != victim {
			away += "," + p.URL()
		}
	}
	if away, near = away[1:], away[1:]; with {
		near = victim.URL() // it tells of the others
	}
	kind := "clients connected elsewhere"
	if with {
		kind = connectedToIt
	}
	fmt.Fprintf(f.Progress, "killing the stream's leader, %s, round %d…\n", kind, round+1)
	r := &faultRound{failover: f, away: away}
	defer r.close()
	if err := r.publisher(); err != nil {
		return err
	}
	if err := r.proxied(ctx, near, fmt.Sprintf("node_%d_%t", round, with), true); err != nil {
		return err
	}
	if err := r.bare(ctx, near, victim.Name(), fmt.Sprintf("round_%d_%t", round, with)); err != nil {
		return err
	}
	if err := r.measure(ctx, "server killed, "+kind, victim.Kill); err != nil {
		return err
	}
	r.close()
	if err := victim.Restart(ctx); err != nil {
		return err
	}
	if err := f.cluster.WaitReady(ctx); err != nil {
		return err
	}
	return f.healthy(ctx, js)
}

// healthy waits until the stream has a leader and all its replicas have what it has.
func (f *failover) healthy(ctx context.Context, js jetstream.JetStream) error {
	err := until(ctx, time.Minute, func() bool {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		stream, err := js.Stream(limited, f.stream)
		if err != nil {
			return false
		}
		c := stream.CachedInfo().Cluster
		if c == nil || c.Leader == "" || len(c.Replicas) != servers-1 {
			return false
		}
		for _, peer := range c.Replicas {
			if !peer.Current || peer.Offline {
				return false
			}
		}
		return true
	})
	if errors.Is(err, errNotAll) {
		return errors.New("the stream's replicas did not become current within a minute")
	}
	return err
}

// noted keeps what a subscriber saw.
func (f *failover) noted(what string, pause time.Duration) {
	if _, known := f.pauses[what]; !known {
		f.order = append(f.order, what)
	}
	f.pauses[what] = append(f.pauses[what], pause)
}

func (f *failover) counted(who string, c account) {
	if f.lost[who] == nil {
		f.lost[who] = &account{}
		f.who = append(f.who, who)
	}
	sum := f.lost[who]
	sum.lost, sum.twice, sum.late = sum.lost+c.lost, sum.twice+c.twice, sum.late+c.late
}

// Bounds of section 12 of the design, by how what is shown begins.
var failoverBounds = []struct {
	fault string
	most  time.Duration
}{
	{"server killed", 250 * time.Millisecond},
	{"emitter killed", leaseTTL + 100*time.Millisecond},
	{"emitter stopped", 50 * time.Millisecond},
}

func (f *failover) conclude() {
	for _, what := range f.order {
		f.report.durations(what, append([]time.Duration(nil), f.pauses[what]...))
	}
	for _, b := range failoverBounds {
		for _, sink := range failoverSinks {
			var worst time.Duration
			seen := false
			for _, what := range f.order {
				if hasFault(what, b.fault, "subproxy, sink "+sink) {
					seen, worst = true, max(worst, quantile(append([]time.Duration(nil), f.pauses[what]...), 1))
				}
			}
			if seen {
				f.report.target(b.fault+", longest pause beyond the publisher's: subproxy, sink "+sink, micros(worst)/1000, micros(b.most)/1000, "ms")
			}
		}
	}
	for _, who := range f.who {
		c := f.lost[who]
		f.report.number("events twice: "+who, float64(c.twice), "")
		// What publish loses with a connection is lost by design, and what nats.go loses is not subproxy's.
		if !strings.HasPrefix(who, "subproxy") || who == "subproxy, sink publish"+cutOff {
			f.report.number("events lost: "+who, float64(c.lost), "")
			f.report.number("events after later ones: "+who, float64(c.late), "")
			continue
		}
		f.report.target("events lost: "+who, float64(c.lost), 0, "")
		f.report.target("events after later ones: "+who, float64(c.late), 0, "")
	}
	f.report.note("Pauses are the longest between two events that a subscriber got, less the longest between two acknowledgements of the publisher that overlaps it; " +
		"the p99 of so few rounds is the longest. The nats.go consumers are led by the server that is killed. Targets are for the longest of all rounds.")
	f.report.note("A sink of kind publish is core NATS: where subproxy's own connection dies with the server, what it had just sent is lost, by design; request is not.")
}
