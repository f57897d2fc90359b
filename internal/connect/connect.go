package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// DefaultURL is connected to where nothing else is configured.
const DefaultURL = nats.DefaultURL

// Options say where to connect, and as whom. The zero value is DefaultURL, as nobody.
type Options struct {
	URL         string // or several, comma-separated; goes before the context's
	Context     string // of the nats CLI, or an absolute file name
	Credentials string // file; goes before the context's

	User, Password    string // go before the context's
	Token             string // goes before the context's
	NKey              string // file of a seed; goes before the context's
	UserJWT, UserSeed string // files; go before the context's

	// Domain and APIPrefix say which JetStream is meant; one of them at most. Either goes before the context's.
	Domain, APIPrefix string
	InboxPrefix       string // goes before the context's

	TLSCA, TLSCert, TLSKey string // files; go before the context's
	TLSHandshakeFirst      bool   // before the server's greeting

	// UseSelectedContext takes the nats CLI's selected context, if there is one, where neither URL nor
	// Context is given. It is for commands that a person runs; what a service connects to must not depend
	// on who tried what in a shell.
	UseSelectedContext bool

	Name string // of the connection, as the server shows it

	// Called one at a time, from the connection's own goroutine; they must not wait for the connection.
	OnReconnect, OnDisconnect func()
	OnError                   func(*nats.Conn, *nats.Subscription, error) // with what Explain makes of the error

	Logger *slog.Logger // takes errors where OnError is nil
}

const (
	// A server that hangs without closing its connections (SIGSTOP, a machine that lost its network) is
	// given up when a third ping is due while two are unanswered: after 10 to 15 s.
	pingInterval = 5 * time.Second
	pingsMissed  = 2
	// syncQueue is how many messages a synchronous subscription queues. Each batch of records that is read
	// has one of its own, of at most 1,001 messages, and at the client's default of 65,536 (512 KiB) half
	// of all that an instance allocates would be these queues. A feed whose handler is further behind than
	// that reads from the stream what it missed.
	syncQueue = 8192
)

type connection struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	err error
}

// Connect connects, and returns when it is connected, has failed, or ctx has ended. The JetStream handle
// has the context's domain or API prefix. Errors of connecting are *Error.
func Connect(ctx context.Context, o Options) (*nats.Conn, jetstream.JetStream, error) {
	return connect(ctx, o, dialTimeout)
}

// connect is Connect with the time that each server has to accept the connection.
func connect(ctx context.Context, o Options, patience time.Duration) (*nats.Conn, jetstream.JetStream, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, &Error{Target: o.target(nil), Problem: err.Error(), Err: err}
	}
	dialed := make(chan connection, 1)
	// nats.Connect takes no context. An attempt that nobody waits for any more ends by itself: patience
	// bounds it.
	go func() { dialed <- dial(o, patience) }()
	select {
	case c := <-dialed:
		return c.nc, c.js, c.err
	case <-ctx.Done():
		go func() {
			if c := <-dialed; c.nc != nil {
				c.nc.Close()
			}
		}()
		return nil, nil, &Error{Target: o.target(nil), Problem: ctx.Err().Error(), Err: ctx.Err()}
	}
}

// Await is Connect where the servers may not be there yet: it looks for them until ctx ends, and logs once
// a second why there is no connection. It gives up at once if waiting mends it with none of the servers.
func Await(ctx context.Context, o Options) (*nats.Conn, jetstream.JetStream, error) {
	const again = time.Second
	patience := dialTimeout
	var last error
	for {
		began := time.Now()
		nc, js, err := connect(ctx, o, patience)
		var failed *Error
		switch {
		case err == nil:
			return nc, js, nil
		case ctx.Err() != nil && last != nil:
			return nil, nil, last // which says more
		case errors.As(err, &failed) && failed.Hopeless:
			return nil, nil, err
		}
		last = err
		if o.Logger != nil {
			o.Logger.Warn("NATS is not reachable yet", "error", err)
		}
		if errors.Is(err, nats.ErrTimeout) {
			patience = min(2*patience, dialLongest)
		}
		if backoff.Sleep(ctx, again-time.Since(began)) != nil {
			return nil, nil, err
		}
	}
}

// dial tries each server. Where none takes the connection, the error says why of each.
func dial(o Options, patience time.Duration) connection {
	servers, c := dialServers(o, nil, patience)
	if c.nc != nil || len(servers) < 2 {
		return c
	}
	// The client tells only how the last one failed, and takes them in any order.
	failed := make([]error, len(servers))
	var all sync.WaitGroup
	for i := range servers {
		all.Go(func() {
			_, one := dialServers(o, servers[i:i+1], patience)
			if failed[i] = one.err; one.nc != nil {
				one.nc.Close()
			}
		})
	}
	all.Wait()
	if there := slices.Index(failed, nil); there >= 0 { // since a moment ago
		_, c = dialServers(o, slices.Concat(servers[there:], servers[:there]), patience)
		return c
	}
	return connection{err: joinErrors(o.target(servers), failed)}
}

