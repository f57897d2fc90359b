package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registrar"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// memory is a bucket with one key and its whole history, as JetStream keeps it: conditional writes, one
// revision after the other.
type memory struct {
	history []kv.Entry
	// between, where set, happens after each write attempt has been decided and before its result is known.
	between func()
	// swallow makes the next acknowledgement get lost.
	swallow bool
}

func (m *memory) last() kv.Entry {
	if len(m.history) == 0 {
		return kv.Entry{}
	}
	return m.history[len(m.history)-1]
}

// Put implements Bucket.
func (m *memory) Put(_ context.Context, writes []kv.Write) []kv.Result {
	results := make([]kv.Result, len(writes))
	for i, w := range writes {
		if m.last().Revision != w.Revision {
			results[i].Err = kv.ErrConflict
			continue
		}
		e := kv.Entry{Key: w.Key, Revision: uint64(len(m.history) + 1), Data: w.Data}
		if w.Data == nil {
			e.Operation, e.Incarnation = kv.Deleted, w.Incarnation
		}
		m.history = append(m.history, e)
		results[i].Revision = e.Revision
		if m.swallow {
			m.swallow, results[i] = false, kv.Result{Err: kv.ErrNoAck}
		}
	}
	if m.between != nil {
		m.between()
	}
	return results
}

// Patience implements verify.Bucket: there is no way to it.
func (m *memory) Patience(work time.Duration) time.Duration { return work }

// Get implements verify.Bucket.
func (m *memory) Get(context.Context, string) (kv.Entry, bool, error) {
	return m.last(), len(m.history) > 0, nil
}

// GetLast implements verify.Bucket.
func (m *memory) GetLast(_ context.Context, _ []string, found func(kv.Entry)) error {
	if len(m.history) > 0 {
		found(m.last())
	}
	return nil
}

// GetFromLeader implements verify.Bucket.
func (m *memory) GetFromLeader(context.Context, string) (kv.Entry, bool, error) {
	return m.last(), len(m.history) > 0, nil
}

// claimant is one instance with one proxy, and how far it has followed the bucket.
type claimant struct {
	dispatcher *dispatcher
	item       *managed
	proxy      *proxy.Proxy
	owner      registration.Owner
	followed   int
	pending    bool
}

func newClaimant(m *memory, n int, s subscription.Subscription) *claimant {
	c := &claimant{owner: registration.Owner{Name: fmt.Sprintf("instance-%d", n), ID: fmt.Sprintf("id-%d", n)}}
	sh := &shared{owner: c.owner, metrics: NewMetrics(nil), logger: slog.New(slog.DiscardHandler)}
	sh.registrar = registrar.New(registrar.Options{Bucket: m, Owner: c.owner, Verifications: sh.metrics.Verifications})
	c.dispatcher = newLoop(sh, s.Store).dispatcher
	c.item = &managed{key: s.Key(), number: 1}
	c.item.proxy = proxy.Proxy{Subscription: s, Health: breaker.Unknown}
	c.proxy = &c.item.proxy
	return c
}

func (c *claimant) step(in proxy.Input) {
	in.SeenAt = time.Now()
	fx := c.proxy.Step(in, time.Now(), &testSettings)
	c.pending = c.pending || fx.Attempt
	if fx.Release {
		c.dispatcher.release(c.item, nil, false, time.Now())
		c.dispatcher.releaseRecords(context.Background(), c.dispatcher.drained())
	}
	if in.Kind == proxy.Seen || in.Kind == proxy.Finished {
		c.claim()
	}
}

// claim takes what nobody holds.
func (c *claimant) claim() {
	if c.proxy.Standby && c.proxy.Record.Holder == nil {
		c.step(proxy.Input{Kind: proxy.Assigned})
	}
}

// attempt makes the attempt that was asked for.
func (c *claimant) attempt() {
	if !c.pending {
		return
	}
	c.pending = false
	p := c.proxy
	a := registrar.Attempt{
		Subscription: p.Subscription, Key: c.item.key, DeliverSubject: "d", Revision: p.Record.Revision, Incarnation: p.Record.NextIncarnation(),
		Known: p.Record.Known, Cause: p.Attempt.Cause,
	}
	results := c.dispatcher.registrar.Register(context.Background(), []registrar.Attempt{a}, testSettings.VerificationTimeout)
	c.step(proxy.Input{Kind: proxy.Finished, Outcome: results[0].Outcome})
}

