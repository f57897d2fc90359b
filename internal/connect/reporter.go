package connect

import (
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// reportAgain is how often one reason of an outage is reported.
	reportAgain = time.Minute
	// maxReasons is how many reasons of an outage are told apart.
	maxReasons = 16
)

// reporter turns the connection's callbacks into those of Options. The connection calls them one at a time,
// and in order.
type reporter struct {
	o      Options
	dialer *dialer
	away   bool                 // the connection is lost
	said   map[string]time.Time // when a reason was reported last, in this outage
}

func (r *reporter) reconnected(nc *nats.Conn) {
	r.away = false
	r.dialer.reconnected(nc)
	if r.o.OnReconnect != nil {
		r.o.OnReconnect()
	}
}

func (r *reporter) disconnected(nc *nats.Conn, _ error) {
	r.away, r.said = true, map[string]time.Time{}
	if r.o.OnDisconnect != nil && !nc.IsClosed() {
		r.o.OnDisconnect()
	}
}

func (r *reporter) failed(nc *nats.Conn, sub *nats.Subscription, err error) {
	refused := isRefusal(err)
	if refused {
		r.dialer.refused()
	}
	switch {
	case (r.away || refused) && sub == nil:
		// Each try ends with an error. All say the same.
		if r.isNews(err, time.Now()) {
			r.report(nc, sub, r.o.explain([]string{nc.ConnectedUrl()}, err, nil))
		}
	default:
		r.report(nc, sub, Explain(err))
	}
}

func (r *reporter) isNews(err error, now time.Time) bool {
	reason := err.Error()
	at, said := r.said[reason]
	if said && now.Sub(at) < reportAgain || !said && len(r.said) == maxReasons {
		return false
	}
	if r.said == nil {
		r.said = map[string]time.Time{}
	}
	r.said[reason] = now
	return true
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

// isRefusal reports whether the server does not accept who connects.
func isRefusal(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return refusesCertificate(err)
}

// refusesCertificate reports whether the server ended the TLS handshake for the client's certificate. Go's
// errors for the other side's alerts are of no type that can be matched.
func refusesCertificate(err error) bool {
	text := err.Error()
	if !strings.Contains(text, "remote error: tls:") {
		return false
	}
	for _, alert := range []string{"certificate", "unknown CA", "access denied"} {
		if strings.Contains(text, alert) {
			return true
		}
	}
	return false
}