// dialServers tries these servers, or those of the options, until one takes the connection.
func dialServers(o Options, only []string, patience time.Duration) (servers []string, c connection) {
	d := newDialer(patience)
	opts := append([]nats.Option{func(no *nats.Options) error {
		if o.Context != "" && o.URL != "" {
			no.Servers = splitURLs(o.URL)
		}
		if only != nil {
			no.Servers, no.NoRandomize = only, true
		}
		servers = no.Servers
		if d.proxied = no.CustomDialer != nil; !d.proxied {
			no.CustomDialer, no.SkipHostLookup = d, true
		}
		return nil
	}}, o.natsOptions(d)...)

	var settings natscontext.Settings
	if o.usesContext() {
		c.nc, settings, c.err = natscontext.Connect(o.Context, opts...)
	} else {
		c.nc, c.err = nats.Connect(o.url(), opts...)
	}
	if c.err != nil {
		return servers, connection{err: o.explain(servers, c.err, d)}
	}
	d.found(servers, c.nc)
	if o.Domain != "" || o.APIPrefix != "" {
		settings.JSDomain, settings.JSAPIPrefix = o.Domain, o.APIPrefix
	}
	if c.js, c.err = JetStream(c.nc, settings.JSDomain, settings.JSAPIPrefix); c.err != nil {
		c.nc.Close()
		return servers, connection{err: o.explain(servers, c.err, d)}
	}
	return servers, c
}

// JetStream is that of a domain, or the one that answers below an API prefix; of neither, the server's own.
func JetStream(nc *nats.Conn, domain, prefix string) (jetstream.JetStream, error) {
	switch {
	case prefix != "":
		return jetstream.NewWithAPIPrefix(nc, prefix)
	case domain != "":
		return jetstream.NewWithDomain(nc, domain)
	default:
		return jetstream.New(nc)
	}
}

func (o *Options) usesContext() bool { return o.Context != "" || o.URL == "" && o.UseSelectedContext }

func (o *Options) url() string {
	if o.URL == "" {
		return DefaultURL
	}
	return o.URL
}

func splitURLs(urls string) []string {
	return strings.FieldsFunc(urls, func(r rune) bool { return r == ',' || r == ' ' })
}

func (o *Options) natsOptions(d *dialer) []nats.Option {
	r := &reporter{o: *o, dialer: d}
	opts := []nats.Option{
		nats.Name(o.Name), nats.Timeout(handshakeLongest),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsMissed),
		nats.MaxReconnects(-1), nats.ReconnectToServer(d.next),
		// Without this, a connection is closed for good when a server refuses it twice: credentials that
		// expired are renewed in their file, which is read again at every attempt, and a server may be up
		// before its accounts are.
		nats.IgnoreAuthErrorAbort(),
		// What is published while there is no connection must fail, and not be sent late: a status that was
		// true seconds ago, or a registration that was overtaken since, is worse than none.
		nats.ReconnectBufSize(-1),
		// A write that fails loses what was buffered for it. On the connection that is made then, nobody
		// believes that it was sent.
		nats.ReconnectOnFlusherError(),
		nats.SyncQueueLen(syncQueue),
		nats.ReconnectHandler(r.reconnected), nats.DisconnectErrHandler(r.disconnected), nats.ErrorHandler(r.failed),
	}
	if o.namesUser() {
		opts = append(opts, nobody)
	}
	if o.Credentials != "" {
		opts = append(opts, nats.UserCredentials(o.Credentials))
	}
	opts = append(opts, o.user()...)
	if o.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	if o.TLSCA != "" {
		opts = append(opts, nats.RootCAs(o.TLSCA))
	}
	if o.TLSCert != "" || o.TLSKey != "" {
		opts = append(opts, nats.ClientCert(o.TLSCert, o.TLSKey))
	}
	if o.TLSHandshakeFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts
}

// target says where to, without passwords and tokens.
func (o *Options) target(servers []string) string {
	var names []string
	for _, s := range servers {
		if s != "" {
			names = append(names, redact(s))
		}
	}
	if len(names) == 0 && !o.usesContext() {
		for _, s := range splitURLs(o.url()) {
			names = append(names, redact(s))
		}
	}
	where := strings.Join(names, ",")
	switch {
	case o.Context != "" && where != "":
		return fmt.Sprintf("%s (nats context %s)", where, o.Context)
	case o.Context != "":
		return "nats context " + o.Context
	case o.usesContext() && where != "":
		return where + " (the selected nats context)"
	case where == "":
		return DefaultURL
	default:
		return where
	}
}
