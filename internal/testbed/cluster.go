package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/internal/natsnode"
)

const (
	// A new cluster elects its first leader within 0.8 s of its start. If two candidates split that vote,
	// which one start in some twenty saw, the next is 4 to 9 s away; starting all over is faster.
	firstElection  = 1200 * time.Millisecond
	firstElections = 5
	clusterTimeout = time.Minute
)

var errSize = errors.New("a cluster has at least one server")

// member is a server of a cluster: a natsnode.Node in this process, or a Server in one of its own.
type member interface {
	Name() string
	URL() string
	Shutdown()
}

// Cluster is a JetStream cluster, of one server or several. Its methods can be called from any goroutine.
type Cluster[M member] struct {
	Servers []M // stopped ones too

	state func(M) (s state, running bool)
	ports []*natsnode.Port // of the routes
}

// StartNodes starts that many servers in this process, routed to each other, and returns when they accept
// streams with that many replicas. The options are each node's: to a name its number is added, to a store
// directory its name, to a port its index. A new cluster takes about a quarter of a second, one that finds
// its stores again 4 to 9 s: NATS lets an election timeout pass there.
func StartNodes(ctx context.Context, size int, o natsnode.Options) (*Cluster[*natsnode.Node], error) {
	return startCluster(ctx, size, o.StoreDir == "", nodeState, func(i int, c *clusterConfig) (*natsnode.Node, error) {
		each := o
		number(i, &each.Name, &each.StoreDir, &each.Port)
		each.Configure = func(so *server.Options) {
			if c != nil {
				c.join(so)
			}
			if o.Configure != nil {
				o.Configure(so)
			}
		}
		return natsnode.Start(each)
	})
}

func nodeState(n *natsnode.Node) (state, bool) {
	s := n.Server()
	if !s.Running() {
		return state{}, false
	}
	return stateOf(s), true
}

// StartServers starts that many servers as child processes, as StartNodes does in this one.
func StartServers(ctx context.Context, size int, o ServerOptions) (*Cluster[*Server], error) {
	return startCluster(ctx, size, o.StoreDir == "", (*Server).state, func(i int, c *clusterConfig) (*Server, error) {
		each := o
		number(i, &each.Name, &each.StoreDir, &each.Port)
		return startServer(ctx, each, c)
	})
}

// number makes the options of a cluster those of its server i.
func number(i int, name, storeDir *string, port *int) {
	if *name == "" {
		*name = "n"
	}
	*name += strconv.Itoa(i + 1)
	if *storeDir != "" {
		*storeDir = filepath.Join(*storeDir, *name)
	}
	if *port != 0 {
		*port += i
	}
}

func startCluster[M member](ctx context.Context, size int, isNew bool, stateOf func(M) (state, bool), start func(i int, c *clusterConfig) (M, error)) (*Cluster[M], error) {
	if size < 1 {
		return nil, errSize
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		c := &Cluster[M]{state: stateOf}
		err := c.start(size, start)
		if err == nil && isNew && attempt < firstElections && !c.elects(ctx) {
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

// start starts the servers. A single one has no cluster.
func (c *Cluster[M]) start(size int, start func(i int, cluster *clusterConfig) (M, error)) error {
	// A name of its own keeps out whoever else runs a cluster on this machine.
	name, routes := nuid.Next(), make([]string, size)
	for i := range routes {
		port, err := natsnode.Reserve(loopback)
		if err != nil {
			return err
		}
		c.ports, routes[i] = append(c.ports, port), net.JoinHostPort(loopback, strconv.Itoa(port.Number))
	}
	started, errs := make([]M, size), make([]error, size)
	var all errgroup.Group
	for i := range size {
		all.Go(func() error {
			var cluster *clusterConfig
			if size > 1 {
				cluster = &clusterConfig{Name: name, Port: c.ports[i].Number, Routes: routes}
			}
			started[i], errs[i] = start(i, cluster)
			return nil
		})
	}
	_ = all.Wait()
	for i, s := range started {
		if errs[i] == nil {
			c.Servers = append(c.Servers, s)
		}
	}
	return errors.Join(errs...)
}

// running are the states of the servers that run.
func (c *Cluster[M]) running() (states []state) {
	for _, m := range c.Servers {
		if s, running := c.state(m); running {
			states = append(states, s)
		}
	}
	return states
}

// elects reports whether the first election comes to a result.
func (c *Cluster[M]) elects(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, firstElection)
	defer cancel()
	return Until(ctx, func() bool {
		for _, s := range c.running() {
			if s.Leader {
				return true
			}
		}
		return len(c.Servers) == 1
	}) == nil
}

// WaitReady waits until the servers that run have a meta leader, are current with it, and accept streams
// with as many replicas. What a paused process said last counts.
func (c *Cluster[M]) WaitReady(ctx context.Context) error {
	if err := Until(ctx, func() bool { return ready(c.running()) }); err != nil {
		return fmt.Errorf("wait for the NATS cluster: %w", err)
	}
	return nil
}

// URLs are all servers' URLs, comma-separated.
func (c *Cluster[M]) URLs() string {
	urls := make([]string, len(c.Servers))
	for i, m := range c.Servers {
		urls[i] = m.URL()
	}
	return strings.Join(urls, ",")
}

// StreamLeader asks JetStream until a server that runs leads the stream, and is that server.
func (c *Cluster[M]) StreamLeader(ctx context.Context, js jetstream.JetStream, stream string) (leader M, err error) {
	const timeout = time.Second // where the leader is gone nobody answers until there is another
	var last error
	found := false
	err = Until(ctx, func() bool {
		asking, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		var s jetstream.Stream
		if s, last = js.Stream(asking, stream); last != nil {
			return errors.Is(last, jetstream.ErrStreamNotFound)
		}
		info := s.CachedInfo().Cluster
		for _, m := range c.Servers {
			if _, running := c.state(m); running && (len(c.Servers) == 1 || info != nil && m.Name() == info.Leader) {
				leader, found = m, true
			}
		}
		return found
	})
	switch {
	case found:
		return leader, nil
	case err == nil:
		err = last
	}
	return leader, fmt.Errorf("find the leader of stream %s: %w", stream, err)
}

// Shutdown ends all servers, gives their ports back and removes temporary stores. It can be called again.
func (c *Cluster[M]) Shutdown() {
	var all errgroup.Group
	for _, m := range c.Servers {
		all.Go(func() error {
			m.Shutdown()
			return nil
		})
	}
	_ = all.Wait()
	for _, port := range c.ports {
		port.Release()
	}
}
