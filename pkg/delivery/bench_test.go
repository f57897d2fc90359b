package delivery

import (
	"context"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// An event of an emitter in the same process until its sink has accepted it, by the kinds of sinks; run
// with -bench . -run ^$.
func BenchmarkReceive(b *testing.B) {
	accept := sinkFunc(func(context.Context, *sink.Event) error { return nil })
	b.Run("accepted at once", func(b *testing.B) {
		s := newStage(b, sink.Publish, 0, accept)
		defer s.Stop()
		s.receiveMany(b)
	})
	b.Run("sent and confirmed", func(b *testing.B) {
		s := newStage(b, sink.Publish, 0, accept)
		defer s.Stop()
		js, err := jetstream.New(s.Conn)
		if err != nil {
			b.Fatal(err)
		}
		publisher := sink.NewPublisher(s.Conn)
		config := sink.Config{Kind: sink.Publish, Subject: "nobody"}
		to, err := sink.Outlet{JetStream: js, Publisher: publisher}.New(config)
		if err != nil {
			b.Fatal(err)
		}
		s.confirming.publisher = publisher
		s.Options.Sink = func(subscription.Subscription) (sink.Sink, sink.Config) { return to, config }
		s.receiveMany(b)
	})
	b.Run("by a worker that others wait for", func(b *testing.B) {
		s := newStage(b, sink.Handler, 0, accept)
		defer s.Stop()
		s.receiveMany(b)
	})
	b.Run("by a worker", func(b *testing.B) {
		accepted := make(chan struct{})
		s := newStage(b, sink.Handler, 0, func(context.Context, *sink.Event) error {
			accepted <- struct{}{}
			return nil
		})
		defer s.Stop()
		s.begin(1, registration.Position{})
		b.ReportAllocs()
		sequence := uint64(0)
		for b.Loop() {
			s.local <- s.handoff(sequence + 1)
			<-accepted
			sequence++
		}
		s.shut()
	})
}

func (s *stage) handoff(sequence uint64) event.Handoff {
	m := &nats.Msg{Subject: s.Prefix() + "1", Reply: "answers", Header: nats.Header{event.SequenceHeader: {strconv.FormatUint(sequence, 10)}}}
	return event.Handoff{Message: m, Sequence: sequence, Prev: sequence - 1}
}

func (s *stage) receiveMany(b *testing.B) {
	s.begin(1, registration.Position{})
	b.ReportAllocs()
	sequence := uint64(0)
	for b.Loop() {
		sequence++
		s.local <- s.handoff(sequence)
	}
	s.shut()
}
