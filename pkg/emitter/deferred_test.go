package emitter

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// questioned counts the questions to proxies of this process, and keeps in which session each subscription
// was asked last.
type questioned struct {
	n        int
	sessions map[uint64]uint64
}

func (*questioned) Prefix() string { return "near." }

func (q *questioned) Offer(h event.Handoff) bool {
	if h.Sequence != 0 {
		return true
	}
	q.n++
	parts := strings.Split(h.Message.Reply, ".")
	id, _ := strconv.ParseUint(parts[1], 10, 64)
	q.sessions[id], _ = strconv.ParseUint(parts[2], 10, 64)
	return true
}

func TestProxiesThatTookOverAreAskedInTurnUnlessThereIsAnEvent(t *testing.T) {
	q := &questioned{sessions: map[uint64]uint64{}}
	l := newLeader(outside{metrics: NewMetrics(nil), local: q, log: slog.New(slog.DiscardHandler)})
	l.catchUp.tail, l.subs.sessions.replies = newSegment(0), "r"
	const n = 3 * deferredQuestions
	now, revision := time.Now(), uint64(0)
	register := func(incarnation uint64) {
		for i := range n {
			revision++
			s := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: fmt.Sprintf("stream-%d", i), Name: fmt.Sprint(i)}
			l.subs.entry(&record{registration.Registration{
				Subscription: s, Owner: registration.Owner{ID: fmt.Sprint(incarnation)}, Incarnation: incarnation, DeliverSubject: fmt.Sprintf("near.%d.%d", incarnation, i),
			}, revision}, now)
		}
	}
	answer := func(id uint64) {
		l.subs.answered(&answer{id: id, session: q.sessions[id], Answer: event.Answer{Kind: event.Missing}}, now)
	}
	answerAll := func() {
		for id := range uint64(n) {
			if l.subs.byID[id+1].phase == asking && q.sessions[id+1] == l.subs.byID[id+1].number {
				answer(id + 1)
			}
		}
	}
	asked := func(want int, when string) {
		t.Helper()
		if q.n != want {
			t.Errorf("%s: %d are asked, want %d", when, q.n, want)
		}
	}
	register(1)
	for _, s := range l.subs.byKey {
		l.subs.ask(s, now) // their checkpoints are read
	}
	answerAll()

	q.n = 0
	register(2)
	l.subs.askDeferred(now)
	asked(0, "while more are taken over")
	now = now.Add(deferredAfter)
	l.subs.askDeferred(now)
	l.subs.askDeferred(now)
	asked(deferredQuestions, "before any answered")
	last := l.subs.byID[n]
	e := &entry{event: event.Event{Store: "s", Stream: "stream-" + fmt.Sprint(n-1), Sequence: 1}}
	l.catchUp.tail.add(e)
	l.catchUp.dispatch(l.catchUp.tail, e)
	asked(deferredQuestions+1, "with an event for one that waits")
	answer(n)
	if last.phase != running || last.sender.InFlight() != 1 {
		t.Errorf("what has an event is in phase %d with %d in flight", last.phase, last.sender.InFlight())
	}
	answer(1)
	l.subs.askDeferred(now)
	asked(deferredQuestions+2, "when one answered")

	// Lost answers hold up nobody.
	now = now.Add(firstAsk)
	for s := range l.subs.sessions.attended {
		l.subs.checkProgress(s, now)
	}
	asked(2*deferredQuestions+2, "when no answer came")
	for range n / deferredQuestions {
		answerAll()
		l.subs.askDeferred(now)
	}
	for _, s := range l.subs.byKey {
		if s.phase != running || s.deferred || s.outstanding {
			t.Errorf("%s is in phase %d, deferred %t, outstanding %t", s.name, s.phase, s.deferred, s.outstanding)
		}
	}
	if l.subs.sessions.outstanding != 0 || len(l.subs.sessions.deferred) != 0 {
		t.Errorf("in the end %d questions are open and %d wait", l.subs.sessions.outstanding, len(l.subs.sessions.deferred))
	}
}
