package emitter

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestOnlyTheCurrentIncarnationsAcknowledgementsCount(t *testing.T) {
	l := newLeader(outside{metrics: NewMetrics(nil)})
	revision, now := uint64(0), time.Now()
	var s *sub
	// register returns the session in which the record's proxy is asked.
	register := func(owner string, incarnation uint64) uint64 {
		revision++
		l.subs.entry(&record{registration.Registration{
			Subscription: by(subscription.ByStream, "$all"), Owner: registration.Owner{ID: owner}, Incarnation: incarnation, DeliverSubject: owner,
		}, revision}, now)
		s = l.subs.byID[1]
		if s.phase == loading {
			l.subs.ask(s, now) // its checkpoint is read
		}
		return s.number
	}
	ack := func(session, sequence, want uint64, what string) {
		t.Helper()
		l.subs.answered(&answer{id: 1, session: session, Answer: event.Answer{Kind: event.Acked, Number: sequence}}, now)
		if s.sender.Acked != want {
			t.Errorf("%s acknowledges %d: the checkpoint is at %d, want %d", what, sequence, s.sender.Acked, want)
		}
	}
	// release is a deletion by the proxy, which says its incarnation, or by hand, which says 0.
	release := func(incarnation uint64) {
		revision++
		l.subs.entry(&record{registration.Registration{Subscription: by(subscription.ByStream, "$all"), Incarnation: incarnation}, revision}, now)
	}
	first := register("a", 1)
	ack(first, 3, 3, "the only one")
	register("a", 1) // leader_changed
	ack(first, 4, 4, "the same incarnation, in a session before")
	release(0)
	ack(first, 5, 5, "one that was deleted")
	second := register("b", 2)
	ack(first, 9, 5, "one that was superseded")
	ack(second, 6, 6, "the one that superseded it")
	release(0)
	ack(first, 9, 6, "one that was superseded by one that was released")
	ack(second, 7, 7, "one that was deleted")
	third := register("b", 3) // restarted
	ack(second, 9, 7, "the start before")
	ack(third, 8, 8, "another start")
	release(3)
	fourth := register("c", 4)
	ack(third, 9, 9, "one that gave the subscription back, heard late")
	ack(second, 10, 9, "one that was superseded before")
	register("d", 5)
	ack(third, 11, 9, "one that gave the subscription back, two owners ago")
	ack(fourth, 11, 9, "the one that was superseded last")
	if n := testutil.ToFloat64(l.metrics.Ignored); n != 6 {
		t.Errorf("%v are counted as ignored, want 6", n)
	}
}
