package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// ErrConfig is returned by New for a configuration that can't be run.
var ErrConfig = errors.New("membership: invalid configuration")

// Config says how the members are followed.
type Config struct {
	Follower *lease.Follower // of the cluster bucket; it must not run yet

	// OnChange is optional. It is called from Run with a view each time that other members are eligible
	// than before, or the record of an eligible one says something else: it drains, has another weight,
	// other stores, another run. The first call is when the bucket has been read. That a member is gone is
	// told at once; that one came, 500 ms later, with others that come meanwhile. It must not block.
	OnChange func(*View)
	Logger   *slog.Logger // optional
}

// Peer is a member in a view.
type Peer struct {
	Member
	Alive bool
	// Eligible says that it has a share of the subscriptions: it is alive, and was so for 500 ms, or since
	// before the bucket was read.
	Eligible bool
	Since    time.Time // when it came, or went, as this process saw it
	// Former are the ids of the runs of the name that were seen before this one.
	Former []string
}

// View is what is known of the members at a time. It does not change.
type View struct {
	Known bool   // the bucket was read; until then a view is empty
	Peers []Peer // by name; those that are gone stay for an hour
}

// Peer returns the member of that name.
func (v *View) Peer(name string) (Peer, bool) {
	byName := func(p Peer, name string) int { return cmp.Compare(p.Name, name) }
	i, ok := slices.BinarySearchFunc(v.Peers, name, byName)
	if !ok {
		return Peer{}, false
	}
	return v.Peers[i], true
}

// Alive reports whether the owner of a registration has a session. One whose name another run has now has
// none. While the bucket was not read every run counts as alive.
func (v *View) Alive(o registration.Owner) bool {
	if !v.Known {
		return true
	}
	p, ok := v.Peer(o.Name)
	return ok && p.Alive && p.ID == o.ID
}

// Knows reports whether the run of an instance was ever seen. What holds a registration and is not known
// may have come just now: sessions and registrations are in two buckets, and which is heard of first is
// open.
func (v *View) Knows(o registration.Owner) bool {
	p, ok := v.Peer(o.Name)
	return ok && (p.ID == o.ID || slices.Contains(p.Former, o.ID))
}

// Membership follows which members live. Its methods may be called from any goroutine.
type Membership struct {
	cfg    Config
	client *lease.Client
	rules  memberRules // Run's
	view   atomic.Pointer[View]
}

// New makes a membership that sees what its follower shows, once both run. It sends nothing.
func New(cfg Config) (*Membership, error) {
	if cfg.OnChange == nil {
		cfg.OnChange = func(*View) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Follower == nil {
		return nil, fmt.Errorf("%w: a follower is needed", ErrConfig)
	}
	m := &Membership{
		cfg: cfg, rules: newMemberRules(backoff.Jitter),
		client: lease.NewClient(lease.ClientConfig{
			Follower: cfg.Follower, Patience: max(lease.DefaultGrace/2, lease.MinRetry), Logger: cfg.Logger,
			Failure: "a member's session could not be read",
		}),
	}
	m.view.Store(&View{})
	if err := cfg.Follower.WatchAll(memberPrefix, m.client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return m, nil
}

// Snapshot is what is known now.
func (m *Membership) Snapshot() *View { return m.view.Load() }

// Run follows the members until ctx ends, and returns nil then.
func (m *Membership) Run(ctx context.Context) error {
	m.client.Run(ctx, func() (done bool) { return true }, m.step)
	return nil
}

// step lets the rules decide on what happened together, and does what they say.
func (m *Membership) step(inputs ...lease.Input) (done bool) {
	var changed, notify bool
	for _, in := range inputs {
		fx := m.rules.Step(in, time.Now())
		m.client.Do(&fx.Effects)
		changed, notify = changed || fx.Changed, notify || fx.Notify
	}
	if !changed && !notify {
		return false
	}
	before, view := m.Snapshot(), m.rules.view()
	m.view.Store(view)
	m.log(before, view)
	if notify {
		m.cfg.OnChange(view)
	}
	return false
}

// view is what others are to know.
func (r *memberRules) view() *View {
	v := &View{Known: r.known}
	if !r.known {
		return v
	}
	for _, key := range slices.Sorted(maps.Keys(r.members)) {
		s := r.members[key]
		v.Peers = append(v.Peers, Peer{
			Member: s.member, Alive: s.alive, Eligible: s.eligible, Since: s.since, Former: s.former,
		})
	}
	slices.SortFunc(v.Peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return v
}

// log says who came and went.
func (m *Membership) log(before, now *View) {
	for i := range now.Peers {
		p := &now.Peers[i]
		was, _ := before.Peer(p.Name)
		switch {
		case p.Alive && !was.Alive:
			m.cfg.Logger.Info("an instance joined", "name", p.Name, "id", p.ID, "host", p.Host)
		case p.Alive && p.ID != was.ID:
			m.cfg.Logger.Info("an instance was restarted", "name", p.Name, "id", p.ID, "host", p.Host)
		case !p.Alive && was.Alive:
			m.cfg.Logger.Info("an instance left", "name", p.Name, "id", p.ID, "host", p.Host)
		}
		if p.Alive && was.Alive && p.Draining != was.Draining {
			what := "an instance takes its share again"
			if p.Draining {
				what = "an instance drains"
			}
			m.cfg.Logger.Info(what, "name", p.Name)
		}
	}
}
