package membership

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

func TestMain(m *testing.M) { leasetest.VerifyMain(m) }

// process has a session, and knows the members.
type process struct {
	*leasetest.Process
	session    *Session
	membership *Membership
	views      chan *View
	superseded chan Member
}

func startProcess(t *testing.T, url, name string, ttl time.Duration) *process {
	t.Helper()
	p := &process{Process: leasetest.Connect(t, url, name), views: make(chan *View, 1000), superseded: make(chan Member, 10)}
	var err error
	p.membership, err = New(Config{Follower: p.Follower, OnChange: func(v *View) { p.views <- v }})
	if err != nil {
		t.Fatal(err)
	}
	p.session, err = OpenSession(SessionConfig{
		Owner: p.Owner, Follower: p.Follower, Version: "1.2.3", Weight: 2, TTL: ttl, Ensure: p.Ensure,
		OnSuperseded: func(by Member) { p.superseded <- by },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.membership.Run(ctx) })
	t.Cleanup(func() {
		p.close(t)
		cancel()
		running.Wait()
	})
	leasetest.Next(t, p.session.Opened())
	p.Follow(t, nil)
	return p
}

// close closes the session; its outcome is no concern.
func (p *process) close(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.session.Close(ctx)
}

// awaitMembers waits for the process to see these alive and counting, by name and id, and nobody else.
func (p *process) awaitMembers(t *testing.T, others ...*process) {
	t.Helper()
	want := map[string]string{}
	for _, o := range others {
		want[o.Owner.Name] = o.Owner.ID
	}
	leasetest.Eventually(t, "members of "+p.Owner.Name, func() bool {
		got := eligible(p.membership.Snapshot())
		if len(got) != len(want) {
			return false
		}
		for name, id := range want {
			if got[name] != id {
				return false
			}
		}
		return true
	})
}

func memberEntry(t *testing.T, p *process, name string) (Member, kv.Entry) {
	t.Helper()
	e, ok, err := p.Bucket.GetFromLeader(t.Context(), MemberKey(name))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	var m Member
	if e.Operation == kv.Put {
		if m, err = DecodeMember(e.Key, e.Data); err != nil {
			t.Fatal(err)
		}
	}
	return m, e
}

func TestSessionIsWhatTheContractSays(t *testing.T) {
	n := leasetest.StartNode(t)
	p := startProcess(t, n.URL(), "host a", leasetest.Never)
	m, e := memberEntry(t, p, "host a")
	if e.Key != "member.host=20a" || m.Owner() != p.Owner || m.Version != "1.2.3" || m.Weight != 2 || m.Draining ||
		m.TTLMillis != leasetest.Never.Milliseconds() || m.Incarnation != 1 || time.Since(m.Since) > leasetest.Patience {
		t.Errorf("%s: %s", e.Key, e.Data)
	}
	var raw map[string]any
	if err := json.Unmarshal(e.Data, &raw); err != nil || len(raw) != 10 {
		t.Errorf("%v %v", raw, err)
	}
	if held, ok := p.session.Member(); !ok || held != m {
		t.Errorf("held %+v, in the bucket %+v", held, m)
	}
	if v := leasetest.Next(t, p.views); len(v.Peers) != 1 || !v.Peers[0].Eligible {
		t.Errorf("first told of %+v", v)
	}
}

func TestMembersSeeWhoComesAndGoes(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b, c := startProcess(t, n.URL(), "a", leasetest.Never), startProcess(t, n.URL(), "b", leasetest.Never), startProcess(t, n.URL(), "c", leasetest.Never)
	for _, p := range []*process{a, b, c} {
		p.awaitMembers(t, a, b, c)
	}
	if err := b.session.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, p := range []*process{a, b, c} {
		p.awaitMembers(t, a, c)
		if p.membership.Snapshot().Alive(b.Owner) || !p.membership.Snapshot().Alive(a.Owner) {
			t.Error("the wrong ones are alive")
		}
	}
	if err := b.session.SetDraining(t.Context(), true); !errors.Is(err, ErrClosed) || b.session.err != nil {
		t.Errorf("%v, %v", err, b.session.err)
	}
}

func TestMemberThatVanishesIsGoneAfterTTLAndGrace(t *testing.T) {
	n := leasetest.StartNode(t)
	const ttl = 500 * time.Millisecond
	a, b := startProcess(t, n.URL(), "a", ttl), startProcess(t, n.URL(), "b", ttl)
	a.awaitMembers(t, a, b)
	began := time.Now()
	b.NC.Close()
	a.awaitMembers(t, a)
	if took := time.Since(began); took < lease.DefaultGrace || took > 10*lease.DefaultGrace {
		t.Errorf("gone after %v", took)
	}
}

