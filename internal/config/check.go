package config

import (
	"errors"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// checkAll is for what no single value shows.
func (d *decoder) checkAll(c *Config) {
	d.checkNATS(&c.NATS)
	d.checkInstance(&c.Instance)
	d.checkProxy(&c.SubscriptionProxy)
	d.checkStatus(&c.Status)
	d.checkStores(c.Stores)
	d.checkBridge(&c.Bridge, c.Stores)
}

// checkNATS empties the default URL where a context takes its place.
func (d *decoder) checkNATS(n *NATS) {
	url, urlGiven := d.places["nats.url"]
	switch {
	case n.Context != "" && urlGiven && n.URL != "":
		d.report(url, "nats.url", "excluded by nats.context, which brings its own; remove one of the two, or make it empty")
	case n.Context != "":
		n.URL = ""
	case n.URL == "" && !d.bad["nats.url"]:
		d.report(d.near("nats.url"), "nats.url", "must not be empty without nats.context; write it like nats://127.0.0.1:4222")
	}
	if n.Context != "" && n.Credentials != "" {
		d.report(d.near("nats.credentials"), "nats.credentials", "excluded by nats.context, which brings its own; remove one of the two, or make it empty")
	}
	certFailed, keyFailed := d.bad["nats.tls.cert"], d.bad["nats.tls.key"]
	switch {
	case n.TLS.Cert != "" && n.TLS.Key == "" && !keyFailed:
		d.report(d.near("nats.tls.cert"), "nats.tls.cert", "needs nats.tls.key; name both files or neither")
	case n.TLS.Key != "" && n.TLS.Cert == "" && !certFailed:
		d.report(d.near("nats.tls.key"), "nats.tls.key", "needs nats.tls.cert; name both files or neither")
	}
}

func (d *decoder) checkInstance(i *Instance) {
	if i.Name != "" || d.bad["instance.name"] {
		return
	}
	if i.Name = hostName(); i.Name == "" {
		d.report(d.near("instance.name"), "instance.name", "this host has no name; write one for the instance")
	}
}

func (d *decoder) checkProxy(p *SubscriptionProxy) {
	const (
		threshold = "subscription_proxy.failure_notification_threshold"
		most      = "subscription_proxy.max_consecutive_failures"
		leader    = "subscription_proxy.leader_changed_subject"
		emitter   = "subscription_proxy.emitter_restarted_subject"
	)
	if p.FailureNotificationThreshold > p.MaxConsecutiveFailures && !d.bad[threshold] && !d.bad[most] {
		d.report(d.either(threshold, most), threshold, "%d is above max_consecutive_failures; write 1 to %d, or raise that",
			p.FailureNotificationThreshold, p.MaxConsecutiveFailures)
	}
	if p.LeaderChangedSubject == p.EmitterRestartedSubject && !d.bad[leader] && !d.bad[emitter] {
		d.report(d.either(emitter, leader), emitter, "%s is leader_changed_subject too; write two different subjects", quote(p.EmitterRestartedSubject))
	}
}

// checkStatus refuses what would be an alert with every hiccup.
func (d *decoder) checkStatus(s *Status) {
	for path, value := range map[string]time.Duration{"status.stalled_after": s.StalledAfter, "status.emitter_silent_after": s.EmitterSilentAfter} {
		if value > 0 && value < time.Second && !d.bad[path] {
			d.report(d.near(path), path, "%s is out of range; write 0s to switch it off, or 1s or more", value)
		}
	}
}

// either is where the first of two paths was given, or else the second.
func (d *decoder) either(first, second string) place {
	if at, ok := d.places[first]; ok {
		return at
	}
	return d.near(second)
}

func (d *decoder) checkBridge(b *Bridge, stores []Store) {
	var ids []string
	for _, s := range stores {
		if s.ID != "" && !slices.Contains(ids, s.ID) {
			ids = append(ids, s.ID)
		}
	}
	for i, s := range b.Streams {
		path := child(element("bridge.streams", i), "store")
		if d.bad[path] || slices.Contains(ids, s.Store) {
			continue
		}
		d.report(d.near(path), path, "%s is no store of this file%s; write one of %s", quote(s.Store), suggest(s.Store, ids), shortList(ids))
	}
}

func (d *decoder) checkStores(stores []Store) {
	some, seen := len(stores) > 0 || d.bad["stores"] || d.bad[""], map[string]string{}
	for i := range stores {
		path := element("stores", i)
		d.unique(seen, "store id", stores[i].ID, child(path, "id"))
		d.checkSubscriptions(&stores[i], path)
	}
	if !some {
		d.report(d.near("stores"), "stores", "at least one store is required")
	}
}

func (d *decoder) checkSubscriptions(store *Store, storePath string) {
	seen := map[string]string{}
	for i := range store.Subscriptions {
		s, path := &store.Subscriptions[i], element(child(storePath, "subscriptions"), i)
		d.unique(seen, "subscription name", s.Name, child(path, "name"))
		d.checkSubscription(store, s, storePath, path)
		d.checkForward(s, storePath, path)
	}
}

// unique keeps in seen the path of the first of each name.
func (d *decoder) unique(seen map[string]string, what, name, path string) {
	if name == "" || d.bad[path] {
		return
	}
	if first, twice := seen[name]; twice {
		d.report(d.near(path), path, "duplicate %s %s; the first is %s; rename one", what, quote(name), d.near(first))
		return
	}
	seen[name] = path
}

func (d *decoder) checkSubscription(store *Store, s *Subscription, storePath, path string) {
	selector := d.given(path, "selector", storePath)
	for _, key := range []string{path, child(path, "name"), selector, d.given(path, "type", storePath), child(storePath, "id")} {
		if d.bad[key] {
			return
		}
	}
	full := subscription.Subscription{
		Store: store.ID, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name, StartVersion: s.StartVersion,
	}.Canonical()
	err := full.Validate()
	switch {
	case err == nil:
		if doubt := doubtful(full.Type, full.Selector); doubt != "" {
			d.warn(d.near(selector), selector, "%s %s", quote(full.Selector), doubt)
		}
	case errors.Is(err, subscription.ErrBadSelector):
		d.report(d.near(selector), selector, "%s is not a JSON object, and type %s needs one; write it like %s",
			quote(s.Selector), s.Type, `'{"key": "value"}'`)
	case errors.Is(err, subscription.ErrKeyTooLong):
		d.report(d.near(path), path, "the registration key <store>.<type>.<selector>.<name> is %d bytes long, at most %d are allowed; shorten one of them (a byte outside A-Z a-z 0-9 _ - counts three)",
			len(full.Key()), subscription.MaxKeyLength)
	default:
		d.report(d.near(path), path, "%v", err)
	}
}

// given is the path that a subscription's value came from: its own, or its store's defaults.
func (d *decoder) given(path, name, storePath string) string {
	own, inherited := child(path, name), child(child(storePath, "defaults"), name)
	if _, ok := d.places[own]; ok {
		return own
	}
	if _, ok := d.places[inherited]; ok {
		return inherited
	}
	return own
}

func (d *decoder) checkForward(s *Subscription, storePath, path string) {
	if s.Forward == nil || s.Forward.Subject != "" {
		return
	}
	forward := d.given(path, "forward", storePath)
	subject := child(forward, "subject")
	if d.bad[forward] || d.bad[subject] || d.bad[child(child(storePath, "defaults"), "forward")] {
		return
	}
	d.report(d.near(subject), subject, "is required where forward is given; write it like %s", "app.events.greenhouse")
}
