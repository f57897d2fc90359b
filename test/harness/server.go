//go:build unix

package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Server is a nats-server process with JetStream. Its ports are its own for good, so that it can come back.
type Server struct {
	t           testing.TB
	program     string
	Name        string
	Dir         string
	port, route int
	routes      string // empty: not clustered
	flags       []string
	configs     string // the directory with its configuration, NAME.conf; empty: it has none
	*Run               // the run of now
}

// StartServers starts that many servers, routed to each other, and returns when JetStream answers on each.
// They get more flags as given.
func StartServers(t testing.TB, n int, flags ...string) []*Server {
	t.Helper()
	return StartConfiguredServers(t, n, "", flags...)
}

// StartConfiguredServers is StartServers where each server n1, n2, … has its file of configuration,
// NAME.conf, in a directory.
func StartConfiguredServers(t testing.TB, n int, configs string, flags ...string) []*Server {
	t.Helper()
	program := Program(t, "github.com/nats-io/nats-server/v2")
	nodes, routes := make([]*Server, n), make([]string, n)
	for i := range nodes {
		nodes[i] = &Server{t: t, program: program, Name: fmt.Sprintf("n%d", i+1), Dir: t.TempDir(), port: reserved(t), route: reserved(t), flags: flags, configs: configs}
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", nodes[i].route)
	}
	for _, node := range nodes {
		if n > 1 {
			node.routes = strings.Join(routes, ",")
		}
		node.Launch()
	}
	if !processAllAnswer(t, nodes) {
		t.Fatal("the nats-servers did not start")
	}
	return nodes
}

// reserved is a port that nobody else is given while the test runs.
func reserved(t testing.TB) int {
	t.Helper()
	port, err := natsnode.Reserve("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	return port.Number
}

// Launch starts the server, for the first time or again.
func (n *Server) Launch() {
	n.t.Helper()
	args := []string{"--name", n.Name, "--addr", "127.0.0.1", "--port", fmt.Sprint(n.port), "--jetstream", "--store_dir", n.Dir}
	if n.routes != "" {
		args = append(args, "--cluster_name", "subproxy", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", n.route), "--routes", n.routes)
	}
	if n.configs != "" {
		args = append(args, "--config", filepath.Join(n.configs, n.Name+".conf"))
	}
	n.Run = Start(n.t, "nats-server "+n.Name, n.program, append(args, n.flags...)...)
}

// URL is where clients connect, also while the server is down.
func (n *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.port) }

// processAllAnswer waits until JetStream answers on each server; false where one has ended instead.
func processAllAnswer(t testing.TB, nodes []*Server) bool {
	t.Helper()
	for _, node := range nodes {
		for deadline := time.Now().Add(Patience); !node.answers(); {
			if node.HasEnded() || time.Now().After(deadline) {
				return false
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return true
}

func (n *Server) answers() bool {
	nc, err := nats.Connect(n.URL())
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = js.AccountInfo(ctx)
	return err == nil
}
