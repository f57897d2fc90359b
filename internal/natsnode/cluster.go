package natsnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"
)

// Cluster is a JetStream cluster in this process.
type Cluster struct {
	nodes []*Node
}

// StartCluster starts that many servers, routed to each other, and returns when they agree on a meta leader and each is
// current. The options are each node's; its name gets a number.
func StartCluster(size int, o Options) (*Cluster, error) {
	if o.StoreDir != "" {
		return nil, errors.New("a cluster's nodes have temporary stores")
	}
	c := &Cluster{}
	var seed *url.URL
	for i := range size {
		node := o
		node.Name = fmt.Sprintf("%sn%d", o.Name, i+1)
		node.Configure = func(so *server.Options) {
			so.Cluster = server.ClusterOpts{Name: "subproxy", Host: loopback, Port: server.RANDOM_PORT}
			if seed != nil {
				so.Routes = []*url.URL{seed}
			}
			if o.Configure != nil {
				o.Configure(so)
			}
		}
		n, err := Start(node)
		if err != nil {
			c.Shutdown()
			return nil, err
		}
		c.nodes = append(c.nodes, n)
		if seed == nil {
			seed = &url.URL{Scheme: "nats", Host: n.Server().ClusterAddr().String()}
		}
	}
	// The first one knew of nobody when it started; after a restart it has to find the others by itself.
	c.nodes[0].options.Routes = c.routes()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		c.Shutdown()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) routes() []*url.URL {
	var routes []*url.URL
	for _, n := range c.nodes[1:] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: n.Server().ClusterAddr().String()})
	}
	return routes
}

// WaitReady waits until the running nodes have a meta leader and are current with it.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for !c.ready() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the NATS cluster is not ready: %w", ctx.Err())
		}
	}
	return nil
}

func (c *Cluster) ready() bool {
	leaders, running := 0, 0
	for _, n := range c.nodes {
		s := n.Server()
		if !s.Running() {
			continue
		}
		running++
		if s.JetStreamIsLeader() {
			leaders++
		}
		if !s.JetStreamIsCurrent() || len(s.JetStreamClusterPeers()) > 0 && len(s.JetStreamClusterPeers()) < running {
			return false
		}
	}
	return leaders == 1
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

// StreamLeader is the node that leads the stream, in the default account; nil while there is none.
func (c *Cluster) StreamLeader(stream string) *Node {
	for _, n := range c.nodes {
		if s := n.Server(); s.Running() && s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return n
		}
	}
	return nil
}

// Shutdown stops all nodes and removes their stores.
func (c *Cluster) Shutdown() {
	var g errgroup.Group
	for _, n := range c.nodes {
		g.Go(func() error {
			n.Shutdown()
			return nil
		})
	}
	_ = g.Wait()
}

func portOf(addr net.Addr) int {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}
