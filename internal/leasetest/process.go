// Package leasetest is what tests of leases, elections and memberships share: a process that keeps keys in
// the cluster bucket of a real server, and can be paused.
package leasetest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Patience is how long a test waits for what must happen.
const Patience = 20 * time.Second

// Never is a TTL that no test waits for.
const Never = 30 * time.Second

// VerifyMain runs a package's tests, and fails where they leave a goroutine behind.
func VerifyMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// StartNode starts a server for one test.
func StartNode(t *testing.T) *natsnode.Node {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	return n
}

// Next waits for the next value of a channel, or for its end.
func Next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatal("nothing was heard")
		panic("unreachable")
	}
}

// Eventually waits until a condition holds.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Pipe is what a connection goes through. While it is locked nothing comes or goes, as for a process that
// is stopped by SIGSTOP; then everything does, in order.
type Pipe struct{ sync.RWMutex }

// Dial implements nats.CustomDialer.
func (p *Pipe) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &piped{Conn: conn, pipe: p}, err
}

type piped struct {
	net.Conn
	pipe *Pipe
}

func (p *piped) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.pipe.RLock()
	defer p.pipe.RUnlock()
	return n, err
}

func (p *piped) Write(b []byte) (int, error) {
	p.pipe.RLock()
	defer p.pipe.RUnlock()
	return p.Conn.Write(b)
}

// Process is a run that keeps keys: a connection of its own, and a follower of the cluster bucket.
type Process struct {
	Owner    registration.Owner
	NC       *nats.Conn
	JS       jetstream.JetStream
	Bucket   *kv.Bucket
	Follower *lease.Follower
	Pipe     Pipe
}

// Connect makes a process whose follower does not run yet.
func Connect(t *testing.T, url, name string) *Process {
	t.Helper()
	p := &Process{Owner: registration.Owner{Name: name, ID: nuid.Next(), Host: "h", PID: 1}}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.SetCustomDialer(&p.Pipe))
	if err != nil {
		t.Fatal(err)
	}
	p.NC = nc
	if p.JS, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	p.Bucket = OpenBucket(t, p.JS, kv.Config{Kind: kv.Cluster})
	if p.Follower, err = lease.NewFollower(p.JS, p.Bucket, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return p
}

// Follow runs the follower until the test ends, and calls before, which may be nil, before it stops then.
func (p *Process) Follow(t *testing.T, before func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { _ = p.Follower.Run(ctx) })
	t.Cleanup(func() {
		if before != nil {
			before()
		}
		cancel()
		following.Wait()
	})
}

// Ensure makes the bucket anew where it is gone.
func (p *Process) Ensure(ctx context.Context) error {
	_, err := p.Bucket.Ensure(ctx, kv.Config{Kind: kv.Cluster})
	return err
}

// OpenBucket opens a bucket, of a cluster too that is just electing its leaders: some requests to one are
// never answered, and have to be made again.
func OpenBucket(t testing.TB, js jetstream.JetStream, c kv.Config) *kv.Bucket {
	t.Helper()
	bucket, err := connect.Ask(t.Context(), func(ctx context.Context) (*kv.Bucket, error) { return kv.Open(ctx, js, c) })
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}
