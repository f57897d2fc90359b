package connect_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/exesdb/subproxy/internal/connect"
)

func TestErrorsOfConnectingNameTheSetting(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	certFile, keyFile := certificate(t)
	plain, secret := start(t, nil), start(t, withUsers(&server.User{Username: "u", Password: "p"}))
	secure, mutual := start(t, serveTLS(t, certFile, keyFile, false)), start(t, serveTLS(t, certFile, keyFile, true))
	first := start(t, func(o *server.Options) {
		serveTLS(t, certFile, keyFile, false)(o)
		o.TLSHandshakeFirst = true
	})
	down := start(t, nil)
	down.Stop()
	missing, garbage := filepath.Join(t.TempDir(), "missing"), write(t, filepath.Join(t.TempDir(), "garbage"), []byte("garbage"))
	writeContext(t, "down", map[string]any{"url": down.URL()}, true)
	writeContext(t, "broken", map[string]any{"url": plain.URL(), "creds": missing}, false)

	for name, c := range map[string]struct {
		o    connect.Options
		want []string
	}{
		"nobody listens":          {connect.Options{URL: down.URL()}, []string{"connect to " + down.URL() + ": connection refused; is a nats-server running there? Set nats.url (--nats)"}},
		"nobody listens, several": {connect.Options{URL: "nats://u:secret@127.0.0.1:1, " + down.URL()}, []string{"nats://127.0.0.1:1," + down.URL() + ": connection refused"}},
		"selected context":        {connect.Options{UseSelectedContext: true}, []string{down.URL(), "selected nats context", "context's url"}},
		"named context":           {connect.Options{Context: "down"}, []string{down.URL(), "nats context down"}},
		"unknown context":         {connect.Options{Context: "none"}, []string{"nats context none", "nats.context (--context)"}},
		"context's file missing":  {connect.Options{Context: "broken"}, []string{missing, "nats.context (--context)"}},
		"unknown host":            {connect.Options{URL: "nats://host.invalid:4222"}, []string{"host.invalid", "nats.url (--nats)"}},
		"no URL":                  {connect.Options{URL: "nats://u:secret@[::1"}, []string{"nats.url (--nats)"}},
		"no answer":               {connect.Options{URL: silent(t)}, []string{"no answer within 2s", "nats.url (--nats)", "--tlsfirst"}},
		"no credentials":          {connect.Options{URL: secret.URL()}, []string{"authorization violation", "nats.credentials (--creds)", "nats.context (--context)"}},
		"wrong credentials":       {connect.Options{URL: strings.Replace(secret.URL(), "nats://", "nats://u:secret@", 1)}, []string{"connect to " + secret.URL() + ": ", "nats.credentials (--creds)"}},
		"credentials missing":     {connect.Options{URL: plain.URL(), Credentials: missing}, []string{missing, "check nats.credentials (--creds)"}},
		"credentials garbage":     {connect.Options{URL: plain.URL(), Credentials: garbage}, []string{"nats.credentials (--creds)"}},
		"unknown authority":       {connect.Options{URL: secure.URL()}, []string{"unknown authority", "nats.tls.ca (--tlsca)"}},
		"authority missing":       {connect.Options{URL: secure.URL(), TLSCA: missing}, []string{missing, "check nats.tls.ca (--tlsca)"}},
		"authority garbage":       {connect.Options{URL: secure.URL(), TLSCA: garbage}, []string{"nats.tls.ca (--tlsca)"}},
		"other host name":         {connect.Options{URL: strings.Replace(secure.URL(), "127.0.0.1", "localhost", 1), TLSCA: certFile}, []string{"localhost", "nats.url (--nats)"}},
		"server without TLS":      {connect.Options{URL: plain.URL(), TLSCA: certFile}, []string{"the server has no TLS", "nats.tls"}},
		"no client certificate":   {connect.Options{URL: mutual.URL(), TLSCA: certFile}, []string{"nats.tls.cert (--tlscert)"}},
		"certificate missing":     {connect.Options{URL: mutual.URL(), TLSCA: certFile, TLSCert: missing, TLSKey: keyFile}, []string{missing, "nats.tls.cert (--tlscert)"}},
		"key missing":             {connect.Options{URL: mutual.URL(), TLSCA: certFile, TLSCert: certFile, TLSKey: missing}, []string{missing, "nats.tls.key (--tlskey)"}},
		"greets after handshake":  {connect.Options{URL: first.URL(), TLSCA: certFile}, []string{"nats.tls.handshake_first (--tlsfirst)"}},
		"greets first":            {connect.Options{URL: plain.URL(), TLSHandshakeFirst: true}, []string{"unset nats.tls.handshake_first (--tlsfirst)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc, _, err := connect.Connect(within(t), c.o)
			if err == nil {
				nc.Close()
				t.Fatal("connected")
			}
			t.Log(err)
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q has the password", err)
			}
		})
	}
}

func TestTLSConnects(t *testing.T) {
	certFile, keyFile := certificate(t)
	for name, c := range map[string]struct{ verify, first bool }{"server": {}, "client too": {verify: true}, "first": {first: true}} {
		t.Run(name, func(t *testing.T) {
			n := start(t, func(o *server.Options) {
				serveTLS(t, certFile, keyFile, c.verify)(o)
				o.TLSHandshakeFirst = c.first
			})
			o := connect.Options{URL: n.URL(), TLSCA: certFile, TLSHandshakeFirst: c.first}
			if c.verify {
				o.TLSCert, o.TLSKey = certFile, keyFile
			}
			dial(t, o)
		})
	}
}
