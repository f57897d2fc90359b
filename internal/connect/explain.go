package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrPermission is matched by the errors of what the server does not permit.
var ErrPermission = errors.New("not permitted")

// Subscribing is the Operation of a subscription.
const Subscribing = "subscribe to"

// PermissionError is one operation that the server does not permit. It matches ErrPermission.
type PermissionError struct {
	Operation string // "publish to", Subscribing or "publish with the reply subject"
	Subject   string
	Queue     string // the queue group of a subscription; may be empty
	Err       error  // the connection's
}

// Error implements error.
func (e *PermissionError) Error() string {
	verb, _, _ := strings.Cut(e.Operation, " ")
	return fmt.Sprintf("not permitted to %s %s: give the NATS user of nats.credentials (--creds) or nats.context (--context) the %s permission for it",
		e.Operation, e.Subject, verb)
}

// Is implements errors.Is.
func (e *PermissionError) Is(target error) bool { return target == ErrPermission }

// Unwrap implements errors.Unwrap.
func (e *PermissionError) Unwrap() error { return e.Err }

// Error is a connection that could not be made.
type Error struct {
	Target  string // where to, without passwords
	Problem string // what happened
	Advice  string // the setting to change; may be empty
	// Hopeless is set where waiting mends it with none of the servers.
	Hopeless bool
	Err      error // the connection's
	patience time.Duration
}

// Error implements error.
func (e *Error) Error() string {
	text := fmt.Sprintf("connect to %s: %s", e.Target, e.Problem)
	if e.Advice != "" {
		text += "; " + e.Advice
	}
	return text
}

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }

// The server's words: Permissions Violation for Publish to "a.b", … Subscription to "a.b" using queue "q",
// … Publish with Reply of "a.b".
var matchPermission = regexp.MustCompile(`(?i)permissions violation for (publish to|subscription to|publish with reply of) "([^"]+)"(?: using queue "([^"]+)")?`)

// Explain makes an error of NATS or JetStream say what to change, where that is known. Others are returned
// as they are. What the error matched, it still matches.
func Explain(err error) error {
	var connecting *Error
	var denied *PermissionError
	if err == nil || errors.As(err, &connecting) || errors.As(err, &denied) {
		return err
	}
	if m := matchPermission.FindStringSubmatch(err.Error()); m != nil {
		operation := map[string]string{
			"publish to": "publish to", "subscription to": Subscribing, "publish with reply of": "publish with the reply subject",
		}[strings.ToLower(m[1])]
		return &PermissionError{Operation: operation, Subject: m[2], Queue: m[3], Err: err}
	}
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w; start nats-server with JetStream (-js), and enable it for the account", err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("JetStream does not answer: %w; start nats-server with JetStream (-js), or wait until it has a leader", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("NATS does not answer in time: %w; JetStream may have no leader or no quorum", err)
	default:
		return err
	}
}

// joinErrors is the error of several servers: one, where all say the same.
func joinErrors(target string, failed []error) error {
	all := &Error{Target: target, Hopeless: true, Err: errors.Join(failed...)}
	var problems, advice []string
	for _, err := range failed {
		var one *Error
		if !errors.As(err, &one) {
			one = &Error{Problem: err.Error()}
		}
		all.Hopeless = all.Hopeless && one.Hopeless
		problems = append(problems, one.Problem)
		if !slices.Contains(advice, one.Advice) && one.Advice != "" {
			advice = append(advice, one.Advice)
		}
	}
	all.Problem, all.Advice = problems[0], strings.Join(advice, "; ")
	if len(slices.Compact(slices.Clone(problems))) > 1 {
		for i, err := range failed {
			var one *Error
			if errors.As(err, &one) {
				problems[i] = one.Target + ": " + problems[i]
			}
		}
		all.Problem = strings.Join(problems, "; ")
	}
	return all
}

// explain is Explain for an error of connecting to these servers, which the dialer made; nil: it is not
// known.
func (o *Options) explain(servers []string, err error, d *dialer) error {
	e := &Error{patience: dialTimeout, Target: o.target(servers), Problem: strings.TrimPrefix(err.Error(), "nats: "), Err: err}
	if d != nil {
		e.patience = d.patience
		e.Hopeless = !d.tried() || isRefusal(err) && !d.waited() || isHopeless(err)
	}
	for _, diagnose := range []func(*Options, *Error) bool{diagnoseFile, diagnoseTLS, diagnoseRefusal, diagnoseNetwork} {
		if diagnose(o, e) {
			return e
		}
	}
	e.Advice = "check " + o.urlSetting()
	if len(servers) == 0 && o.usesContext() {
		e.Advice = "check nats.context (--context); `nats context ls` lists them"
	}
	return e
}

// isHopeless reports whether waiting does not mend an error of connecting, besides refusals: the server is
// not trusted, or what the configuration names can't be used. What the network says may pass, and so may
// the end of a connection: a proxy that does TLS may be there before its server.
func isHopeless(err error) bool {
	var file *fs.PathError
	var malformed *url.Error
	var greeting tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	return errors.As(err, &file) || errors.As(err, &malformed) || errors.As(err, &greeting) || errors.As(err, &untrusted) ||
		errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrNkeysNotSupported) || isNoKey(err)
}

