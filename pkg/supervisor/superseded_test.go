package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// supersededSink refuses each event, since its subscriber has seen a later incarnation.
type supersededSink chan<- struct{}

// Deliver implements sink.Sink.
func (s supersededSink) Deliver(context.Context, *sink.Event) error {
	s <- struct{}{}
	return fmt.Errorf("%w: 2", sink.ErrSuperseded)
}

// TestSubscriberThatHasSeenALaterIncarnationMakesTheProxyAskTheBucket has a sink that refuses an event of
// incarnation 1 for that. It is not parked, whatever max_deliver says; what the bucket holds decides.
func TestSubscriberThatHasSeenALaterIncarnationMakesTheProxyAskTheBucket(t *testing.T) {
	node, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Shutdown()
	nc, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, c := range []struct {
		name        string
		owner       string
		incarnation uint64 // 0: it was released
		news, again bool   // what the loop is told
	}{
		{"another holds it", "other", 2, true, false},
		{"it was released", "", 0, true, false},
		{"this one holds it, and has claimed it anew", "id", 3, false, true},
		{"this one holds it", "id", 1, false, false},
	} {
		refusals := make(chan struct{}, 100)
		d := delivery.New(delivery.Options{
			Conn: nc, Owner: registration.Owner{Name: "a", ID: "id"},
			Sink: func(subscription.Subscription) (sink.Sink, sink.Config) {
				return supersededSink(refusals), sink.Config{Kind: sink.Request, MaxDeliver: 1}
			},
			Park: func(context.Context, *sink.Event, sink.Config, string, int) error {
				t.Errorf("%s: the event is parked", c.name)
				return errors.New("no")
			},
		})
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		l := newLoop(&shared{
			owner: d.Owner, logger: slog.New(slog.DiscardHandler), delivery: d, metrics: NewMetrics(nil), matcher: d.Owner.Matcher(),
		}, "s")
		it := &managed{}
		it.proxy.Subscription = testSubscriptions(1)[0]
		of := it.proxy.Subscription
		it.key = of.Key()
		record := registration.Registration{Subscription: of, Owner: registration.Owner{Name: "n", ID: c.owner}, Incarnation: c.incarnation}
		data, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		entry := kv.Entry{Key: it.key, Revision: 1, Data: data}
		if c.incarnation == 0 {
			entry = kv.Entry{Key: it.key, Revision: 1, Operation: kv.Deleted, Incarnation: 2}
		}
		l.bucket, it.number = &memory{history: []kv.Entry{entry}}, 1
		l.holder.open(it, nil)
		it.endpoint.SetIncarnation(1)
		header := nats.Header{event.SequenceHeader: {"1"}}
		if err := nc.PublishMsg(&nats.Msg{Subject: d.Prefix() + "1", Header: header}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // by the second it has asked, and by the third it would tell that it is refused
			select {
			case <-refusals:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: the event is not tried again", c.name)
			}
		}
		told := l.inbox.empty()
		if (len(told.news) > 0) != c.news || c.news && told.news[0].Revision != 1 {
			t.Errorf("%s: the loop hears of %+v", c.name, told.news)
		}
		if again := len(told.tasks) > 0; again != c.again {
			t.Errorf("%s: the proxy begins anew: %v", c.name, again)
		}
		l.holder.close(it)
		<-it.busy
		d.Stop()
	}
}
