package delivery

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestLabelReplacesTheHeadersOfTheHandOff(t *testing.T) {
	l := label{key: []string{"the key"}}
	attach := func(incarnation uint64) nats.Header {
		m := &nats.Msg{Header: nats.Header{event.PrevHeader: {"6"}, event.TermHeader: {"2"}, event.SequenceHeader: {"7"}, "ce-id": {"x"}}}
		l.attach(m, incarnation)
		return m.Header
	}
	first, again, next := attach(3), attach(3), attach(4)
	for incarnation, h := range map[string]nats.Header{"3": first, "4": next} {
		if len(h) != 4 || h[event.IncarnationHeader][0] != incarnation || h[event.SubscriptionHeader][0] != "the key" ||
			h[event.SequenceHeader][0] != "7" || h["ce-id"][0] != "x" {
			t.Errorf("incarnation %s: %v", incarnation, h)
		}
	}
	if &first[event.IncarnationHeader][0] != &again[event.IncarnationHeader][0] {
		t.Error("two events of one incarnation don't share the header's value")
	}
	bare := &nats.Msg{}
	if l.attach(bare, 4); len(bare.Header) != 2 {
		t.Errorf("an event without headers: %v", bare.Header)
	}
}

func TestTargetIsTheSinkAsOfTheLastRefresh(t *testing.T) {
	publisher := sink.NewPublisher(nil)
	publishing := func(p *sink.Publisher) sink.Sink {
		s, err := sink.Outlet{Publisher: p}.New(sink.Config{Kind: sink.Publish, Subject: "app.x"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	takes := sinkFunc(func(context.Context, *sink.Event) error { return nil })
	var to sink.Sink
	var kind sink.Kind
	asked := 0
	d := New(Options{
		Owner: registration.Owner{Name: "a", ID: "id"}, Publisher: publisher,
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) { asked++; return to, sink.Config{Kind: kind} },
	})
	defer d.digest.Close()
	f := newForwarder(d.Endpoints(NewFence("s", d.Logger), silentHolder{}).Open(Start{Subscription: &testSubscriptions(1)[0], Number: 1}))
	asked = 0 // a forwarder begins with its sink
	for n, c := range []struct {
		name         string
		to           sink.Sink
		kind         sink.Kind
		sends, waits bool
	}{
		{"a sink that an event waits for", takes, sink.Handler, false, true},
		{"one that accepts at once", takes, sink.Publish, false, false},
		{"one that sends on the delivery's publisher", publishing(publisher), sink.Publish, true, true},
		{"one that sends on another", publishing(sink.NewPublisher(nil)), sink.Publish, false, true},
	} {
		to, kind = c.to, c.kind
		if f.target.refresh(f); asked != n {
			t.Fatalf("%s: it asks for its sink without a refresh", c.name)
		}
		d.Refresh()
		f.target.refresh(f)
		if got := f.target; asked != n+1 || got.config.Kind != c.kind || (got.sender != nil) != c.sends || got.waits != c.waits || got.forwarded == nil {
			t.Errorf("%s: asked %d times, %+v", c.name, asked, got)
		}
	}
}
