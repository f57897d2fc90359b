package feed_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/pkg/feed"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(nodeEnv); spec != "" {
		runNode(spec)
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

const patience = 30 * time.Second

// runServer starts a server; dir and port tell where, so that it can be started again as the same one.
func runServer(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	return startServer(t, &server.Options{
		ServerName: "single", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
}

func startServer(t testing.TB, opts *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stop(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("server not ready")
	}
	return s
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func runCluster(t testing.TB) []*server.Server {
	t.Helper()
	ports, routes := freePorts(t, 3), make([]*url.URL, 3)
	for i, port := range ports {
		routes[i] = &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	}
	servers := make([]*server.Server, 3)
	for i := range servers {
		servers[i] = startServer(t, &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]}, Routes: routes, NoSigs: true, NoLog: true,
		})
	}
	eventually(t, "meta leader", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return s.JetStreamIsCurrent() && len(s.JetStreamClusterPeers()) == 3
			}
		}
		return false
	})
	return servers
}

func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

func connect(t testing.TB, servers ...*server.Server) jetstream.JetStream {
	t.Helper()
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = s.ClientURL()
	}
	return dial(t, strings.Join(urls, ","))
}

func dial(t testing.TB, urls string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(urls, append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.DontRandomize(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// eventsConfig is a stream that republishes.
func eventsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "EVENTS", Subjects: []string{"events.>"}, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: ">", Destination: "copy.>"},
	}
}

func createStream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	var stream jetstream.Stream
	eventually(t, "stream "+cfg.Name, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		stream, err = js.CreateStream(ctx, cfg)
		return err == nil
	})
	return stream
}

func publish(t testing.TB, js jetstream.JetStream, subject, data string) uint64 {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// forge sends what a stream's republish would send.
func forge(t testing.TB, js jetstream.JetStream, seq uint64) {
	t.Helper()
	m := nats.NewMsg("copy.events.forged")
	m.Header["Nats-Stream"] = []string{"EVENTS"}
	m.Header["Nats-Subject"] = []string{"events.forged"}
	m.Header["Nats-Sequence"] = []string{strconv.FormatUint(seq, 10)}
	m.Header["Nats-Time-Stamp"] = []string{time.Now().UTC().Format(time.RFC3339Nano)}
	m.Header["Nats-Last-Sequence"] = []string{"0"}
	if err := js.Conn().PublishMsg(m); err != nil {
		t.Fatal(err)
	}
}

// run follows a stream until the test ends.
func run(t testing.TB, js jetstream.JetStream, cfg feed.Config) (*feed.Feed, *recorder) {
	t.Helper()
	rec, _ := cfg.Handler.(*recorder)
	if rec == nil {
		rec = &recorder{}
		cfg.Handler = rec
	}
	if cfg.Stream == "" {
		cfg.Stream = "EVENTS"
	}
	f := start(t, js, cfg)
	t.Cleanup(func() {
		rec.check(t)
		if t.Failed() {
			t.Logf("%+v", f.Stats())
		}
	})
	return f, rec
}

// start runs a feed until the test ends.
func start(t testing.TB, js jetstream.JetStream, cfg feed.Config) *feed.Feed {
	t.Helper()
	f, err := feed.New(js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}
