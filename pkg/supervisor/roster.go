package supervisor

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/rebalance"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// roster is what the parts of a store's loop have in common: the store, its proxies, and what moves to
// other instances and from them. It belongs to the loop's goroutine, but for the inbox.
type roster struct {
	*shared
	store     string
	log       *slog.Logger
	inbox     *inbox
	items     []*managed
	byName    map[string]*managed
	transfers *rebalance.Rebalancer // what moves to this instance, and from it

	// The settings in force, and what they were made from (rules).
	stretched     proxy.Settings
	stretchedFrom *proxy.Settings
	stretchedFor  int64
}

func newRoster(s *shared, store string) *roster {
	o := &roster{
		shared: s, store: store, log: s.logger.With("store", store), inbox: newInbox(delivery.NewFence(store, s.logger)),
		byName: map[string]*managed{}, transfers: rebalance.New(s.owner),
	}
	o.transfers.Note(rebalance.Input{Kind: rebalance.MembersChanged, Members: s.members.Load().Of(store)}, time.Now())
	return o
}

// withKey is the item of a registration's key; nil where there is none. A map of keys would cost as much as
// all else that is kept of a name.
func (o *roster) withKey(key string) *managed {
	name, err := nameOf(key)
	if err != nil {
		return nil
	}
	if it := o.byName[name]; it != nil && it.key == key {
		return it
	}
	return nil
}

// nameOf is the subscription's name in a registration's key.
func nameOf(key string) (string, error) {
	return subscription.DecodeToken(key[strings.LastIndexByte(key, '.')+1:])
}

// rules are the settings in force, for all that the instance is configured with, in whichever store.
func (o *roster) rules() *proxy.Settings {
	base, n := o.settings.Load(), o.configured.Load()
	if base != o.stretchedFrom || n != o.stretchedFor {
		o.stretched, o.stretchedFrom, o.stretchedFor = base.Stretched(int(n)), base, n
	}
	return &o.stretched
}

// held are the proxies of that name, or all, that this instance holds or tries to.
func (o *roster) held(name string) []*managed {
	var items []*managed
	for _, it := range o.named(name) {
		if !it.proxy.Standby {
			items = append(items, it)
		}
	}
	return items
}

func (o *roster) named(name string) []*managed {
	if name == "" {
		return o.items
	}
	if it := o.byName[name]; it != nil {
		return []*managed{it}
	}
	return nil
}

func (o *roster) holdsAny() bool {
	return slices.ContainsFunc(o.items, func(it *managed) bool { return it.endpoint != nil })
}

// holds is how many proxies take events here.
func (o *roster) holds() (n int) {
	for _, it := range o.items {
		if it.endpoint != nil {
			n++
		}
	}
	return n
}

// spoken reports whether any proxy was ever sent anything.
func (o *roster) spoken() bool {
	return slices.ContainsFunc(o.items, func(it *managed) bool { return it.endpoint != nil && it.endpoint.Heard() })
}

// noteStandby notes who holds the subscription of a proxy that stands by.
func (o *roster) noteStandby(it *managed, now time.Time) {
	if p := &it.proxy; p.Standby && !p.Stopped {
		o.transfers.Note(rebalance.Input{Kind: rebalance.StoodBy, Key: it.key, Holder: p.Record.Holder}, now)
	}
}

// moving says how a subscription is on its way, and when it is looked at again; zero: not.
func (o *roster) moving(it *managed) (status.Moving, time.Time) {
	state, next := o.transfers.StateOf(it.key)
	switch p := &it.proxy; {
	case state == rebalance.Releasing:
		return status.Releasing, time.Time{}
	case p.Standby && state == rebalance.Requesting:
		return status.Asking, next
	case p.Standby && state == rebalance.Waiting:
		return status.Waiting, next
	case p.Attempt.UnderWay && p.Attempt.Cause == registration.Takeover && !p.Registered:
		return status.Claiming, p.Next
	default:
		return "", p.Next
	}
}

// idle reports whether this instance has nothing to do with the subscription but to stand by.
func (o *roster) idle(it *managed) bool {
	if !it.proxy.Standby || it.proxy.Record.Holder == nil {
		return false
	}
	moving, _ := o.moving(it)
	return moving == ""
}

// holder is who is known to hold the subscription; nobody where it is not registered.
func (o *roster) holder(p *proxy.Proxy) registration.Owner {
	if p.Standby || !p.Started {
		if p.Record.Holder != nil {
			return *p.Record.Holder
		}
		return registration.Owner{}
	}
	return o.owner
}

func (o *roster) send(message, subject string, payload any) {
	data, err := json.Marshal(payload)
	if err == nil {
		err = o.publisher(subject, data)
	}
	if err != nil {
		o.untold(subject, err)
		return
	}
	o.metrics.Published.WithLabelValues(message).Inc()
}

// tell passes on what happened in the cluster. It may be called by any goroutine.
func (o *roster) tell(c Cluster) {
	known := o.inbox.fence.Term()
	stale, coalesced := o.inbox.event(c)
	if !c.Jumps {
		o.inbox.fence.WarnOfJump(known, c.Term)
	}
	switch {
	case stale:
		o.metrics.Ignored.WithLabelValues("term").Inc()
		o.inbox.fence.WarnIgnored(c.Term)
	case coalesced:
		o.metrics.Coalesced.Inc()
	}
}
