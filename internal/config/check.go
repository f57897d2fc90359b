package config

import (
	"errors"
	"slices"
	"time"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// checker finds what no single value shows.
type checker struct{ found *findings }

func (k *checker) checkAll(c *Config) {
	k.checkNATS(&c.NATS)
	k.checkInstance(&c.Instance)
	k.checkProxy(&c.SubscriptionProxy)
	k.checkStatus(&c.Status)
	k.checkStores(c.Stores)
	k.checkBridge(&c.Bridge, c.Stores)
}

// checkNATS empties the default URL where a context takes its place.
func (k *checker) checkNATS(n *NATS) {
	url, urlGiven := k.found.places["nats.url"]
	switch {
	case n.Context != "" && urlGiven && n.URL != "":
		k.found.report(url, "nats.url", "excluded by nats.context, which brings its own; remove one of the two, or make it empty")
	case n.Context != "":
		n.URL = ""
	case n.URL == "" && !k.found.bad["nats.url"]:
		k.found.report(k.found.near("nats.url"), "nats.url", "must not be empty without nats.context; write it like nats://127.0.0.1:4222")
	}
	k.checkUser(n)
	if n.Domain != "" && n.APIPrefix != "" && !k.found.bad["nats.domain"] {
		k.found.report(k.either("nats.api_prefix", "nats.domain"), "nats.api_prefix", "excluded by nats.domain, which stands for the prefix $JS.%s.API; remove one of the two, or make it empty", n.Domain)
	}
	certFailed, keyFailed := k.found.bad["nats.tls.cert"], k.found.bad["nats.tls.key"]
	switch {
	case n.TLS.Cert != "" && n.TLS.Key == "" && !keyFailed:
		k.found.report(k.found.near("nats.tls.cert"), "nats.tls.cert", "needs nats.tls.key; name both files or neither")
	case n.TLS.Key != "" && n.TLS.Cert == "" && !certFailed:
		k.found.report(k.found.near("nats.tls.key"), "nats.tls.key", "needs nats.tls.cert; name both files or neither")
	}
}

// checkUser lets nobody connect as two users.
func (k *checker) checkUser(n *NATS) {
	const jwt, seed, user, password = "nats.user_jwt", "nats.user_seed", "nats.user", "nats.password"
	first := ""
	for _, one := range []struct{ path, value string }{
		{"nats.credentials", n.Credentials}, {user, n.User}, {"nats.token", n.Token}, {"nats.nkey", n.NKey}, {jwt, n.UserJWT},
	} {
		switch {
		case one.value == "" || k.found.bad[one.path]:
		case n.Context != "":
			k.found.report(k.found.near(one.path), one.path, "excluded by nats.context, which brings its own; remove one of the two, or make it empty")
		case first != "":
			k.found.report(k.found.near(one.path), one.path, "excluded by %s, which says already who connects; remove one of the two, or make it empty", first)
		default:
			first = one.path
		}
	}
	switch {
	case n.Password != "" && n.User == "" && !k.found.bad[user]:
		k.found.report(k.found.near(password), password, "needs nats.user; write both or neither")
	case n.UserJWT != "" && n.UserSeed == "" && !k.found.bad[seed]:
		k.found.report(k.found.near(jwt), jwt, "needs nats.user_seed; name both files or neither")
	case n.UserSeed != "" && n.UserJWT == "" && !k.found.bad[jwt]:
		k.found.report(k.found.near(seed), seed, "needs nats.user_jwt; name both files or neither")
	}
}

func (k *checker) checkInstance(i *Instance) {
	if i.Name != "" || k.found.bad["instance.name"] {
		return
	}
	if i.Name = hostName(); i.Name == "" {
		k.found.report(k.found.near("instance.name"), "instance.name", "this host has no name; write one for the instance")
	}
}

func (k *checker) checkProxy(p *SubscriptionProxy) {
	const (
		threshold = "subscription_proxy.failure_notification_threshold"
		most      = "subscription_proxy.max_consecutive_failures"
		leader    = "subscription_proxy.leader_changed_subject"
		emitter   = "subscription_proxy.emitter_restarted_subject"
	)
	if p.FailureNotificationThreshold > p.MaxConsecutiveFailures && !k.found.bad[threshold] && !k.found.bad[most] {
		k.found.report(k.either(threshold, most), threshold, "%d is above max_consecutive_failures; write 1 to %d, or raise that",
			p.FailureNotificationThreshold, p.MaxConsecutiveFailures)
	}
	if p.LeaderChangedSubject == p.EmitterRestartedSubject && !k.found.bad[leader] && !k.found.bad[emitter] {
		k.found.report(k.either(emitter, leader), emitter, "%s is leader_changed_subject too; write two different subjects", quote(p.EmitterRestartedSubject))
	}
}

// checkStatus refuses what would be an alert with every hiccup.
func (k *checker) checkStatus(s *Status) {
	for path, value := range map[string]time.Duration{"status.stalled_after": s.StalledAfter, "status.emitter_silent_after": s.EmitterSilentAfter} {
		if value > 0 && value < time.Second && !k.found.bad[path] {
			k.found.report(k.found.near(path), path, "%s is out of range; write 0s to switch it off, or 1s or more", value)
		}
	}
}

// either is where the first of two paths was given, or else the second.
func (k *checker) either(first, second string) place {
	if at, ok := k.found.places[first]; ok {
		return at
	}
	return k.found.near(second)
}

func (k *checker) checkBridge(b *Bridge, stores []Store) {
	var ids []string
	for _, s := range stores {
		if s.ID != "" && !slices.Contains(ids, s.ID) {
			ids = append(ids, s.ID)
		}
	}
	for i, s := range b.Streams {
		path := child(element("bridge.streams", i), "store")
		if k.found.bad[path] || slices.Contains(ids, s.Store) {
			continue
		}
		k.found.report(k.found.near(path), path, "%s is no store of this file%s; write one of %s", quote(s.Store), suggest(s.Store, ids), shortList(ids))
	}
}

func (k *checker) checkStores(stores []Store) {
	some, seen := len(stores) > 0 || k.found.bad["stores"] || k.found.bad[""], map[string]string{}
	for i := range stores {
		path := element("stores", i)
		k.unique(seen, "store id", stores[i].ID, child(path, "id"))
		k.checkSubscriptions(&stores[i], path)
	}
	if !some {
		k.found.report(k.found.near("stores"), "stores", "at least one store is required")
	}
}

func (k *checker) checkSubscriptions(store *Store, storePath string) {
	seen := map[string]string{}
	for i := range store.Subscriptions {
		s, path := &store.Subscriptions[i], element(child(storePath, "subscriptions"), i)
		k.unique(seen, "subscription name", s.Name, child(path, "name"))
		k.checkSubscription(store, s, storePath, path)
		k.checkForward(s, storePath, path)
	}
}

// unique keeps in seen the path of the first of each name.
func (k *checker) unique(seen map[string]string, what, name, path string) {
	if name == "" || k.found.bad[path] {
		return
	}
	if first, twice := seen[name]; twice {
		k.found.report(k.found.near(path), path, "duplicate %s %s; the first is %s; rename one", what, quote(name), k.found.near(first))
		return
	}
	seen[name] = path
}

func (k *checker) checkSubscription(store *Store, s *Subscription, storePath, path string) {
	selector := k.given(path, "selector", storePath)
	for _, key := range []string{path, child(path, "name"), selector, k.given(path, "type", storePath), child(storePath, "id")} {
		if k.found.bad[key] {
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
			k.found.warn(k.found.near(selector), selector, "%s %s", quote(full.Selector), doubt)
		}
	case errors.Is(err, subscription.ErrBadSelector):
		k.found.report(k.found.near(selector), selector, "%s is not a JSON object, and type %s needs one; write it like %s",
			quote(s.Selector), s.Type, `'{"key": "value"}'`)
	case errors.Is(err, subscription.ErrKeyTooLong):
		k.found.report(k.found.near(path), path, "the registration key <store>.<type>.<selector>.<name> is %d bytes long, at most %d are allowed; shorten one of them (a byte outside A-Z a-z 0-9 _ - counts three)",
			len(full.Key()), subscription.MaxKeyLength)
	default:
		k.found.report(k.found.near(path), path, "%v", err)
	}
}

// given is the path that a subscription's value came from: its own, or its store's defaults.
func (k *checker) given(path, name, storePath string) string {
	own, inherited := child(path, name), child(child(storePath, "defaults"), name)
	if _, ok := k.found.places[own]; ok {
		return own
	}
	if _, ok := k.found.places[inherited]; ok {
		return inherited
	}
	return own
}

func (k *checker) checkForward(s *Subscription, storePath, path string) {
	if s.Forward == nil || s.Forward.Subject != "" {
		return
	}
	forward := k.given(path, "forward", storePath)
	subject := child(forward, "subject")
	if k.found.bad[forward] || k.found.bad[subject] || k.found.bad[child(child(storePath, "defaults"), "forward")] {
		return
	}
	k.found.report(k.found.near(subject), subject, "is required where forward is given; write it like %s", "app.events.greenhouse")
}
