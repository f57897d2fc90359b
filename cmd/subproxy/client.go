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

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/kv"
)

// natsFlags are the connection flags that run and the client commands share.
type natsFlags struct {
	url, context, creds    string
	user, password, token  string
	nkey, jwt, seed        string
	domain, apiPrefix      string
	inboxPrefix            string
	tlsCA, tlsCert, tlsKey string
	tlsHandshakeFirst      bool
	refused                atomic.Pointer[connect.PermissionError] // the first that connect's connection was told of
}

// add gives a command, whose RunE is set, the flags. Where it fails and the server refused something
// before, that is why: requests that are refused are just not answered.
func (f *natsFlags) add(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
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
	flags.StringVar(&f.user, "user", "", "`NAME` of the NATS user")
	flags.StringVar(&f.password, "password", "", "`PASSWORD` of the NATS user (default $SUBPROXY_NATS_PASSWORD)")
	flags.StringVar(&f.token, "token", "", "`TOKEN` in place of a user (default $SUBPROXY_NATS_TOKEN)")
	flags.StringVar(&f.nkey, "nkey", "", "`FILE` with the seed of the user's nkey")
	flags.StringVar(&f.jwt, "jwt", "", "`FILE` with the user's JWT; goes with --seed")
	flags.StringVar(&f.seed, "seed", "", "`FILE` with the seed of the nkey in the user's JWT")
	flags.StringVar(&f.domain, "js-domain", "", "JetStream `DOMAIN` that holds buckets and streams (default $SUBPROXY_NATS_DOMAIN, the context's, or the server's)")
	flags.StringVar(&f.apiPrefix, "js-api-prefix", "", "`PREFIX` of an imported JetStream's subjects (default $SUBPROXY_NATS_API_PREFIX, or the context's)")
	flags.StringVar(&f.inboxPrefix, "inbox-prefix", "", "`PREFIX` of the subjects of answers (default $SUBPROXY_NATS_INBOX_PREFIX, or the context's)")
	flags.StringVar(&f.tlsCA, "tlsca", "", "`FILE` of the certificate authority that the servers' certificates are checked against")
	flags.StringVar(&f.tlsCert, "tlscert", "", "client certificate `FILE`")
	flags.StringVar(&f.tlsKey, "tlskey", "", "client key `FILE`")
	flags.BoolVar(&f.tlsHandshakeFirst, "tlsfirst", false, "TLS handshake before the server's greeting")
	_ = cmd.RegisterFlagCompletionFunc("context", cobra.NoFileCompletions)
}

// overrideUser puts who connects, where a flag says it, in place of who the configuration says.
func (f *natsFlags) overrideUser(n *config.NATS) {
	if f.creds+f.user+f.token+f.nkey+f.jwt != "" {
		n.Credentials, n.User, n.Password, n.Token, n.NKey, n.UserJWT, n.UserSeed = f.creds, f.user, f.password, f.token, f.nkey, f.jwt, f.seed
	} else if f.password != "" {
		n.Password = f.password
	}
}

// check refuses flags that exclude one another.
func (f *natsFlags) check() error {
	users := 0
	for _, one := range []string{f.creds, f.user, f.token, f.nkey, f.jwt} {
		if one != "" {
			users++
		}
	}
	switch {
	case users > 1:
		return command.Usagef("--creds, --user, --token, --nkey and --jwt each say who connects; give one of them")
	case (f.jwt == "") != (f.seed == ""):
		return command.Usagef("--jwt and --seed go together; give both or neither")
	case f.domain != "" && f.apiPrefix != "":
		return command.Usagef("--js-domain stands for the prefix $JS.%s.API; give it or --js-api-prefix", f.domain)
	}
	return nil
}

// options are those of a client command. Of the environment it takes what no flag says; a context that is
// named goes before the environment's server and user.
func (f *natsFlags) options() connect.Options {
	o := connect.Options{
		URL: f.url, Context: f.context, Credentials: f.creds, TLSCA: f.tlsCA, TLSCert: f.tlsCert, TLSKey: f.tlsKey,
		User: f.user, Password: f.password, Token: f.token, NKey: f.nkey, UserJWT: f.jwt, UserSeed: f.seed,
		Domain: f.domain, APIPrefix: f.apiPrefix, InboxPrefix: f.inboxPrefix, TLSHandshakeFirst: f.tlsHandshakeFirst,
	}
	fromEnvironment := func(to *string, name string) {
		if *to == "" {
			*to = os.Getenv("SUBPROXY_NATS_" + name)
		}
	}
	if o.Context == "" {
		fromEnvironment(&o.URL, "URL")
		if f.creds+f.user+f.token+f.nkey+f.jwt == "" {
			fromEnvironment(&o.Credentials, "CREDENTIALS")
			fromEnvironment(&o.User, "USER")
			fromEnvironment(&o.Token, "TOKEN")
			fromEnvironment(&o.NKey, "NKEY")
			fromEnvironment(&o.UserJWT, "USER_JWT")
			fromEnvironment(&o.UserSeed, "USER_SEED")
		}
	}
	fromEnvironment(&o.Password, "PASSWORD")
	if f.domain+f.apiPrefix == "" {
		fromEnvironment(&o.Domain, "DOMAIN")
		fromEnvironment(&o.APIPrefix, "API_PREFIX")
	}
	fromEnvironment(&o.InboxPrefix, "INBOX_PREFIX")
	return o
}

// connect connects a client command.
func (f *natsFlags) connect(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	o := f.options()
	o.Name, o.UseSelectedContext = "subproxy client", true
	o.OnError = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		var refused *connect.PermissionError
		if errors.As(err, &refused) {
			f.refused.CompareAndSwap(nil, refused)
		}
	}
	return connect.Connect(ctx, o)
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
