package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/exesdb/subproxy/internal/natsnode"
)

// ServerCommand is the hidden sub-command that a Server's program is run with. A program, or a TestMain,
// whose first argument it is calls RunServer with its standard input and output.
const ServerCommand = "nats-server-node"

// serverConfig goes to the child as one line of JSON on its standard input, which then stays open. Each
// line after it is an access that the server is to take over.
type serverConfig struct {
	Name      string         `json:"name"`
	StoreDir  string         `json:"store_dir"`
	Temporary bool           `json:"temporary"` // nobody needs the store once the parent is gone
	Port      int            `json:"port"`
	Alone     bool           `json:"alone,omitempty"`
	Cluster   *clusterConfig `json:"cluster,omitempty"`
	access
}

// clusterConfig is what a server of a cluster knows about it.
type clusterConfig struct {
	Name   string   `json:"name"`
	Port   int      `json:"port"`   // of its own route
	Routes []string `json:"routes"` // of all servers, its own too
}

// access is who may do what on a server; with the zero value everybody may do everything.
type access struct {
	Users      []*server.User `json:"users,omitempty"`
	NoAuthUser string         `json:"no_auth_user,omitempty"` // whom it takes a client for that does not say
}

// serverReport is a line of JSON from the child: the first when the server accepts connections or has
// failed to start, then one at every change of its state.
type serverReport struct {
	Error   string `json:"error,omitempty"`
	Reloads int    `json:"reloads,omitempty"` // changes of access that were taken over, or failed with Error
	state
}

// RunServer runs a server until ctx ends, SIGTERM or SIGINT comes, or in is closed: a parent that is gone,
// however it went, leaves no child behind.
func RunServer(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	reports := json.NewEncoder(out)
	var c serverConfig
	orders := json.NewDecoder(in)
	if err := orders.Decode(&c); err != nil {
		return fmt.Errorf("read the server's configuration: %w", err)
	}
	n, err := natsnode.Start(natsnode.Options{Name: c.Name, StoreDir: c.StoreDir, Port: c.Port, Configure: c.configure})
	if err != nil {
		_ = reports.Encode(serverReport{Error: err.Error()})
		return err
	}
	defer n.Shutdown()

	changes := make(chan access)
	orphaned := make(chan struct{}) // closed by the reader, which ends with in or with the process
	go func() {
		defer close(orphaned)
		for {
			var a access
			if orders.Decode(&a) != nil {
				return
			}
			select {
			case changes <- a:
			case <-ctx.Done():
				return
			}
		}
	}()
	report := serverReport{state: stateOf(n.Server())}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for err := reports.Encode(report); ; {
		if err != nil {
			return fmt.Errorf("report to the parent: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-orphaned:
			n.Shutdown()
			if c.Temporary {
				return os.RemoveAll(c.StoreDir)
			}
			return nil
		case c.access = <-changes:
			report.Reloads, report.Error = report.Reloads+1, ""
			if err := n.Reload(); err != nil {
				report.Error = err.Error()
			}
			err = reports.Encode(report)
		case <-tick.C:
			if now := stateOf(n.Server()); !now.equal(report.state) {
				report.state = now
				err = reports.Encode(report)
			}
		}
	}
}

func (c *serverConfig) configure(so *server.Options) {
	so.Users, so.NoAuthUser = c.Users, c.NoAuthUser
	if c.Cluster == nil {
		return
	}
	c.Cluster.join(so)
	so.Cluster.NoAdvertise = c.Alone
}

// join makes a server one of the cluster. The routes are all servers', its own too: it knows that for
// itself, and the number of routes is the number of servers that the meta group expects before its first
// election.
func (c *clusterConfig) join(so *server.Options) {
	so.Cluster = server.ClusterOpts{Name: c.Name, Host: so.Host, Port: c.Port}
	so.Routes = make([]*url.URL, len(c.Routes))
	for i, host := range c.Routes {
		so.Routes[i] = &url.URL{Scheme: "nats", Host: host}
	}
}
