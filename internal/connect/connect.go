// Package connect is the one place where the service and the client commands connect to NATS: which options a
// connection always has, and what an error means for whoever has to mend it.
package connect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// DefaultURL is connected to where nothing else is configured.
const DefaultURL = nats.DefaultURL

// Options say where to connect, and as whom. Context and URL exclude each other; with neither, DefaultURL.
type Options struct {
	URL         string
	Context     string // of the nats CLI
	Credentials string // file

	TLSCA, TLSCert, TLSKey string // files
	TLSHandshakeFirst      bool

	Name   string // of the connection, as the server shows it
	Logger *slog.Logger
	// UseSelectedContext takes the nats CLI's selected context where neither URL nor Context is given.
	UseSelectedContext bool

	// Called from the connection's goroutines.
	OnReconnect, OnDisconnect func()
	OnError                   func(*nats.Conn, *nats.Subscription, error) // matches ErrPermission where it is that
}

// ErrPermission is matched by the errors of an operation that the server does not permit.
var ErrPermission = errors.New("not permitted")

// A lost connection is looked for again at least four times a second: a restarted server is found in well under 250 ms.
// A server that hangs without closing its connections is given up after two unanswered pings, some 10 s.
const (
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	pingInterval    = 5 * time.Second
	pingsMissed     = 2
	connectTimeout  = 2 * time.Second
)

// Connect connects, and returns when it is connected, has failed, or ctx has ended. The error names the setting to
// change.
func Connect(ctx context.Context, o Options) (*nats.Conn, jetstream.JetStream, error) {
	type result struct {
		nc  *nats.Conn
		js  jetstream.JetStream
		err error
	}
	done := make(chan result, 1)
	go func() { // nats.Connect takes no context
		nc, js, err := dial(o)
		done <- result{nc, js, err}
	}()
	select {
	case r := <-done:
		return r.nc, r.js, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, nil, fmt.Errorf("connect to %s: %w", o.target(), ctx.Err())
	}
}

func dial(o Options) (*nats.Conn, jetstream.JetStream, error) {
	if o.Context != "" || o.URL == "" && o.UseSelectedContext {
		nc, settings, err := natscontext.Connect(o.Context, o.options()...)
		if err != nil {
			return nil, nil, explainConnect(o, err)
		}
		js, err := withContext(nc, settings)
		return nc, js, err
	}
	nc, err := nats.Connect(o.target(), o.options()...)
	if err != nil {
		return nil, nil, explainConnect(o, err)
	}
	js, err := jetstream.New(nc)
	return nc, js, err
}

func withContext(nc *nats.Conn, s natscontext.Settings) (jetstream.JetStream, error) {
	switch {
	case s.JSAPIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, s.JSAPIPrefix)
	case s.JSDomain != "":
		return jetstream.NewWithDomain(nc, s.JSDomain)
	default:
		return jetstream.New(nc)
	}
}

func (o *Options) target() string {
	switch {
	case o.Context != "":
		return "context " + o.Context
	case o.URL != "":
		return o.URL
	default:
		return DefaultURL
	}
}

func (o *Options) options() []nats.Option {
	opts := []nats.Option{
		nats.Name(o.Name), nats.Timeout(connectTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsMissed),
		// What is published while there is no connection must fail, and not be sent late: a status that was true
		// seconds ago, or a registration that was overtaken, is worse than none.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
			if o.OnError != nil {
				o.OnError(nc, sub, Explain(err))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { call(o.OnReconnect) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) {
			if !nc.IsClosed() {
				call(o.OnDisconnect)
			}
		}),
	}
	if o.Credentials != "" {
		opts = append(opts, nats.UserCredentials(o.Credentials))
	}
	if o.TLSCA != "" {
		opts = append(opts, nats.RootCAs(o.TLSCA))
	}
	if o.TLSCert != "" {
		opts = append(opts, nats.ClientCert(o.TLSCert, o.TLSKey))
	}
	if o.TLSHandshakeFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts
}

func call(f func()) {
	if f != nil {
		f()
	}
}

func explainConnect(o Options, err error) error {
	hint := "check nats.url (--nats)"
	switch text := err.Error(); {
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout):
		hint = "is a nats-server running there? Set nats.url (--nats)"
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		hint = "set nats.credentials (--creds) or nats.context (--context)"
	case errors.Is(err, fs.ErrNotExist) && o.Credentials != "":
		hint = "check nats.credentials (--creds) and nats.tls"
	case matchTLS.MatchString(text):
		hint = "check nats.tls.ca (--tlsca), nats.tls.cert (--tlscert) and nats.tls.key (--tlskey)"
	case o.Context != "":
		hint = "check nats.context (--context); `nats context ls` lists them"
	}
	return fmt.Errorf("connect to %s: %w; %s", o.target(), err, hint)
}

var matchTLS = regexp.MustCompile(`(?i)x509|tls|certificate`)

// matchPermission reads the server's words: Permissions Violation for Publish to "a.b", … for Subscription to "a.b".
var matchPermission = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// Explain makes an error of a connection say what to change, where that is known. Others are returned as they are.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	if m := matchPermission.FindStringSubmatch(err.Error()); m != nil {
		what := "publish to"
		if m[1][0] == 's' || m[1][0] == 'S' {
			what = "subscribe to"
		}
		return fmt.Errorf("%w to %s %s: give the NATS user that permission (docs/operating.md lists all that are needed): %w", ErrPermission, what, m[2], err)
	}
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w; start nats-server with JetStream (-js), and enable it for the account", err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("JetStream does not answer: %w; start nats-server with JetStream (-js), or wait until it has a leader", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("JetStream does not answer in time: %w; has it a leader and a quorum?", err)
	default:
		return err
	}
}