func TestRestartUnderTheSameNameSupersedesAtOnce(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startProcess(t, n.URL(), "a", leasetest.Never), startProcess(t, n.URL(), "b", leasetest.Never)
	a.awaitMembers(t, a, b)
	b.Pipe.Lock() // as stopped by SIGSTOP
	proceed := sync.OnceFunc(b.Pipe.Unlock)
	defer proceed()
	again := startProcess(t, n.URL(), "b", leasetest.Never)
	a.awaitMembers(t, a, again)
	if a.membership.Snapshot().Alive(b.Owner) {
		t.Error("the last run is alive")
	}
	if m, _ := again.session.Member(); m.Incarnation != 2 {
		t.Errorf("incarnation %d", m.Incarnation)
	}
	proceed()
	if by := leasetest.Next(t, b.superseded); by.ID != again.Owner.ID {
		t.Errorf("superseded by %+v", by)
	}
	leasetest.Next(t, b.session.Ended())
	if err := b.session.err; !errors.Is(err, ErrSuperseded) {
		t.Error(err)
	}
	if err := b.session.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if m, _ := memberEntry(t, a, "b"); m.ID != again.Owner.ID {
		t.Errorf("the bucket has %+v", m)
	}
}

func TestDrainingIsSeenByOthers(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startProcess(t, n.URL(), "a", leasetest.Never), startProcess(t, n.URL(), "b", leasetest.Never)
	a.awaitMembers(t, a, b)
	for _, draining := range []bool{true, false} {
		if err := b.session.SetDraining(t.Context(), draining); err != nil {
			t.Fatal(err)
		}
		if m, _ := memberEntry(t, a, "b"); m.Draining != draining {
			t.Errorf("%+v", m)
		}
		leasetest.Eventually(t, "a knows", func() bool { p, _ := a.membership.Snapshot().Peer("b"); return p.Draining == draining })
		soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := b.session.SetDraining(soon, draining); err != nil { // nothing has to be written for it
			t.Error(err)
		}
		cancel()
	}
}

func TestSessionIsWrittenAgainWhereItIsLost(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startProcess(t, n.URL(), "a", time.Second), startProcess(t, n.URL(), "b", time.Second)
	a.awaitMembers(t, a, b)
	kv, err := a.JS.KeyValue(t.Context(), "exesdb_cluster")
	if err != nil {
		t.Fatal(err)
	}
	for what, lose := range map[string]func() error{
		"deleted":     func() error { return kv.Delete(t.Context(), MemberKey("b")) },
		"purged":      func() error { return kv.Purge(t.Context(), MemberKey("b")) },
		"overwritten": func() error { _, err := kv.PutString(t.Context(), MemberKey("b"), "nonsense"); return err },
		"all purged": func() error {
			s, err := a.JS.Stream(t.Context(), "KV_exesdb_cluster")
			return errors.Join(err, s.Purge(t.Context()))
		},
		"bucket gone": func() error { return a.JS.DeleteKeyValue(t.Context(), "exesdb_cluster") },
		"bucket anew": func() error {
			return errors.Join(a.JS.DeleteKeyValue(t.Context(), "exesdb_cluster"), a.Ensure(t.Context()))
		},
	} {
		if err := lose(); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
			t.Fatal(what, err)
		}
		for _, p := range []*process{a, b} {
			leasetest.Eventually(t, "written again after "+what, func() bool {
				e, ok, err := p.Bucket.GetFromLeader(t.Context(), MemberKey(p.Owner.Name))
				m, bad := DecodeMember(e.Key, e.Data)
				return err == nil && ok && bad == nil && m.ID == p.Owner.ID && m.Incarnation == 1
			})
			p.awaitMembers(t, a, b)
		}
	}
	if len(a.superseded)+len(b.superseded) > 0 {
		t.Error("superseded")
	}
}

