package natsnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"
)

const (
	clusterTimeout = time.Minute
	// A new cluster elects its first leader within 0.8 s of its start. If two candidates split that vote, which one
	// start in some twenty saw, the next is 4 to 9 s away; starting all over is faster.
	firstElection  = 1200 * time.Millisecond
	firstElections = 5
)

var errSize = errors.New("a cluster has at least one node")

// Cluster is a JetStream cluster in this process. Its methods can be called from any goroutine.
type Cluster struct {
	nodes  []*Node
	routes []*port
}

// StartCluster starts that many servers, routed to each other, and returns when they accept streams with that many
// replicas. The options are each node's: to a name its number is added, to a store directory its name, to a port its
// index. A new cluster takes about a quarter of a second, one that finds its stores again 4 to 9 s: NATS lets an
// election timeout pass there.
func StartCluster(size int, o Options) (*Cluster, error) {
	if size < 1 {
		return nil, errSize
	}
	if o.Host == "" {
		o.Host = loopback
	}
	if o.Name == "" {
		o.Name = "n"
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		c := &Cluster{}
		err := c.start(size, o)
		if err == nil && o.StoreDir == "" && attempt < firstElections && !c.elects(ctx) {
			c.Shutdown()
			continue
		}
		if err == nil {
			err = c.WaitReady(ctx)
		}
		if err != nil {
			c.Shutdown()
			return nil, err
		}
		return c, nil
	}
}

func (c *Cluster) start(size int, o Options) (err error) {
	if c.routes, err = reserveRoutes(size, o.Host); err != nil {
		return err
	}
	// A name of its own keeps out whoever else runs a cluster on this machine.
	name, routes := nuid.Next(), routeURLs(c.routes, o.Host)
	for i := range size {
		node := o
		node.Name = o.Name + strconv.Itoa(i+1)
		if o.StoreDir != "" {
			node.StoreDir = filepath.Join(o.StoreDir, node.Name)
		}
		if o.Port != 0 {
			node.Port = o.Port + i
		}
		node.Configure = func(so *server.Options) {
			if size > 1 {
				joinCluster(so, name, c.routes[i].number, routes)
			}
			if o.Configure != nil {
				o.Configure(so)
			}
		}
		n, err := Start(node)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	return nil
}

// elects reports whether the first election comes to a result.
func (c *Cluster) elects(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, firstElection)
	defer cancel()
	return wait(ctx, "a leader", func() bool {
		return len(c.nodes) == 1 || slices.ContainsFunc(c.nodes, func(n *Node) bool { return n.Server().JetStreamIsLeader() })
	}) == nil
}

// joinCluster makes the server one of a cluster. The routes are all nodes', its own too: it knows that for itself, and
// the number of routes is the number of servers that the meta group expects before its first election.
func joinCluster(so *server.Options, name string, port int, routes []*url.URL) {
	so.Cluster = server.ClusterOpts{Name: name, Host: so.Host, Port: port}
	so.Routes = routes
}

func reserveRoutes(size int, host string) ([]*port, error) {
	var ports []*port
	for range size {
		p, err := reserve(host)
		if err != nil {
			release(ports)
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func release(ports []*port) {
	for _, p := range ports {
		p.release()
	}
}

func routeURLs(ports []*port, host string) []*url.URL {
	routes := make([]*url.URL, len(ports))
	for i, p := range ports {
		routes[i] = &url.URL{Scheme: "nats", Host: net.JoinHostPort(host, strconv.Itoa(p.number))}
	}
	return routes
}

// WaitReady waits until the nodes that run have a meta leader, are current with it, and accept streams with as many
// replicas.
func (c *Cluster) WaitReady(ctx context.Context) error {
	return wait(ctx, "the NATS cluster", func() bool {
		var running []state
		for _, n := range c.nodes {
			if s := n.Server(); s.Running() {
				running = append(running, stateOf(s))
			}
		}
		return ready(running)
	})
}

// Nodes are the cluster's nodes, stopped ones too.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// URLs are all nodes' URLs, comma-separated.
func (c *Cluster) URLs() string {
	urls := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		urls[i] = n.URL()
	}
	return strings.Join(urls, ",")
}

// StreamLeader waits until a node that runs leads the stream, and is that node. No account means the default one, where
// clients without credentials are.
func (c *Cluster) StreamLeader(ctx context.Context, account, stream string) (*Node, error) {
	if account == "" {
		account = server.DEFAULT_GLOBAL_ACCOUNT
	}
	var leader *Node
	err := wait(ctx, fmt.Sprintf("a leader of stream %s", stream), func() bool {
		for _, n := range c.nodes {
			if s := n.Server(); s.Running() && s.JetStreamIsStreamLeader(account, stream) {
				leader = n
				return true
			}
		}
		return false
	})
	return leader, err
}

// Shutdown stops all nodes, gives their ports back and removes temporary stores. It can be called again.
func (c *Cluster) Shutdown() {
	var g errgroup.Group
	for _, n := range c.nodes {
		g.Go(func() error {
			n.Shutdown()
			return nil
		})
	}
	_ = g.Wait()
	release(c.routes)
}
