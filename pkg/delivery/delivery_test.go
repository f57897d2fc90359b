package delivery

import (
	"context"
	"errors"
	"fmt"
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

// stage is a delivery whose sink is the test's, and one subscription's endpoints, of which one is open at a
// time.
type stage struct {
	*Delivery
	endpoints *Endpoints
	of        subscription.Subscription
	endpoint  *Endpoint
	busy      <-chan struct{} // closed when the endpoint before has nothing in hand
}

// silentHolder is told nothing that the test looks at.
type silentHolder struct{}

func (silentHolder) Refusing(*Endpoint, string, bool) {}

func (silentHolder) Superseded(context.Context, *Endpoint, uint64) {}

func testSubscriptions(n int) []subscription.Subscription {
	subs := make([]subscription.Subscription, n)
	for i := range subs {
		subs[i] = subscription.Subscription{Store: "s", Type: subscription.ByEventType, Selector: fmt.Sprintf("type_%d:v1", i%10), Name: fmt.Sprintf("sub_%d", i)}
	}
	return subs
}

func newStage(t testing.TB, kind sink.Kind, budget int64, deliver sinkFunc) *stage {
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
	d := New(Options{
		Conn: nc, Owner: registration.Owner{Name: "a", ID: "id"}, Budget: budget,
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) { return deliver, sink.Config{Kind: kind} },
	})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	return &stage{Delivery: d, endpoints: d.Endpoints(NewFence("s", d.Logger), silentHolder{}), of: testSubscriptions(1)[0]}
}

type sinkFunc func(context.Context, *sink.Event) error

func (f sinkFunc) Deliver(ctx context.Context, e *sink.Event) error { return f(ctx, e) }

// begin opens an endpoint, as a loop does, where the holder before stopped.
func (s *stage) begin(number uint64, at registration.Position) {
	s.endpoint = s.endpoints.Open(Start{Subscription: &s.of, Number: number, At: at, After: s.busy})
}

func (s *stage) shut() { s.busy, s.endpoint = s.endpoint.Close(), nil }

// send offers an event to the endpoint that is open; sequence 0: one without.
func (s *stage) send(sequence uint64) {
	m := &nats.Msg{Subject: s.Prefix() + strconv.FormatUint(s.endpoint.number, 10), Header: nats.Header{}}
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
			s.begin(1, registration.Position{})
			s.send(1)
			<-begun // in hand
			s.Options.Sink = func(subscription.Subscription) (sink.Sink, sink.Config) {
				return sinkFunc(func(_ context.Context, e *sink.Event) error { begun <- e.Sequence; return nil }), sink.Config{Kind: kind}
			}
			s.shut()
			s.begin(2, registration.Position{})
			if between {
				s.send(1)
			}
			s.shut()
			s.begin(3, registration.Position{})
			s.send(1)
			select {
			case <-begun:
				t.Errorf("%s: a later run delivers while an earlier one has an event in hand", kind)
			case <-time.After(50 * time.Millisecond):
			}
			s.shut()
			if isClosed(s.busy) {
				t.Errorf("%s: the subscription would be released with an event in hand", kind)
			}
			close(proceed)
			<-s.busy
			s.Stop()
		}
	}
}

func TestDeliveryStopsThoughEndpointsWereLeftOpen(t *testing.T) {
	tried := make(chan struct{}, 1)
	s := newStage(t, sink.Handler, 0, func(context.Context, *sink.Event) error {
		select {
		case tried <- struct{}{}:
		default:
		}
		return errors.New("nobody is there")
	})
	s.begin(1, registration.Position{})
	s.send(1)
	<-tried
	s.Stop()
}

func TestEventsWithoutASequenceAreHeldWithinTheBudget(t *testing.T) {
	proceed := make(chan struct{})
	s := newStage(t, sink.Handler, 4096, func(context.Context, *sink.Event) error { <-proceed; return nil })
	s.begin(1, registration.Position{})
	for range 1000 {
		s.send(0)
	}
	if queued := s.Queued(); queued > 2*4096 {
		t.Errorf("%d bytes wait", queued)
	}
	close(proceed)
	s.shut()
	s.Stop()
}

func TestProxyGoesOnWhereTheHolderBeforeStopped(t *testing.T) {
	got := make(chan sink.Event, 8)
	s := newStage(t, sink.Publish, 0, func(_ context.Context, e *sink.Event) error {
		got <- *e
		return nil
	})
	defer s.Stop()
	s.begin(1, registration.Position{Accepted: 7, Epoch: "e"})
	answers, err := s.Conn.SubscribeSync("answers")
	if err != nil {
		t.Fatal(err)
	}
	send := func(m map[string]string) {
		header := nats.Header{}
		for k, v := range m {
			header[k] = []string{v}
		}
		s.receive(&nats.Msg{Subject: s.Prefix() + "1", Reply: "answers", Header: header})
	}
	answer := func(want string) {
		t.Helper()
		m, err := answers.NextMsg(5 * time.Second)
		if err != nil || string(m.Data) != want {
			t.Fatalf("%v, %v; want %s", m, err, want)
		}
	}
	send(map[string]string{event.SequenceHeader: "7", event.PrevHeader: "0"})
	answer("+ACK 7")
	send(map[string]string{event.SequenceHeader: "9", event.PrevHeader: "7"})
	answer("+ACK 9")
	if e := <-got; len(got) > 0 || e.Sequence != 9 || e.Epoch != "e" {
		t.Fatalf("%+v, and %d more", e, len(got))
	}
	send(map[string]string{event.SequenceHeader: "0", event.EpochHeader: "e"})
	answer("+ACK 9")
	answer("-NAK 9")
	if at := s.endpoint.Position(); at != (registration.Position{Accepted: 9, Epoch: "e"}) {
		t.Errorf("it stopped at %+v", at)
	}
	s.endpoint.Forget()
	if at := s.endpoint.Position(); at != (registration.Position{Accepted: 9, Epoch: "e"}) {
		t.Errorf("it forgot what it took, and is at %+v", at)
	}
	// The store is another: where the holder before stopped says nothing about it.
	send(map[string]string{event.SequenceHeader: "0", event.EpochHeader: "f"})
	answer("-NAK 0")
	s.shut()

	s.begin(2, registration.Position{Accepted: 7, Epoch: "e"})
	s.endpoint.Forget()
	if at := s.endpoint.Position(); at != (registration.Position{}) {
		t.Errorf("it goes on at %+v, where the holder before was not the last", at)
	}
	s.shut()
}