// follow takes up to n more entries from the bucket, in order, as the feed gives them.
func (c *claimant) follow(m *memory, n int) {
	if !c.proxy.Started && c.followed == 0 && n > 1 {
		return // not there yet
	}
	for ; n > 0 && c.followed < len(m.history); n-- {
		e := m.history[c.followed]
		c.followed++
		news := proxy.News{Revision: e.Revision, Removed: e.Operation != kv.Put, Incarnation: e.Incarnation}
		if record, err := registration.Decode(e.Key, e.Data); !news.Removed && err == nil {
			news.Readable, news.Mine = true, record.Owner.ID == c.owner.ID
			news.Incarnation, news.Owner = record.Incarnation, record.Owner
		}
		c.step(proxy.Input{Kind: proxy.Seen, News: news})
	}
}

// TestOfAnyClaimantsExactlyOneHolds lets instances start, register, lose acknowledgements, have their
// records deleted and overwritten, and follow the bucket as late as they like. When all have caught up,
// exactly one of them holds the subscription, it is the one that the bucket names, and the others stand by.
func TestOfAnyClaimantsExactlyOneHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}
		m := &memory{}
		all := make([]*claimant, rapid.IntRange(1, 4).Draw(t, "instances"))
		for i := range all {
			all[i] = newClaimant(m, i, s)
		}
		pick := func(t *rapid.T) *claimant { return all[rapid.IntRange(0, len(all)-1).Draw(t, "instance")] }
		busy := false
		m.between = func() {
			if busy { // what happens between a write and its result is not interrupted again
				return
			}
			busy = true
			defer func() { busy = false }()
			if rapid.Bool().Draw(t, "another writes meanwhile") {
				pick(t).attempt()
			}
			if rapid.Bool().Draw(t, "somebody follows meanwhile") {
				pick(t).follow(m, 3)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				c := pick(t)
				if c.proxy.Started {
					return
				}
				// A process that comes finds the last entry, not the history; whether it does before it
				// starts, depends.
				c.followed = max(len(m.history)-1, 0)
				if rapid.Bool().Draw(t, "level first") {
					c.follow(m, 1)
				}
				c.step(proxy.Input{Kind: proxy.Start})
			},
			"attempt":        func(t *rapid.T) { pick(t).attempt() },
			"follow":         func(t *rapid.T) { pick(t).follow(m, rapid.IntRange(1, 5).Draw(t, "entries")) },
			"leader changed": func(t *rapid.T) { pick(t).step(proxy.Input{Kind: proxy.Event, Cause: registration.LeaderChanged}) },
			"restart":        func(t *rapid.T) { pick(t).step(proxy.Input{Kind: proxy.Restart}) },
			"hand over": func(t *rapid.T) {
				if c := pick(t); c.proxy.Started {
					c.step(proxy.Input{Kind: proxy.Unassigned})
				}
			},
			"lost ack": func(*rapid.T) { m.swallow = true },
			"deleted by hand": func(*rapid.T) {
				if len(m.history) > 0 {
					m.history = append(m.history, kv.Entry{Key: s.Key(), Revision: uint64(len(m.history) + 1), Operation: kv.Deleted})
				}
			},
			"garbage by hand": func(*rapid.T) {
				m.history = append(m.history, kv.Entry{Key: s.Key(), Revision: uint64(len(m.history) + 1), Data: []byte("hello")})
			},
		})
		settle(t, m, all)
		holders := 0
		for _, c := range all {
			if !c.proxy.Started || c.proxy.Standby {
				continue
			}
			holders++
			record, err := lastRecord(m)
			if err != nil || record.Owner.ID != c.owner.ID || !c.proxy.Verified || c.proxy.Record.Revision != m.last().Revision {
				t.Fatalf("%s believes that it holds the subscription (verified %v, revision %d); the bucket has %+v, %v at %d",
					c.owner.ID, c.proxy.Verified, c.proxy.Record.Revision, record.Owner, err, m.last().Revision)
			}
		}
		if started := anyStarted(all); started && holders != 1 {
			t.Fatalf("%d instances hold the subscription", holders)
		}
	})
}

func lastRecord(m *memory) (registration.Registration, error) {
	e := m.last()
	return registration.Decode(e.Key, e.Data)
}

func anyStarted(all []*claimant) bool {
	for _, c := range all {
		if c.proxy.Started {
			return true
		}
	}
	return false
}

// settle lets everything that is under way end, retries that are due included.
func settle(t *rapid.T, m *memory, all []*claimant) {
	m.between, m.swallow = nil, false
	for range 100 {
		quiet := true
		for _, c := range all {
			c.follow(m, len(m.history))
			c.claim()
			if !c.pending && c.proxy.Started && !c.proxy.Standby && (c.proxy.Failures > 0 || !c.proxy.Verified) && !c.proxy.Attempt.UnderWay {
				c.step(proxy.Input{Kind: proxy.Event, Cause: registration.Reconnected}) // in place of waiting for the backoff
			}
			quiet = quiet && !c.pending
			c.attempt()
		}
		if quiet {
			return
		}
	}
	t.Fatal("the instances never come to rest")
}
