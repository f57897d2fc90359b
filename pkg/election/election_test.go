package election

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

func TestMain(m *testing.M) { leasetest.VerifyMain(m) }

// candidate is a process that contends for stores: one election a store.
type candidate struct {
	*leasetest.Process
	stop    context.CancelFunc // of the elections, which resign
	running sync.WaitGroup
	minTerm atomic.Uint64
}

func startCandidate(t *testing.T, n *natsnode.Node, name string) *candidate {
	t.Helper()
	c := &candidate{Process: leasetest.Connect(t, n.URL(), name)}
	c.Follow(t, func() {
		if c.stop != nil {
			c.stop()
		}
		c.running.Wait()
	})
	return c
}

// part is a candidate's part in one election, and its leaderships.
type part struct {
	*Election
	leases chan *Lease
	ended  chan error    // causes
	giveUp chan struct{} // lets Lead return
	result chan error    // of Run
	over   chan struct{} // closed when Run has returned
}

// leader is the leader that the candidate knows of.
func (p *part) leader() (known LeaderRecord, ok bool) {
	answered := make(chan struct{})
	if p.client.Call(context.Background(), p.over, func() (done bool) {
		defer close(answered)
		switch r := &p.rules; {
		case r.leading:
			known, ok = r.held, true
		case r.lease.State == lease.Present:
			known, ok = r.lease.Record, true
		}
		return false
	}) {
		<-answered
	}
	return known, ok
}

// verify renews the lease: nil says that it was held at some time meanwhile.
func verify(ctx context.Context, l *Lease) error { return l.RaiseTerm(ctx, 0) }

