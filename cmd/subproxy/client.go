package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/kv"
)

// natsFlags are the connection flags that run and the client commands share.
type natsFlags struct {
	url, context, creds    string
	tlsCA, tlsCert, tlsKey string
	tlsHandshakeFirst      bool
	refused                atomic.Pointer[connect.PermissionError] // the first that connect's connection was told of
}

// add gives a command, whose RunE is set, the flags. Where it fails and the server refused something
// before, that is why: requests that are refused are just not answered.
func (f *natsFlags) add(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := run(cmd, args)
			if refused := f.refused.Load(); err != nil && refused != nil {
				return fmt.Errorf("%w; %w", refused, err)
			}
			return err
		}
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.url, "nats", "s", "", "NATS server `URL`s, comma-separated (default $SUBPROXY_NATS_URL, the selected nats context, or nats://127.0.0.1:4222)")
	flags.StringVar(&f.context, "context", "", "`NAME` of a context of the nats CLI")
	flags.StringVar(&f.creds, "creds", "", "credentials `FILE`")
	flags.StringVar(&f.tlsCA, "tlsca", "", "`FILE` of the certificate authority that the servers' certificates are checked against")
	flags.StringVar(&f.tlsCert, "tlscert", "", "client certificate `FILE`")
	flags.StringVar(&f.tlsKey, "tlskey", "", "client key `FILE`")
	flags.BoolVar(&f.tlsHandshakeFirst, "tlsfirst", false, "TLS handshake before the server's greeting")
	_ = cmd.RegisterFlagCompletionFunc("context", cobra.NoFileCompletions)
}

// connect connects a client command.
func (f *natsFlags) connect(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	url := f.url
	if url == "" && f.context == "" {
		url = os.Getenv("SUBPROXY_NATS_URL")
	}
	return connect.Connect(ctx, connect.Options{
		URL: url, Context: f.context, Credentials: f.creds, TLSCA: f.tlsCA, TLSCert: f.tlsCert, TLSKey: f.tlsKey,
		TLSHandshakeFirst: f.tlsHandshakeFirst, Name: "subproxy client", UseSelectedContext: true,
		OnError: func(_ *nats.Conn, _ *nats.Subscription, err error) {
			var refused *connect.PermissionError
			if errors.As(err, &refused) {
				f.refused.CompareAndSwap(nil, refused)
			}
		},
	})
}

// records reads what is registered. A bucket that does not exist holds nothing.
func records(ctx context.Context, js jetstream.JetStream, bucket, store, name string) ([]kv.Entry, error) {
	r, err := kv.OpenExisting(ctx, js, bucket)
	if err != nil {
		return nil, connect.Explain(err)
	}
	return r.List(ctx, store, name)
}

// storeAndName are the optional arguments STORE [NAME].
func storeAndName(args []string) (store, name string) {
	if len(args) > 0 {
		store = args[0]
	}
	if len(args) > 1 {
		name = args[1]
	}
	return store, name
}
