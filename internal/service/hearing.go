package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/backoff"
)

const (
	// regainCalm is how long nothing was taken away until regaining begins anew.
	regainCalm = 2 * time.Minute
	// regainWithin bounds one attempt.
	regainWithin = 10 * time.Second
	// maxLost bounds what is noted. A connection that is made again sends every subscription again, those
	// not noted too.
	maxLost = 64
)

// regaining are the waits before the server is asked again for a subscription that it took away: it logs
// each refusal.
var regaining = backoff.Backoff{First: time.Second, Max: 30 * time.Second}

// refusal is a subscription that the server does not permit.
type refusal struct{ subject, queue string }

// lost are the subscriptions of a connection that the server took away, or refused. It drops what a client
// is subscribed to when it takes the permission away, and the client sends it again only on its next
// connection.
type lost map[refusal]loss

type loss struct {
	reason     *connect.PermissionError
	connection uint64 // how often the connection had been made again
}

func (l lost) add(reason *connect.PermissionError, connection uint64) {
	r := refusal{reason.Subject, reason.Queue}
	if _, known := l[r]; known || len(l) < maxLost {
		l[r] = loss{reason, connection}
	}
}

// onlyBefore reports whether all of it is of connections before this one, which has sent it again since.
func (l lost) onlyBefore(connection uint64) bool {
	for _, one := range l {
		if one.connection >= connection {
			return false
		}
	}
	return true
}

// regain drops what is of connections before this one, and returns it.
func (l lost) regain(connection uint64) (regained []refusal) {
	for r, one := range l {
		if one.connection < connection {
			delete(l, r)
			regained = append(regained, r)
		}
	}
	return regained
}

// reasons are what is lost stops, each part once.
func (l lost) reasons() []string {
	parts := map[string]string{}
	for _, one := range l {
		part, _ := stopped(one.reason.Subject)
		if text := part + ": " + one.reason.Error(); parts[part] == "" || text < parts[part] {
			parts[part] = text
		}
	}
	var all []string
	for _, text := range parts {
		all = append(all, text)
	}
	return all
}

// nextAttempt is the number of the attempt after the last one, which ended idle ago.
func nextAttempt(last int, idle time.Duration) int {
	if idle > regainCalm {
		return 1
	}
	return last + 1
}

// hearing gets back what a connection is subscribed to, when the server permits it again. Whether it does
// is asked on a connection of its own, which has the permissions that a new one gets, so that the other
// goes on with what it may do until then.
type hearing struct {
	permitted  func(context.Context, refusal) error // nil: it may subscribe to that
	violations *violations
	log        *slog.Logger

	mu   sync.Mutex
	lost lost
	news chan struct{} // holds one: something was lost
}

func newHearing(c func() *config.Config, name string, v *violations, log *slog.Logger) *hearing {
	return &hearing{
		permitted:  func(ctx context.Context, r refusal) error { return mayHear(ctx, c(), name, r) },
		violations: v, log: log, lost: lost{}, news: make(chan struct{}, 1),
	}
}

// report takes an error of the connection; only a subscription that is refused concerns it.
func (h *hearing) report(nc *nats.Conn, err error) {
	var denied *connect.PermissionError
	if !errors.As(err, &denied) || denied.Operation != connect.Subscribing {
		return
	}
	connection := nc.Stats().Reconnects
	h.mu.Lock()
	h.lost.add(denied, connection)
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// hindering is what the connection does not hear; empty: nothing.
func (h *hearing) hindering() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost.reasons()
}

func (h *hearing) snapshot() lost {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := lost{}
	for r, one := range h.lost {
		now[r] = one
	}
	return now
}

// run tries to get back what is lost, until ctx ends.
func (h *hearing) run(ctx context.Context, nc *nats.Conn) {
	attempts := 0
	for ended := time.Now(); ; ended = time.Now() {
		if len(h.snapshot()) == 0 {
			select {
			case <-h.news:
			case <-ctx.Done():
				return
			}
		}
		attempts = nextAttempt(attempts, time.Since(ended))
		if backoff.Sleep(ctx, regaining.After(attempts)) != nil {
			return
		}
		attempt, cancel := context.WithTimeout(ctx, regainWithin)
		h.regain(attempt, nc)
		cancel()
	}
}

// regain makes the connection again where all that is lost is permitted, and else says that it is not.
func (h *hearing) regain(ctx context.Context, nc *nats.Conn) {
	now := h.snapshot()
	for r, one := range now {
		if err := h.permitted(ctx, r); err != nil {
			h.log.Debug("what was taken away is not permitted yet", "subject", r.subject, "error", err)
			h.violations.report("", one.reason, time.Now())
			return
		}
	}
	if !now.onlyBefore(nc.Stats().Reconnects) {
		if nc.ForceReconnect() != nil {
			return // it is closed
		}
		for !nc.IsConnected() || !now.onlyBefore(nc.Stats().Reconnects) {
			if backoff.Sleep(ctx, 10*time.Millisecond) != nil {
				return
			}
		}
	}
	connection := nc.Stats().Reconnects
	if nc.FlushWithContext(ctx) != nil {
		return
	}
	// The server has read all subscriptions by now. One that it refused again is reported with this
	// connection's number.
	h.mu.Lock()
	defer h.mu.Unlock()
	if regained := h.lost.regain(connection); len(regained) > 0 {
		h.log.Info("what was taken away is permitted again, and subscribed to again", "subscriptions", len(regained), "first", regained[0].subject)
	}
}

// mayHear asks the server whether a new connection may subscribe.
func mayHear(ctx context.Context, c *config.Config, name string, r refusal) error {
	nc, _, err := connect.Connect(ctx, dialOptions(c, connect.Options{Name: name, OnError: func(*nats.Conn, *nats.Subscription, error) {}}))
	if err != nil {
		return err
	}
	defer nc.Close()
	var sub *nats.Subscription
	if r.queue != "" {
		sub, err = nc.QueueSubscribeSync(r.subject, r.queue)
	} else {
		sub, err = nc.SubscribeSync(r.subject)
	}
	if err != nil {
		return err
	}
	_ = sub.Unsubscribe() // at once: what others in the queue group are to get is not for this one
	if err := nc.FlushWithContext(ctx); err != nil {
		return err
	}
	return connect.Explain(nc.LastError())
}