func (c *candidate) contend(t *testing.T, ctx context.Context, store string, ttl time.Duration) *part {
	t.Helper()
	p := &part{leases: make(chan *Lease, 100), ended: make(chan error, 100), giveUp: make(chan struct{}), result: make(chan error, 1), over: make(chan struct{})}
	var err error
	p.Election, err = New(Config{
		Store: store, Candidate: c.Owner, Follower: c.Follower, TTL: ttl, MinTerm: c.minTerm.Load, Ensure: c.Ensure,
		Lead: func(ctx context.Context, l *Lease) {
			p.leases <- l
			select {
			case <-ctx.Done():
				p.ended <- context.Cause(ctx)
			case <-p.giveUp:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.running.Go(func() {
		defer close(p.over)
		p.result <- p.Run(ctx)
	})
	return p
}

// start contends until the candidate is stopped.
func (c *candidate) start(t *testing.T, store string, ttl time.Duration) *part {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	if before := c.stop; before != nil {
		c.stop = func() { before(); stop() }
	} else {
		c.stop = stop
	}
	return c.contend(t, ctx, store, ttl)
}

func knows(p *part, leader string) func() bool {
	return func() bool {
		r, ok := p.leader()
		return ok && r.Leader == leader
	}
}

func TestFirstElectionIsWonByOneAndKnownToAll(t *testing.T) {
	n := leasetest.StartNode(t)
	parts := map[string]*part{}
	leases := make(map[string]*Lease)
	for _, name := range []string{"a", "b", "c"} {
		parts[name] = startCandidate(t, n, name).start(t, "green house", leasetest.Never)
	}
	var leader string
	leasetest.Eventually(t, "one leads", func() bool {
		for name, p := range parts {
			select {
			case l := <-p.leases:
				leases[name], leader = l, name
			default:
			}
		}
		return leader != ""
	})
	for _, p := range parts {
		leasetest.Eventually(t, "all know", knows(p, leader))
	}
	l := leases[leader]
	if previous, why := l.Previous(); why != VacantFirst || previous != (LeaderRecord{}) || l.Term() == 0 || l.Epoch() != "" {
		t.Errorf("term %d, epoch %q, previous %+v, %s", l.Term(), l.Epoch(), previous, why)
	}
	if err := verify(t.Context(), l); err != nil {
		t.Error(err)
	}
	for name, p := range parts {
		if len(p.leases) > 0 {
			t.Errorf("%s was elected too", name)
		}
	}
}

func TestLeaderThatStopsHandsOverAtOnce(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	pa := a.start(t, "s", leasetest.Never)
	first := leasetest.Next(t, pa.leases)
	if err := first.SetEpoch(t.Context(), "e1", "w1"); err != nil || first.Epoch() != "e1" || first.Witness() != "w1" {
		t.Errorf("epoch %q, witness %q, %v", first.Epoch(), first.Witness(), err)
	}
	first.Remember("w2")
	if err := verify(t.Context(), first); err != nil || first.Witness() != "w2" {
		t.Errorf("witness %q, %v", first.Witness(), err)
	}
	pb := b.start(t, "s", leasetest.Never)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	began := time.Now()
	a.stop()
	second := leasetest.Next(t, pb.leases)
	if took := time.Since(began); took > leasetest.Never/3 {
		t.Errorf("the hand-over took %v", took)
	}
	if cause := leasetest.Next(t, pa.ended); !errors.Is(cause, context.Canceled) {
		t.Errorf("ended by %v", cause)
	}
	if err := leasetest.Next(t, pa.result); err != nil {
		t.Error(err)
	}
	if previous, why := second.Previous(); why != VacantResigned || previous.Leader != "a" || previous.Epoch != "e1" {
		t.Errorf("previous %+v, %s", previous, why)
	}
	if second.Term() <= first.Term() || second.Epoch() != "e1" || second.Witness() != "w2" {
		t.Errorf("term %d after %d, epoch %q", second.Term(), first.Term(), second.Epoch())
	}
	if err := verify(t.Context(), first); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old lease: %v", err)
	}
}

func TestLeadThatReturnsResigns(t *testing.T) {
	n := leasetest.StartNode(t)
	pa := startCandidate(t, n, "a").start(t, "s", leasetest.Never)
	leasetest.Next(t, pa.leases)
	pb := startCandidate(t, n, "b").start(t, "s", leasetest.Never)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	close(pa.giveUp)
	leasetest.Next(t, pb.leases)
	leasetest.Eventually(t, "a knows b", knows(pa, "b"))
}

func TestLeaderThatVanishesIsReplacedAfterTheTTL(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	const ttl = time.Second
	pa := a.start(t, "s", ttl)
	first := leasetest.Next(t, pa.leases)
	pb := b.start(t, "s", ttl)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	began := time.Now()
	a.NC.Close()
	second := leasetest.Next(t, pb.leases)
	if took := time.Since(began); took < ttl/2 {
		t.Errorf("replaced after %v already", took)
	}
	if previous, why := second.Previous(); why != VacantExpired || previous.Leader != "a" || second.Term() <= first.Term() {
		t.Errorf("previous %+v, %s, term %d after %d", previous, why, second.Term(), first.Term())
	}
	if err := verify(t.Context(), second); err != nil {
		t.Error(err)
	}
	a.stop()
	if err := leasetest.Next(t, pa.result); err == nil {
		t.Error("it claims to have resigned")
	}
}

func TestLeaderThatWasOvertakenIsDeposedByItsNextWrite(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	pa := a.start(t, "s", leasetest.Never)
	first := leasetest.Next(t, pa.leases)
	// Another takes over, as after its TTL, and a hears of it or writes, whichever is first.
	e, ok, err := b.Bucket.GetFromLeader(t.Context(), LeaderKey("s"))
	if err != nil || !ok {
		t.Fatal(err)
	}
	leasetest.Eventually(t, "overtaken", func() bool {
		data := []byte(`{"store":"s","leader":"b","id":"other","term":1000,"ttl_ms":30000}`)
		r := b.Bucket.Put(t.Context(), []kv.Write{{Key: LeaderKey("s"), Data: data, Revision: e.Revision}})[0]
		if r.Err != nil {
			e, _, _ = b.Bucket.GetFromLeader(t.Context(), LeaderKey("s"))
		}
		return r.Err == nil
	})
	if err := verify(t.Context(), first); !errors.Is(err, ErrDeposed) {
		t.Errorf("verified: %v", err)
	}
	if cause := leasetest.Next(t, pa.ended); !errors.Is(cause, ErrDeposed) {
		t.Errorf("ended by %v", cause)
	}
	leasetest.Eventually(t, "a knows b", knows(pa, "b"))
}

func TestLeaderThatIsPausedIsDeposedWhenItContinues(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	const ttl = time.Second
	pa := a.start(t, "s", ttl)
	first := leasetest.Next(t, pa.leases)
	pb := b.start(t, "s", ttl)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	a.Pipe.Lock()
	proceed := sync.OnceFunc(a.Pipe.Unlock)
	defer proceed()
	var second *Lease
	leasetest.Eventually(t, "replaced", func() bool {
		select {
		case second = <-pb.leases:
		default:
		}
		return second != nil
	})
	if len(pa.ended) > 0 {
		t.Error("deposed while it was paused")
	}
	proceed()
	if cause := leasetest.Next(t, pa.ended); !errors.Is(cause, ErrDeposed) {
		t.Errorf("ended by %v", cause)
	}
	if err := verify(t.Context(), first); !errors.Is(err, ErrDeposed) {
		t.Errorf("verified: %v", err)
	}
	if err := verify(t.Context(), second); err != nil || second.Term() <= first.Term() {
		t.Errorf("term %d after %d, %v", second.Term(), first.Term(), err)
	}
}

func TestLeaseDeletedByHandIsWrittenAgain(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	pa := a.start(t, "s", leasetest.Never)
	leasetest.Next(t, pa.leases)
	pb := b.start(t, "s", leasetest.Never)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	bucket, err := a.JS.KeyValue(t.Context(), a.Bucket.Name())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		before, _, err := a.Bucket.GetFromLeader(t.Context(), LeaderKey("s"))
		if err != nil {
			t.Fatal(err)
		}
		if err := bucket.Delete(t.Context(), LeaderKey("s")); err != nil {
			t.Fatal(err)
		}
		leasetest.Eventually(t, "written again", func() bool {
			e, ok, err := a.Bucket.GetFromLeader(t.Context(), LeaderKey("s"))
			return err == nil && ok && e.Operation == kv.Put && e.Revision > before.Revision
		})
	}
	leasetest.Eventually(t, "both know one", func() bool {
		ra, oka := pa.leader()
		rb, okb := pb.leader()
		return oka && okb && ra.ID == rb.ID
	})
}

func TestBucketThatIsDeletedIsMadeAnewAndLed(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	const ttl = time.Second
	parts := []*part{a.start(t, "s", ttl), b.start(t, "s", ttl)}
	leasetest.Eventually(t, "one leads", func() bool { return len(parts[0].leases)+len(parts[1].leases) > 0 })
	var term uint64
	for _, p := range parts {
		leasetest.Eventually(t, "known", func() bool { r, ok := p.leader(); term = max(term, r.Term); return ok })
	}
	if err := a.JS.DeleteKeyValue(t.Context(), a.Bucket.Name()); err != nil {
		t.Fatal(err)
	}
	leasetest.Eventually(t, "led", func() bool {
		e, ok, err := a.Bucket.GetFromLeader(t.Context(), LeaderKey("s"))
		if err != nil || !ok || e.Operation != kv.Put {
			return false
		}
		r, err := decodeLeader("s", e.Data)
		if err != nil {
			return false
		}
		for _, p := range parts {
			known, ok := p.leader()
			if !ok || known.ID != r.ID || known.Term < term {
				return false
			}
		}
		return true
	})
}

func TestLeaderOutlivesAnOutageOfJetStream(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	const ttl = time.Second
	pa := a.start(t, "s", ttl)
	first := leasetest.Next(t, pa.leases)
	pb := b.start(t, "s", ttl)
	leasetest.Eventually(t, "b knows a", knows(pb, "a"))
	if err := n.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*ttl)
	defer cancel()
	if err := verify(ctx, first); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("verified without JetStream: %v", err)
	}
	if err := n.EnableJetStream(); err != nil {
		t.Fatal(err)
	}
	if err := verify(t.Context(), first); err != nil {
		t.Error(err)
	}
	if len(pb.leases) > 0 || len(pa.ended) > 0 {
		t.Error("replaced, though it was only JetStream that was away")
	}
}

