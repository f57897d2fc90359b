package emitter

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// nearby is a proxy's end in the same process.
type nearby struct{ got []event.Handoff }

func (*nearby) Prefix() string { return "exesdb.proxy.deliver.near." }

func (n *nearby) Offer(h event.Handoff) bool {
	h.Message.Header["of the taker"] = []string{"x"} // the message is its own
	n.got = append(n.got, h)
	return true
}

func (n *nearby) took(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, h := range n.got {
		if h.Term != 7 || h.Message.Header.Get(event.SequenceHeader) != fmt.Sprint(h.Sequence) || h.Message.Header.Get(event.IDHeader) != fmt.Sprint("s/", h.Sequence) {
			t.Errorf("%+v of term %d", h.Message.Header, h.Term)
		}
		got = append(got, fmt.Sprintf("%d after %d", h.Sequence, h.Prev))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("took %q, want %q", got, want)
	}
	n.got = nil
}

func TestEventThatWasGivenAwayIsReadAgainWhereItIsMissed(t *testing.T) {
	local := &nearby{}
	l := newLeader(outside{store: "s", local: local, metrics: NewMetrics(nil)})
	l.catchUp.tail, l.subs.outbox.term = newSegment(0), newTerm(7)
	join := func(s subscription.Subscription, after uint64) *sub {
		joined := &sub{name: s.Name, session: session{phase: running}, flow: flow{window: firstWindow, sender: NewSender(after)}, local: true, pos: after}
		if err := l.catchUp.index.add(joined, s); err != nil {
			t.Fatal(err)
		}
		l.catchUp.resume(joined)
		return joined
	}
	message := func(sequence uint64, typ string) feed.Message {
		return feed.Message{Subject: event.Subject("s", "g", typ), Sequence: sequence, Header: nats.Header{"Nats-Msg-Id": {"m"}}}
	}
	one := join(by(subscription.ByEventType, "a"), 0)
	for sequence := uint64(1); sequence <= 4; sequence++ {
		l.streamed(t.Context(), streamItem{message: message(sequence, "a")})
	}
	local.took(t, "1 after 0", "2 after 1", "3 after 2", "4 after 3")

	l.subs.missing(one, 2, one.progressAt)
	if waits := l.catchUp.waits(one); !waits || l.catchUp.tail.low != 3 || len(l.catchUp.tail.events) != 1 {
		t.Fatalf("it waits for a pass: %t; the tail has %d after %d", waits, len(l.catchUp.tail.events), l.catchUp.tail.low)
	}
	local.took(t)
	l.catchUp.startPass(t.Context())
	l.catchUp.page(l.catchUp.passes[0], []feed.Message{message(3, "a"), message(4, "a")}, nil, one.progressAt)
	local.took(t, "3 after 2", "4 after 3")

	// What two want is given to each.
	l.catchUp.advance(l.catchUp.passes[0], one.progressAt)
	another := by(subscription.ByStream, "$all")
	another.Name = "another"
	two := join(another, 4)
	l.streamed(t.Context(), streamItem{message: message(5, "a")})
	if len(local.got) != 2 || one.sender.Sent != 5 || two.sender.Sent != 5 {
		t.Errorf("got %+v", local.got)
	}
	l.subs.missing(one, 4, one.progressAt)
	if len(local.got) != 3 || local.got[2].Sequence != 5 || local.got[2].Prev != 4 {
		t.Errorf("got %+v", local.got)
	}
}
