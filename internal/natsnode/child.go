package natsnode

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
)

// ChildCommand is the hidden sub-command that StartProcess runs its own executable with. A program, or a TestMain, whose
// first argument it is calls RunChild with its standard input and output.
const ChildCommand = "nats-server-node"

// childConfig goes to the child as one line of JSON on its standard input, which then stays open. Each line after it is an access that
// the server is to take over.
type childConfig struct {
	Name        string   `json:"name"`
	StoreDir    string   `json:"store_dir"`
	Temporary   bool     `json:"temporary"` // nobody needs the store once the parent is gone
	ClusterName string   `json:"cluster_name,omitempty"`
	Routes      []string `json:"routes,omitempty"`
	Port        int      `json:"port"`
	ClusterPort int      `json:"cluster_port,omitempty"`
	access
}

// access is who may do what on a server; with the zero value everybody may do everything.
type access struct {
	Users      []*server.User `json:"users,omitempty"`
	NoAuthUser string         `json:"no_auth_user,omitempty"` // whom it takes a client for that does not say
}

// childReport is a line of JSON from the child: the first when the server accepts connections or has failed to start,
// then one at every change of its state.
type childReport struct {
	URL         string `json:"url,omitempty"`
	ClusterPort int    `json:"cluster_port,omitempty"`
	Error       string `json:"error,omitempty"`
	Reloads     int    `json:"reloads,omitempty"` // changes of access that were taken over, or failed with Error
	state
}

// RunChild runs a server until ctx ends, SIGTERM or SIGINT comes, or in is closed: a parent that is gone, however it
// went, leaves no child behind.
func RunChild(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	reports := json.NewEncoder(out)
	var c childConfig
	orders := json.NewDecoder(in)
	if err := orders.Decode(&c); err != nil {
		return fmt.Errorf("read the node's configuration: %w", err)
	}
	n, err := c.start()
	if err != nil {
		_ = reports.Encode(childReport{Error: err.Error()})
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
	report := childReport{URL: n.URL(), ClusterPort: c.ClusterPort, state: stateOf(n.Server())}
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

func (c *childConfig) start() (*Node, error) {
	routes := make([]*url.URL, len(c.Routes))
	for i, r := range c.Routes {
		var err error
		if routes[i], err = url.Parse(r); err != nil {
			return nil, fmt.Errorf("route of %s: %w", c.Name, err)
		}
	}
	return Start(Options{Name: c.Name, StoreDir: c.StoreDir, Port: c.Port, Configure: func(so *server.Options) {
		so.Users, so.NoAuthUser = c.Users, c.NoAuthUser
		if c.ClusterName != "" {
			joinCluster(so, c.ClusterName, c.ClusterPort, routes)
		}
	}})
}
