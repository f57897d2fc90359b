package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// ErrMembership is returned by New for a configuration that can't be run.
var ErrMembership = errors.New("membership: invalid configuration")

// DefaultSettle is how long a member that came is waited with, for others that come with it.
const DefaultSettle = 500 * time.Millisecond

// Config says how the members are followed.
type Config struct {
	Follower *lease.Follower // of the cluster bucket; it must not run yet

	Grace  time.Duration // from when a member is silent, or its key expired, until it is gone; default DefaultGrace
	Settle time.Duration // default DefaultSettle

	// OnChange is optional. It is called from Run with each view in which other members count than before, or the same as
	// something else: first when the bucket has been read; at once when one is gone; Settle after one came. It must not block.
	OnChange func(*View)
	Logger   *slog.Logger // optional
}

// Peer is a member in a view.
type Peer struct {
	Member
	Alive bool
	// Eligible says that it has a share of the subscriptions: it is alive, and was so for the settling time, or since before.
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
	i, ok := slices.BinarySearchFunc(v.Peers, name, func(p Peer, name string) int { return cmp.Compare(p.Name, name) })
	if !ok {
		return Peer{}, false
	}
	return v.Peers[i], true
}

// Alive reports whether the owner of a registration has a session. One whose name another run has now has none. While the
// bucket was not read everybody is taken to live.
func (v *View) Alive(o registration.Owner) bool {
	if !v.Known {
		return true
	}
	p, ok := v.Peer(o.Name)
	return ok && p.Alive && p.ID == o.ID
}

// Knows reports whether the run of an instance was ever seen. What holds a registration and is not known may have come just
// now: sessions and registrations are in two buckets, and which is heard of first is open.
func (v *View) Knows(o registration.Owner) bool {
	p, ok := v.Peer(o.Name)
	return ok && (p.ID == o.ID || slices.Contains(p.Former, o.ID))
}

// Membership follows who lives. Its methods may be called from any goroutine.
type Membership struct {
	client *lease.Client
	cfg    Config
	rules  memberRules // Run's
	view   atomic.Pointer[View]
}

// New makes a membership that sees what its follower shows, once both run. It sends nothing.
func New(cfg Config) (*Membership, error) {
	if cfg.Grace == 0 {
		cfg.Grace = lease.DefaultGrace
	}
	if cfg.Settle == 0 {
		cfg.Settle = DefaultSettle
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(*View) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Follower == nil || cfg.Grace < 0 || cfg.Settle < 0 {
		return nil, fmt.Errorf("%w: a follower is needed, grace %s, settling time %s", ErrMembership, cfg.Grace, cfg.Settle)
	}
	m := &Membership{
		client: lease.NewClient(cfg.Follower, cfg.Logger), cfg: cfg,
		rules: memberRules{grace: cfg.Grace, settle: cfg.Settle, rand: rand.Float64, members: map[string]*memberState{}},
	}
	m.client.Patience = max(cfg.Grace/2, lease.MinRetry)
	m.view.Store(&View{})
	if err := cfg.Follower.WatchAll(memberPrefix, m.client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMembership, err)
	}
	return m, nil
}

// Snapshot is what is known now.
func (m *Membership) Snapshot() *View { return m.view.Load() }

// Alive reports whether the owner of a registration has a session (see View.Alive).
func (m *Membership) Alive(o registration.Owner) bool { return m.Snapshot().Alive(o) }

// Run follows the members until ctx ends, and returns nil then.
func (m *Membership) Run(ctx context.Context) error {
	m.client.Context = ctx
	defer m.client.Timer.Stop()
	defer m.client.Work.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.client.Timer.C:
			m.step(lease.Input{Kind: lease.TimerDue})
		case <-m.client.News:
			if in := m.client.Inputs(); len(in) > 0 { // else they were taken before, and stepping would put off what is due
				m.step(in...)
			}
		case in := <-m.client.Answers:
			m.step(in)
		}
	}
}

// step lets the rules decide on what happened together, and does what they say.
func (m *Membership) step(inputs ...lease.Input) {
	var all memberEffects
	for _, in := range inputs {
		fx := m.rules.Step(in, time.Now())
		m.client.Report("a member's session could not be read", fx.Failed)
		if in.Kind == lease.Answered && in.Err == nil {
			m.client.Failing = ""
		}
		if fx.Read != "" {
			m.client.Read(fx.Read)
		}
		all.Changed, all.Tell, all.Next = all.Changed || fx.Changed, all.Tell || fx.Tell, fx.Next
	}
	m.client.Wake(all.Next)
	if !all.Changed && !all.Tell {
		return
	}
	before, view := m.Snapshot(), m.rules.view()
	m.view.Store(view)
	m.log(before, view)
	if all.Tell {
		m.cfg.OnChange(view)
	}
}

// view is what others are to know.
func (c *memberRules) view() *View {
	v := &View{Known: c.known}
	if !c.known {
		return v
	}
	for _, key := range slices.Sorted(maps.Keys(c.members)) {
		s := c.members[key]
		v.Peers = append(v.Peers, Peer{Member: s.member, Alive: s.alive, Eligible: s.eligible, Since: s.since, Former: s.former})
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
