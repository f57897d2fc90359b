package feed_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/feed"
)

// A node that is to be killed is a process: this test binary, told so by the environment. What Shutdown
// stops hands its leadership over first, which a killed node does not.
const nodeEnv = "FEED_TEST_NODE"

func runNode(spec string) {
	field := strings.Split(spec, " ") // name, store directory, client port, own route port, route URLs
	opts := &server.Options{
		ServerName: field[0], Host: "127.0.0.1", Port: atoi(field[2]), JetStream: true, StoreDir: field[1],
		Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: atoi(field[3])}, NoSigs: true, NoLog: true,
	}
	for _, r := range field[4:] {
		route, err := url.Parse(r)
		if err != nil {
			panic(err)
		}
		opts.Routes = append(opts.Routes, route)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		panic(err)
	}
	s.Start()
	// Ends when the test does, even if that is killed itself: its end of the pipe closes.
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

func atoi(s string) (n int) {
	for _, d := range s {
		n = 10*n + int(d-'0')
	}
	return n
}

type node struct {
	name, url string
	cmd       *exec.Cmd
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

func runNodes(t testing.TB) []*node {
	t.Helper()
	ports := freePorts(t, 6)
	var routes []string
	for _, p := range ports[:3] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	nodes := make([]*node, 3)
	for i := range nodes {
		n := &node{name: fmt.Sprintf("n%d", i), url: fmt.Sprintf("nats://127.0.0.1:%d", ports[3+i])}
		n.cmd = exec.Command(os.Args[0])
		n.cmd.Env = append(os.Environ(), nodeEnv+"="+strings.Join(append([]string{
			n.name, t.TempDir(), fmt.Sprint(ports[3+i]), fmt.Sprint(ports[i])}, routes...), " "))
		if _, err := n.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := n.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.kill)
		nodes[i] = n
	}
	for _, n := range nodes {
		eventually(t, n.name, func() bool {
			c, err := net.Dial("tcp", strings.TrimPrefix(n.url, "nats://"))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return nodes
}

func connectNodes(t testing.TB, nodes ...*node) jetstream.JetStream {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.url)
	}
	return dial(t, strings.Join(urls, ","))
}

// longestPause returns the longest time between two of the moments.
func longestPause(at []time.Time) (longest time.Duration) {
	for i := 1; i < len(at); i++ {
		longest = max(longest, at[i].Sub(at[i-1]))
	}
	return longest
}

func TestNodeKilledWhilePublishingLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	for _, tc := range []struct {
		mode   string
		leader bool // is killed, or else a follower
	}{{feed.ModeRepublish, true}, {feed.ModeRepublish, false}, {feed.ModeOrdered, true}} {
		t.Run(fmt.Sprintf("%s leader %t", tc.mode, tc.leader), func(t *testing.T) {
			nodes := runNodes(t)
			cfg := eventsConfig()
			cfg.Replicas = 3
			if tc.mode == feed.ModeOrdered {
				cfg.RePublish = nil
			}
			stream := createStream(t, connectNodes(t, nodes...), cfg)
			info, err := stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(nodes, func(n *node) bool { return (n.name == info.Cluster.Leader) == tc.leader })
			victim, rest := nodes[i], slices.Delete(slices.Clone(nodes), i, i+1)
			// One feed reads through the node that is killed, the other through one that stays.
			through, throughSeen := run(t, connectNodes(t, append([]*node{victim}, rest...)...), feed.Config{StartSeq: 1})
			beside, besideSeen := run(t, connectNodes(t, rest...), feed.Config{StartSeq: 1})
			eventually(t, "level", func() bool { return throughSeen.level(0)() && besideSeen.level(0)() })

			const total, killAfter = 1000, 400
			pub := connectNodes(t, rest...)
			var acked []time.Time
			for i := range total {
				if i == killAfter {
					// While messages are on their way.
					for j := range 50 {
						m := nats.NewMsg("events.b")
						m.Data = fmt.Append(nil, j)
						if err := pub.Conn().PublishMsg(m); err != nil {
							t.Fatal(err)
						}
					}
					if err := pub.Conn().Flush(); err != nil {
						t.Fatal(err)
					}
					victim.kill()
				}
				id := fmt.Sprint(i)
				eventually(t, "publish", func() bool {
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer cancel()
					_, err := pub.Publish(ctx, "events.a", []byte(id), jetstream.WithMsgID(id))
					return err == nil
				})
				acked = append(acked, time.Now())
			}
			end, err := stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range []*recorder{throughSeen, besideSeen} {
				eventually(t, "all messages", func() bool { return rec.count() == int(end.State.Msgs) })
				next := 0
				for _, m := range rec.messages() {
					if m.Subject == "events.a" {
						if string(m.Data) != fmt.Sprint(next) {
							t.Fatalf("got %s for %d", m.Data, next)
						}
						next++
					}
				}
				if next != total {
					t.Errorf("%d of %d", next, total)
				}
			}
			t.Logf("publisher stood %s; feed through the killed node %s %+v; beside %s %+v", longestPause(acked),
				longestPause(throughSeen.times()), through.Stats(), longestPause(besideSeen.times()), beside.Stats())
		})
	}
}
