package proxy

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// stage is a delivery whose sink is the test's, and one proxy of it.
type stage struct {
	*Delivery
	loop *loop
	it   *item
}

func newStage(t *testing.T, kind sink.Kind, budget int64, deliver sinkFunc) *stage {
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
	d := NewDelivery(DeliveryOptions{
		Conn: nc, Owner: registration.Owner{Name: "a", ID: "id"}, Budget: budget,
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) { return deliver, sink.Config{Kind: kind} },
	})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	s := &stage{Delivery: d, it: &item{}, loop: &loop{shared: &shared{delivery: d}, inbox: newInbox()}}
	s.it.proxy.Subscription = testSubscriptions(1)[0]
	return s
}

type sinkFunc func(context.Context, *sink.Event) error

func (f sinkFunc) Deliver(ctx context.Context, e *sink.Event) error { return f(ctx, e) }

// begin opens an inlet, as tend does.
func (s *stage) begin(number uint64) { s.it.inlet = s.open(s.loop, s.it, number, nil) }

// send offers an event to the inlet that is open; sequence 0: one without.
func (s *stage) send(sequence uint64) {
	m := &nats.Msg{Subject: s.Prefix() + strconv.FormatUint(s.it.inlet.number, 10), Header: nats.Header{}}
	if sequence > 0 {
		m.Header[event.SequenceHeader] = []string{strconv.FormatUint(sequence, 10)}
	}
	s.receive(m)
}

func TestRunOfASubscriptionWaitsForAllBeforeIt(t *testing.T) {
	for _, kind := range []sink.Kind{sink.Handler, sink.Publish} {
		for _, between := range []bool{false, true} { // the run between had an event
			begun, proceed := make(chan uint64, 4), make(chan struct{})
			s := newStage(t, sink.Handler, 0, func(_ context.Context, e *sink.Event) error {
				begun <- e.Sequence
				<-proceed
				return nil
			})
			s.begin(1)
			s.send(1)
			<-begun // in hand
			s.DeliveryOptions.Sink = func(subscription.Subscription) (sink.Sink, sink.Config) {
				return sinkFunc(func(_ context.Context, e *sink.Event) error { begun <- e.Sequence; return nil }), sink.Config{Kind: kind}
			}
			s.loop.shut(s.it)
			s.begin(2)
			if between {
				s.send(1)
			}
			s.loop.shut(s.it)
			s.begin(3)
			s.send(1)
			select {
			case <-begun:
				t.Errorf("%s: a later run delivers while an earlier one has an event in hand", kind)
			case <-time.After(50 * time.Millisecond):
			}
			s.loop.shut(s.it)
			if isClosed(s.it.busy) {
				t.Errorf("%s: the subscription would be released with an event in hand", kind)
			}
			close(proceed)
			<-s.it.busy
			s.Stop()
		}
	}
}

func TestDeliveryStopsThoughInletsWereLeftOpen(t *testing.T) {
	tried := make(chan struct{}, 1)
	s := newStage(t, sink.Handler, 0, func(context.Context, *sink.Event) error {
		select {
		case tried <- struct{}{}:
		default:
		}
		return errors.New("nobody is there")
	})
	s.begin(1)
	s.send(1)
	<-tried
	s.Stop()
}

func TestEventsWithoutASequenceAreHeldWithinTheBudget(t *testing.T) {
	proceed := make(chan struct{})
	s := newStage(t, sink.Handler, 4096, func(context.Context, *sink.Event) error { <-proceed; return nil })
	s.begin(1)
	for range 1000 {
		s.send(0)
	}
	if queued := s.Queued(); queued > 2*4096 {
		t.Errorf("%d bytes wait", queued)
	}
	close(proceed)
	s.loop.shut(s.it)
	s.Stop()
}
