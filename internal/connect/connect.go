package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// DefaultURL is connected to where nothing else is configured.
const DefaultURL = nats.DefaultURL

// Options say where to connect, and as whom. The zero value is DefaultURL, as nobody.
type Options struct {
	URL         string // or several, comma-separated; goes before the context's
	Context     string // of the nats CLI, or an absolute file name
	Credentials string // file; goes before the context's

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
	// A server that came back is found within 200 ms, plus the time to connect; one that stays away costs
	// five to ten refused connections a second. The jitter keeps many instances from coming back in the
	// same instant.
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	// A server that hangs without closing its connections (SIGSTOP, a machine that lost its network) is
	// given up when a third ping is due while two are unanswered: after 10 to 15 s.
	pingInterval = 5 * time.Second
	pingsMissed  = 2
	// connectTimeout is for each server of the list.
	connectTimeout = 2 * time.Second
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
	if err := ctx.Err(); err != nil {
		return nil, nil, &Error{Target: o.target(nil), Problem: err.Error(), Err: err}
	}
	dialed := make(chan connection, 1)
	// nats.Connect takes no context. An attempt that nobody waits for any more ends by itself:
	// connectTimeout bounds it.
	go func() { dialed <- dial(o) }()
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

func dial(o Options) connection {
	var servers []string
	opts := append([]nats.Option{func(no *nats.Options) error {
		if o.Context != "" && o.URL != "" {
			no.Servers = splitURLs(o.URL)
		}
		servers = no.Servers
		return nil
	}}, o.natsOptions()...)

	var c connection
	var settings natscontext.Settings
	if o.usesContext() {
		c.nc, settings, c.err = natscontext.Connect(o.Context, opts...)
	} else {
		c.nc, c.err = nats.Connect(o.url(), opts...)
	}
	if c.err != nil {
		return connection{err: o.explain(servers, c.err)}
	}
	if c.js, c.err = jetStream(c.nc, settings); c.err != nil {
		c.nc.Close()
		return connection{err: o.explain(servers, c.err)}
	}
	return c
}

func jetStream(nc *nats.Conn, s natscontext.Settings) (jetstream.JetStream, error) {
	switch {
	case s.JSAPIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, s.JSAPIPrefix)
	case s.JSDomain != "":
		return jetstream.NewWithDomain(nc, s.JSDomain)
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

func (o *Options) natsOptions() []nats.Option {
	r := &reporter{o: *o}
	opts := []nats.Option{
		nats.Name(o.Name), nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsMissed),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
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
	if o.Credentials != "" {
		opts = append(opts, nats.UserCredentials(o.Credentials))
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

// reporter turns the connection's callbacks into those of Options.
type reporter struct {
	o Options
	// refused is set when an outage's first refusal was reported. The others, five to ten a second, say the
	// same.
	refused atomic.Bool
}

func (r *reporter) reconnected(*nats.Conn) {
	r.refused.Store(false)
	if r.o.OnReconnect != nil {
		r.o.OnReconnect()
	}
}

func (r *reporter) disconnected(nc *nats.Conn, _ error) {
	if r.o.OnDisconnect != nil && !nc.IsClosed() {
		r.o.OnDisconnect()
	}
}

func (r *reporter) failed(nc *nats.Conn, sub *nats.Subscription, err error) {
	if isRefusal(err) {
		if r.refused.CompareAndSwap(false, true) {
			r.report(nc, sub, r.o.explain([]string{nc.ConnectedUrl()}, err))
		}
		return
	}
	r.report(nc, sub, Explain(err))
}

func (r *reporter) report(nc *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case r.o.OnError != nil:
		r.o.OnError(nc, sub, err)
	case r.o.Logger != nil:
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		r.o.Logger.Warn("NATS reported an error", "subject", subject, "error", err)
	}
}

func isRefusal(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
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