func TestStoresHaveLeadersOfTheirOwn(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startCandidate(t, n, "a"), startCandidate(t, n, "b")
	a1 := a.start(t, "one", leasetest.Never)
	l1 := leasetest.Next(t, a1.leases)
	b2 := b.start(t, "two", leasetest.Never)
	l2 := leasetest.Next(t, b2.leases)
	b1, a2 := b.start(t, "one", leasetest.Never), a.start(t, "two", leasetest.Never)
	leasetest.Eventually(t, "b knows of one", knows(b1, "a"))
	leasetest.Eventually(t, "a knows of two", knows(a2, "b"))
	for _, l := range []*Lease{l1, l2} {
		if err := verify(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	a.stop()
	leasetest.Next(t, b1.leases)
	if len(b2.ended)+len(a2.leases) > 0 {
		t.Error("the other store changed its leader")
	}
}

func TestTermIsAboveWhatTheCallerKnowsAndCanBeRaised(t *testing.T) {
	n := leasetest.StartNode(t)
	a := startCandidate(t, n, "a")
	a.minTerm.Store(41)
	p := a.start(t, "s", leasetest.Never)
	l := leasetest.Next(t, p.leases)
	if l.Term() != 42 {
		t.Errorf("term %d", l.Term())
	}
	if err := l.RaiseTerm(t.Context(), 99); err != nil || l.Term() != 100 {
		t.Errorf("raised to %d, %v", l.Term(), err)
	}
	if r, ok := p.leader(); !ok || r.Term != 100 {
		t.Errorf("known %+v", r)
	}
	if err := l.RaiseTerm(t.Context(), 1<<64-1); !errors.Is(err, ErrLastTerm) {
		t.Errorf("the last term: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := verify(ctx, l); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("verified with a context that has ended: %v", err)
	}
}

func TestElectionThatCannotBeRunIsRefused(t *testing.T) {
	good := Config{Store: "s", Candidate: registration.Owner{ID: "i"}, Follower: &lease.Follower{}, Lead: func(context.Context, *Lease) {}}
	if e, err := New(good); err != nil || e.cfg.TTL != lease.DefaultTTL || e.rules.grace != lease.DefaultGrace {
		t.Errorf("%+v, %v", e, err)
	}
	short := good
	short.TTL = time.Second
	if e, err := New(short); err != nil || e.rules.grace != time.Second/2 {
		t.Errorf("%+v, %v", e, err)
	}
	for name, spoil := range map[string]func(*Config){
		"store": func(c *Config) { c.Store = "" }, "id": func(c *Config) { c.Candidate.ID = "" },
		"follower": func(c *Config) { c.Follower = nil }, "lead": func(c *Config) { c.Lead = nil },
		"short": func(c *Config) { c.TTL = time.Millisecond }, "long": func(c *Config) { c.TTL = 2 * lease.MaxTTL },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
