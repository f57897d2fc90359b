package registrar

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

var (
	self  = registration.Owner{Name: "a", ID: "a1"}
	other = registration.Owner{Name: "b", ID: "b1"}
)

// ground is a bucket, and a registrar of this instance.
type ground struct {
	*Registrar
	t       *testing.T
	bucket  *kv.Bucket
	retired bool
}

func newGround(t *testing.T) *ground {
	t.Helper()
	node, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	g := &ground{t: t}
	if g.bucket, err = kv.Open(t.Context(), js, kv.Config{}); err != nil {
		t.Fatal(err)
	}
	g.Registrar = New(Options{
		Bucket: g.bucket, Owner: self, Retired: func() bool { return g.retired },
		Verifications: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x"}, []string{"outcome"}),
	})
	return g
}

func named(name string) subscription.Subscription {
	return subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: name}
}

// put stores a record of the owner over what is there, or a marker where there is none.
func (g *ground) put(s subscription.Subscription, owner *registration.Owner, incarnation, on uint64) uint64 {
	g.t.Helper()
	w := kv.Write{Key: s.Key(), Revision: on, Incarnation: incarnation}
	if owner != nil {
		var err error
		record := registration.Registration{Subscription: s, Owner: *owner, Incarnation: incarnation, Cause: registration.Initial, DeliverSubject: "d"}
		if w.Data, err = record.Encode(); err != nil {
			g.t.Fatal(err)
		}
	}
	r := g.bucket.Put(g.t.Context(), []kv.Write{w})[0]
	if r.Err != nil {
		g.t.Fatal(r.Err)
	}
	return r.Revision
}

// there is what the bucket has.
func (g *ground) there(s subscription.Subscription) (kv.Entry, registration.Registration) {
	g.t.Helper()
	e, ok, err := g.bucket.GetFromLeader(g.t.Context(), s.Key())
	if err != nil || !ok {
		g.t.Fatalf("%s: there %v, %v", s.Name, ok, err)
	}
	if e.Operation != kv.Put {
		return e, registration.Registration{}
	}
	record, err := registration.Decode(e.Key, e.Data)
	if err != nil {
		g.t.Fatal(err)
	}
	return e, record
}

func attempt(s subscription.Subscription, incarnation uint64, known bool) Attempt {
	return Attempt{Subscription: s, Key: s.Key(), DeliverSubject: "d", Incarnation: incarnation, Known: known, Cause: registration.Initial}
}

// One batch of attempts, all of which believe that their keys are empty.
func TestEachAttemptOfABatchEndsAsWhatItFindsInItsWayHasIt(t *testing.T) {
	g := newGround(t)
	cases := []struct {
		name        string
		find        func(subscription.Subscription)
		known       bool
		superseded  bool
		incarnation uint64 // written, or of the record that superseded
	}{
		{"nothing", func(subscription.Subscription) {}, true, false, 3},
		{"marker", func(s subscription.Subscription) { g.put(s, nil, 5, g.put(s, &other, 5, 0)) }, true, false, 6},
		{"own", func(s subscription.Subscription) { g.put(s, &self, 3, 0) }, true, false, 3},
		{"own-later", func(s subscription.Subscription) { g.put(s, &self, 7, 0) }, true, false, 8},
		{"lower", func(s subscription.Subscription) { g.put(s, &other, 2, 0) }, true, false, 3},
		{"equal", func(s subscription.Subscription) { g.put(s, &other, 3, 0) }, true, true, 3},
		{"higher", func(s subscription.Subscription) { g.put(s, &other, 4, 0) }, true, true, 4},
		{"unknown", func(s subscription.Subscription) { g.put(s, &other, 4, 0) }, false, false, 5},
	}
	var attempts []Attempt
	for _, c := range cases {
		s := named(c.name)
		c.find(s)
		attempts = append(attempts, attempt(s, 3, c.known))
	}
	for i, r := range g.Register(t.Context(), attempts, 2*time.Second) {
		c := cases[i]
		e, record := g.there(named(c.name))
		if r.Err != nil || r.Superseded != c.superseded || r.Incarnation != c.incarnation || r.Revision != e.Revision || r.Verified == c.superseded {
			t.Errorf("%s: %+v", c.name, r)
		}
		if owner := record.Owner; (owner == other) != c.superseded || record.Incarnation != c.incarnation || c.superseded && r.By != other {
			t.Errorf("%s: the bucket has %+v", c.name, record)
		}
	}
}

func TestRunThatWasRetiredWritesNothing(t *testing.T) {
	g := newGround(t)
	held, free := named("held"), named("free")
	revision := g.put(held, &self, 1, 0)
	g.retired = true
	if r := g.Register(t.Context(), []Attempt{attempt(free, 1, true)}, 0)[0]; !errors.Is(r.Err, errRetired) || r.Written {
		t.Errorf("%+v", r)
	}
	if err := g.Release(t.Context(), []kv.Write{{Key: held.Key(), Revision: revision}})[0]; err != nil {
		t.Error(err)
	}
	if e, _ := g.there(held); e.Revision != revision {
		t.Error("it released what the next run of its name may hold")
	}
	if _, ok, err := g.bucket.GetFromLeader(t.Context(), free.Key()); ok || err != nil {
		t.Errorf("it registered: %v, %v", ok, err)
	}
}

// What is released was written once more meanwhile: by this instance, whose acknowledgement was lost, or by
// another.
func TestReleaseDeletesOwnLaterRecordAndNobodyElses(t *testing.T) {
	g := newGround(t)
	own, lost := named("own"), named("lost")
	before := g.put(own, &self, 1, 0)
	g.put(own, &self, 2, before)
	of := g.put(lost, &self, 1, 0)
	theirs := g.put(lost, &other, 2, of)
	for i, err := range g.Release(t.Context(), []kv.Write{{Key: own.Key(), Revision: before, Incarnation: 1}, {Key: lost.Key(), Revision: of, Incarnation: 1}}) {
		if err != nil {
			t.Errorf("release %d: %v", i, err)
		}
	}
	if e, _ := g.there(own); e.Operation != kv.Deleted || e.Incarnation != 2 {
		t.Errorf("its own later record: %+v", e)
	}
	if e, _ := g.there(lost); e.Revision != theirs {
		t.Error("another's record was deleted")
	}
}