func TestMembersSurviveARestartOfNATS(t *testing.T) {
	n := leasetest.StartNode(t)
	a, b := startProcess(t, n.URL(), "a", time.Second), startProcess(t, n.URL(), "b", time.Second)
	unnoticed(t, a, b, func() {
		n.Stop()
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMembersWhoseKeysAllExpiredComeBackUnnoticed(t *testing.T) {
	n := leasetest.StartNode(t)
	const ttl = 500 * time.Millisecond
	watcher, a, b := leasetest.Connect(t, n.URL(), "w"), startProcess(t, n.URL(), "a", ttl), startProcess(t, n.URL(), "b", ttl)
	unnoticed(t, a, b, func() {
		for _, p := range []*process{a, b} { // nobody can renew, as while the bucket has no leader
			p.Pipe.Lock()
			defer p.Pipe.Unlock()
		}
		leasetest.Eventually(t, "both expire", func() bool {
			e, _, _ := watcher.Bucket.GetFromLeader(t.Context(), MemberKey("a"))
			o, _, _ := watcher.Bucket.GetFromLeader(t.Context(), MemberKey("b"))
			return e.Operation == kv.Expired && o.Operation == kv.Expired
		})
	})
}

// unnoticed checks that both renew after something happened, and that neither is told of a change.
func unnoticed(t *testing.T, a, b *process, happen func(), others ...*process) {
	t.Helper()
	all := append([]*process{a, b}, others...)
	last := map[*process]uint64{}
	for _, p := range []*process{a, b} {
		p.awaitMembers(t, all...)
		drain(p.views)
		_, e := memberEntry(t, p, p.Owner.Name)
		last[p] = e.Revision
	}
	happen()
	for p, before := range last {
		leasetest.Eventually(t, "renewed", func() bool {
			e, ok, err := p.Bucket.GetFromLeader(t.Context(), MemberKey(p.Owner.Name))
			return err == nil && ok && e.Operation == kv.Put && e.Revision > before
		})
		p.awaitMembers(t, all...)
	}
	if len(a.views)+len(b.views) > 0 {
		t.Errorf("a was told of %d changes, b of %d", len(a.views), len(b.views))
	}
}

func TestElectionOfTheBucketAloneEndsNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	nodes, err := testbed.StartNodes(t.Context(), 3, natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Shutdown)
	setup := leasetest.Connect(t, nodes.Servers[0].URL(), "setup")
	if err := setup.JS.DeleteKeyValue(t.Context(), "exesdb_cluster"); err != nil {
		t.Fatal(err)
	}
	leasetest.OpenBucket(t, setup.JS, kv.Config{Kind: kv.Cluster, Replicas: 3})
	if err := nodes.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	const ttl = time.Second
	a, b, c := startProcess(t, nodes.URLs(), "a", ttl), startProcess(t, nodes.URLs(), "b", ttl), startProcess(t, nodes.URLs(), "c", ttl)
	c.awaitMembers(t, a, b, c)
	leader, err := nodes.StreamLeader(t.Context(), setup.JS, "KV_exesdb_cluster")
	if err != nil {
		t.Fatal(err)
	}
	unnoticed(t, a, b, func() { leader.Stop() }, c)
	// One that dies with the leader is missed all the same.
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := nodes.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leader, err = nodes.StreamLeader(t.Context(), setup.JS, "KV_exesdb_cluster"); err != nil {
		t.Fatal(err)
	}
	leader.Stop()
	c.NC.Close()
	a.awaitMembers(t, a, b)
	b.awaitMembers(t, a, b)
}

func drain[T any](c <-chan T) {
	for len(c) > 0 {
		<-c
	}
}

func TestMistakesInASessionAreRefused(t *testing.T) {
	n := leasetest.StartNode(t)
	c := leasetest.Connect(t, n.URL(), "a")
	c.Follow(t, nil)
	for what, cfg := range map[string]SessionConfig{
		"no owner":    {Follower: c.Follower},
		"no follower": {Owner: c.Owner},
		"short":       {Owner: c.Owner, Follower: c.Follower, TTL: time.Millisecond},
		"heavy":       {Owner: c.Owner, Follower: c.Follower, Weight: MaxWeight + 1},
	} {
		if _, err := OpenSession(cfg); !errors.Is(err, ErrSession) {
			t.Errorf("%s: %v", what, err)
		}
	}
	leasetest.Eventually(t, "the follower runs", func() bool {
		_, err := New(Config{Follower: c.Follower})
		return errors.Is(err, ErrConfig)
	})
	if _, err := New(Config{}); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

func TestMemberRecordsAreReadGenerously(t *testing.T) {
	for data, want := range map[string]int{
		`{"name":"a","id":"1"}`:                           1,
		`{"name":"a","id":"1","weight":-3,"more":true}`:   1,
		`{"name":"a","id":"1","weight":100000,"more":[]}`: MaxWeight,
		`{"name":"a"}`:          0,
		`{"name":"b","id":"1"}`: 0,
		`nonsense`:              0,
	} {
		m, err := DecodeMember("member.a", []byte(data))
		if want == 0 && !errors.Is(err, ErrBadSession) || want > 0 && (err != nil || m.Weight != want) {
			t.Errorf("%s: %+v, %v", data, m, err)
		}
	}
}
