package service

import (
	"testing"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A reload takes a subscription away, which another instance goes on with. The events that wait here must
// not be accepted by a sink that is not the subscription's: nobody would get them.
func TestRemovedSubscriptionKeepsItsSinkForWhatItHasInHand(t *testing.T) {
	node, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
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
	with := func(subs ...config.Subscription) *config.Config {
		c := config.Default()
		c.Stores = []config.Store{{ID: "s", Subscriptions: subs}}
		return c
	}
	kept := config.Subscription{Name: "kept", Forward: &config.Forward{Sink: "request", Subject: "a"}}
	removed := config.Subscription{Name: "removed", Forward: &config.Forward{Sink: "request", Subject: "b"}}
	s := newSinks(sink.Outlet{JetStream: js, Publisher: sink.NewPublisher(nc)}, with(kept, removed))
	selector := ""
	goes := func(name string, kind sink.Kind, subject string) {
		t.Helper()
		if _, c := s.of(subscription.Subscription{Store: "s", Selector: selector, Name: name, StartVersion: 7}); c.Kind != kind || c.Subject != subject {
			t.Errorf("%s goes to %+v", name, c)
		}
	}
	kept.Forward = &config.Forward{Sink: "request", Subject: "c"}
	s.configure(with(kept))
	goes("kept", sink.Request, "c")
	goes("removed", sink.Request, "b")
	s.configure(with(kept))
	goes("removed", sink.Request, "b")
	removed.Forward = nil // it is back, and goes where nothing is said
	s.configure(with(removed))
	goes("removed", sink.Publish, sink.DeliveredPrefix+"s.removed")
	goes("kept", sink.Request, "c")

	kept.Selector, kept.Forward = "another", &config.Forward{Sink: "request", Subject: "d"} // which makes it another subscription
	s.configure(with(kept))
	goes("kept", sink.Request, "c")
	selector = "another"
	goes("kept", sink.Request, "d")
}