// isNoKey reports whether a file holds no key; the client's errors for that are of no type.
func isNoKey(err error) bool {
	return strings.Contains(err.Error(), "seed") || strings.Contains(err.Error(), "key pair")
}

func (o *Options) urlSetting() string {
	if o.usesContext() && o.URL == "" {
		return "the context's url (nats context edit)"
	}
	return "nats.url (--nats)"
}

func diagnoseNetwork(o *Options, e *Error) bool {
	var unknown *net.DNSError
	var malformed *url.Error
	var network net.Error
	switch {
	case errors.Is(e.Err, nats.ErrNoServers): // nats.go's word for: every server refused
		e.Problem, e.Advice = "connection refused", "is a nats-server running there? Set "+o.urlSetting()
	case errors.As(e.Err, &unknown):
		e.Problem, e.Advice = "unknown host "+unknown.Name, "check "+o.urlSetting()
	case errors.As(e.Err, &malformed): // whose text has the URL, and its password
		e.Problem, e.Advice = "not a URL: "+malformed.Err.Error(), "check "+o.urlSetting()
	case errors.Is(e.Err, nats.ErrTimeout), errors.As(e.Err, &network) && network.Timeout():
		if !errors.Is(e.Err, nats.ErrTimeout) {
			e.Err = fmt.Errorf("%w: %w", nats.ErrTimeout, e.Err)
		}
		e.Problem = "no answer within " + e.patience.String()
		e.Advice = "is a nats-server running there? Set " + o.urlSetting()
		if !o.TLSHandshakeFirst {
			e.Advice += "; one that waits for the TLS handshake needs nats.tls.handshake_first (--tlsfirst)"
		}
	default:
		return false
	}
	return true
}

func diagnoseRefusal(o *Options, e *Error) bool {
	switch {
	case errors.Is(e.Err, nats.ErrAuthorization) && !o.namesUser() && !o.usesContext() && !strings.Contains(o.URL, "@"):
		e.Problem = "authorization violation"
		e.Advice = "the server wants to know who connects: set nats.credentials (--creds) or nats.context (--context)"
	case errors.Is(e.Err, nats.ErrAuthorization):
		e.Problem = "authorization violation"
		e.Advice = "the server does not accept this user: check nats.credentials (--creds), nats.context (--context), or the user in nats.url (--nats)"
	case isRefusal(e.Err):
		e.Advice = "renew what nats.credentials (--creds) or nats.context (--context) names"
	case isNoKey(e.Err):
		e.Advice = "nats.credentials (--creds) is no credentials file"
	default:
		return false
	}
	return true
}

// diagnoseFile names the setting whose file can't be read.
func diagnoseFile(o *Options, e *Error) bool {
	var file *fs.PathError
	if !errors.As(e.Err, &file) {
		return false
	}
	e.Problem, e.Advice = file.Error(), "check nats.context (--context) and the files that it names"
	for _, s := range []struct{ path, setting string }{
		{o.Credentials, "nats.credentials (--creds)"}, {o.TLSCA, "nats.tls.ca (--tlsca)"},
		{o.TLSCert, "nats.tls.cert (--tlscert)"}, {o.TLSKey, "nats.tls.key (--tlskey)"},
	} {
		if s.path == file.Path {
			e.Advice = "check " + s.setting
		}
	}
	return true
}

func diagnoseTLS(o *Options, e *Error) bool {
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var greeting tls.RecordHeaderError
	text := e.Err.Error()
	switch {
	case errors.As(e.Err, &authority):
		e.Advice = "set nats.tls.ca (--tlsca) to the authority that signed the server's certificate"
	case errors.As(e.Err, &hostname):
		e.Advice = "use a name that the server's certificate has in " + o.urlSetting()
	case errors.As(e.Err, &greeting):
		e.Advice = "the server greets first: unset nats.tls.handshake_first (--tlsfirst)"
	case errors.Is(e.Err, nats.ErrSecureConnWanted):
		e.Advice = "the server has no TLS: unset nats.tls (--tlsca, --tlscert, --tlskey), and check " + o.urlSetting()
	case strings.Contains(text, "client certificate"), strings.Contains(text, "remote error: tls"), strings.Contains(text, "tls: private key"),
		strings.Contains(text, "closed by remote after TLS handshake"): // in TLS 1.3 the client has finished before it is refused
		e.Advice = "check nats.tls.cert (--tlscert) and nats.tls.key (--tlskey)"
	case strings.Contains(text, "root certificate"):
		e.Advice = "nats.tls.ca (--tlsca) holds no certificate"
	case errors.Is(e.Err, nats.ErrTLS), strings.Contains(text, "x509:"):
		e.Advice = "check nats.tls (--tlsca, --tlscert, --tlskey)"
	default:
		return false
	}
	return true
}

// redact takes user, password or token from a URL.
func redact(server string) string {
	if at := strings.LastIndexByte(server, '@'); at >= 0 {
		scheme, _, found := strings.Cut(server, "://")
		if found && len(scheme) < at {
			return scheme + "://" + server[at+1:]
		}
		return server[at+1:]
	}
	return server
}
