package connect

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// handshakeTimeout is how long a server that has accepted a connection may take until it knows who
	// connects, where the round trip is short.
	handshakeTimeout = 2 * time.Second
	// handshakeRounds are round trips of a handshake: greeting, TLS, log-in, and as many again for what is
	// lost on the way.
	handshakeRounds = 8
	// handshakeLongest is the most that any handshake may take.
	handshakeLongest = 20 * time.Second
)

// dialer makes the connections to servers: the first one, with the time that it is given, and then each
// that is lost, by a search.
type dialer struct {
	patience time.Duration // for the first connection
	proxied  bool          // it is not used: the context has a proxy

	mu        sync.Mutex
	search    *search
	searching bool // the first connection was made
	timeout   time.Duration
	dials     int       // so far
	at        time.Time // a server accepted last
}

func newDialer(patience time.Duration) *dialer {
	return &dialer{patience: patience, search: newSearch(nil)}
}

// tried reports whether a server was tried; if not, what went wrong is of the configuration.
func (d *dialer) tried() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proxied || d.dials > 0
}

// waited reports whether the server took long to say something. One that asks somebody else who connects
// (auth callout) refuses when nobody has answered in time.
func (d *dialer) waited() bool {
	const long = time.Second
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && time.Since(d.at) > long+handshakeRounds*d.search.roundTrip
}

// found is told of the first connection.
func (d *dialer) found(configured []string, nc *nats.Conn) {
	var hosts []string
	for _, server := range configured {
		hosts = append(hosts, hostPort(server))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	trip := d.search.roundTrip
	d.search = newSearch(hosts)
	d.search.roundTrip = trip
	d.search.found(hostPort(nc.ConnectedUrl()))
}

func (d *dialer) reconnected(nc *nats.Conn) {
	server := hostPort(nc.ConnectedUrl())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.search.found(server)
}

func (d *dialer) refused() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.search.refused(time.Now(), rand.Float64())
}

// next implements nats.ReconnectToServerHandler. The connection is locked meanwhile.
func (d *dialer) next(pool []nats.Server, _ nats.ServerInfo) (*nats.Server, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	servers := make([]string, len(pool))
	at := map[string]int{}
	for i := range pool {
		servers[i] = pool[i].URL.Host
		at[servers[i]] = i
	}
	// Not all clients are to go to the same one.
	rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	server, wait, timeout := d.search.next(servers, time.Now(), rand.Float64())
	d.searching, d.timeout = true, timeout
	return &pool[at[server]], wait
}

// Dial implements nats.CustomDialer. A name may have several addresses: they share the time.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	timeout, searching := d.patience, d.searching
	if searching {
		timeout = d.timeout
	}
	d.dials++
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	addresses, err := resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	for i, one := range addresses {
		share := timeout / time.Duration(len(addresses))
		began := time.Now()
		var conn net.Conn
		if conn, err = (&net.Dialer{Timeout: share}).Dial(network, one); err == nil {
			return d.accepted(conn, time.Since(began), timeout), nil
		}
		if i == len(addresses)-1 {
			d.ended(err)
		}
	}
	return nil, err
}

func (d *dialer) accepted(conn net.Conn, roundTrip, timeout time.Duration) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.search.dialed(roundTrip)
	d.at = time.Now()
	return &greeted{Conn: conn, within: max(handshakeTimeout, timeout, handshakeRounds*roundTrip)}
}

func (d *dialer) ended(err error) {
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.search.timedOut()
	}
}

// resolve gives the addresses of a name, in any order.
func resolve(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if literal, _, _ := strings.Cut(host, "%"); net.ParseIP(literal) != nil {
		return []string{address}, nil
	}
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	for i := range hosts {
		hosts[i] = net.JoinHostPort(hosts[i], port)
	}
	return hosts, nil
}

// greeted is a connection whose handshake has a time of its own, by the round trip.
type greeted struct {
	net.Conn
	within time.Duration
}

// SetDeadline implements net.Conn. The client sets it for the handshake, and unsets it after.
func (g *greeted) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(g.within); t.After(latest) {
		t = latest
	}
	return g.Conn.SetDeadline(t)
}

// hostPort is how the client knows a server. It adds the port that a URL leaves out.
func hostPort(server string) string {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	if u.Port() != "" {
		return u.Host
	}
	port := map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	if port == "" {
		port = "4222"
	}
	return strings.TrimSuffix(u.Host, ":") + ":" + port
}
