package emitter

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
)

// talk is a leader's sessions with the proxies of some subscriptions, over a channel that loses and
// reorders. The sessions are the leader's own; the proxies are incarnations, each with a receiver of its
// own, that supersede one another, end, and come back.
type talk struct {
	t        *rapid.T
	now      time.Time
	sessions sessions
	subs     []*talkSub
	packets  []packet // to proxies; the leader is the number of the subscription
	answers  []answer
	deaf     bool // what is sent is lost
}

type talkSub struct {
	sub      *sub
	stored   uint64 // events there are
	proxies  []*talkProxy
	openedBy map[uint64]int // which incarnation a session was opened with
	counts   map[int]bool   // incarnations whose acknowledgements count
	released bool           // the last one gave the subscription back by itself
}

type talkProxy struct {
	receiver delivery.Receiver
	accepted uint64
	gone     bool
}

func (w *talk) start(n int) {
	for i := range n {
		s := &sub{id: uint64(i + 1), name: fmt.Sprint(i), flow: flow{window: firstWindow}}
		ts := &talkSub{sub: s, openedBy: map[uint64]int{}, counts: map[int]bool{}}
		w.subs = append(w.subs, ts)
		w.register(ts, false)
	}
}

// register has another incarnation take the subscription, and the leader hear of it.
func (w *talk) register(ts *talkSub, deferred bool) {
	ts.proxies = append(ts.proxies, &talkProxy{})
	s, before := ts.sub, ts.sub.registration.Registration
	if !ts.released {
		clear(ts.counts)
	}
	ts.released = false
	ts.counts[len(ts.proxies)] = true
	s.registration.Registration = registration.Registration{Owner: registration.Owner{ID: "p"}, Incarnation: uint64(len(ts.proxies))}
	if !w.sessions.register(s, before, s.registration.Registration) {
		w.t.Fatal("a higher incarnation does not supersede")
	}
	s.hurry()
	if deferred {
		w.sessions.deferAsk(s, w.now)
		ts.openedBy[s.number] = len(ts.proxies)
	} else {
		w.ask(ts)
	}
}

// ask is what the leader's loop does with a subscription that is to be asked.
func (w *talk) ask(ts *talkSub) {
	w.sessions.open(ts.sub)
	ts.openedBy[ts.sub.number] = len(ts.proxies)
	w.question(ts)
}

func (w *talk) question(ts *talkSub) {
	w.sessions.asked(ts.sub, w.now)
	w.sendOff(packet{leader: ts.sub.id, proxy: uint64(len(ts.proxies)), session: ts.sub.number})
}

func (w *talk) sendOff(p packet) {
	if !w.deaf {
		w.packets = append(w.packets, p)
	}
}

// send sends the events that there is room for.
func (w *talk) send(ts *talkSub) {
	s := ts.sub
	for s.phase == running && s.hasRoom() && s.sender.Sent < ts.stored {
		if s.sender.Idle() {
			w.sessions.sent(s, w.now)
		}
		next := s.sender.Sent + 1
		w.sendOff(packet{s.id, uint64(len(ts.proxies)), s.number, 0, next, s.sender.Send(next)})
		s.sent(next, 1)
	}
	s.full = s.full || s.phase == running && !s.hasRoom() && s.sender.Sent < ts.stored
}

// arrive lets a proxy have what was sent to it. Accepts says whether its subscriber accepts at once.
func (w *talk) arrive(p packet, accepts bool) {
	ts := w.subs[p.leader-1]
	to := ts.proxies[p.proxy-1]
	reply := func(kind event.AnswerKind, n uint64) {
		w.answers = append(w.answers, answer{id: p.leader, session: p.session, Answer: event.Answer{Kind: kind, Number: n}})
	}
	if to.gone {
		w.answers = append(w.answers, answer{id: p.leader, session: p.session, nobody: true})
		return
	}
	accept := func() {
		if accepts && to.receiver.Last > to.accepted {
			to.accepted = to.receiver.Last
		}
		if to.accepted > 0 {
			reply(event.Acked, to.accepted)
		}
	}
	if p.sequence == 0 {
		to.receiver.Answer(0, "")
		accept()
		reply(event.Missing, to.receiver.Last)
		return
	}
	if to.receiver.Receive(0, p.sequence, p.prev) == delivery.Gap {
		reply(event.Missing, to.receiver.Last)
	}
	accept()
}

// answered is what the leader's loop does with an answer.
func (w *talk) answered(a answer) {
	ts := w.subs[a.id-1]
	s, before := ts.sub, ts.sub.sender.Acked
	switch w.sessions.judge(s, &a) {
	case acknowledged:
		if by := ts.openedBy[a.session]; !ts.counts[by] {
			w.t.Fatalf("%d is acknowledged in session %d with incarnation %d, and counts; those of %v do", a.Number, a.session, by, ts.counts)
		}
		if s.acknowledge(a.Number) {
			s.progressAt = w.now
			s.hurry()
			s.grow()
		}
	case unreached:
		w.sessions.pause(s, w.now)
	case begins:
		w.sessions.run(s, a.Number, w.now)
	case misses:
		w.sessions.miss(s, a.Number, w.now)
	case nothing, outdated, staleTerm, unreadable:
	}
	if s.sender.Acked < before {
		w.t.Fatalf("the checkpoint went back from %d to %d", before, s.sender.Acked)
	}
	w.send(ts)
}

// tick is what the leader's loop does by time.
func (w *talk) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for s := range w.sessions.attended {
		ts := w.subs[s.id-1]
		switch w.sessions.due(s, w.now) {
		case toBeAsked:
			w.ask(ts)
		case toBeQuestioned:
			w.question(ts)
		case noNeed:
		}
	}
	for s := w.sessions.nextDeferred(w.now); s != nil; s = w.sessions.nextDeferred(w.now) {
		w.ask(w.subs[s.id-1])
		w.sessions.await(s)
	}
}

// check holds the invariant: where somebody waits, somebody asks again.
func (w *talk) check() {
	outstanding := 0
	for _, ts := range w.subs {
		s := ts.sub
		_, attended := w.sessions.attended[s]
		waits := s.phase == asking || s.phase == paused || s.phase == running && !s.sender.Idle()
		switch {
		case s.deferred && !slices.Contains(w.sessions.deferred, s):
			w.t.Fatalf("%s is deferred, and has no turn", s.name)
		case waits && !s.deferred && !attended:
			w.t.Fatalf("%s is in phase %d with %d in flight, and nobody asks", s.name, s.phase, s.sender.InFlight())
		case s.askWait > maxAsk:
			w.t.Fatalf("%s is asked again in %s", s.name, s.askWait)
		}
		if s.outstanding {
			outstanding++
		}
	}
	if outstanding != w.sessions.outstanding {
		w.t.Fatalf("%d questions are outstanding, and %d are counted", outstanding, w.sessions.outstanding)
	}
}

// TestWhereAProxyIsWaitedForItIsAskedAgain drives the leader's sessions against proxies that start, are
// superseded, give back and end, over a channel that loses and reorders: no acknowledgement of a superseded
// incarnation counts, whoever is waited for is asked again, and once nothing is lost everything is
// acknowledged.
func TestWhereAProxyIsWaitedForItIsAskedAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &talk{t: t, now: time.Unix(1, 0)}
		w.start(3)
		some := func() *talkSub { return rapid.SampledFrom(w.subs).Draw(t, "subscription") }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				ts := some()
				ts.stored += uint64(rapid.IntRange(1, 100).Draw(t, "events"))
				if ts.sub.deferred {
					w.ask(ts) // there is something to send to it
				}
				w.send(ts)
			},
			"arrive": func(t *rapid.T) {
				for range rapid.IntRange(1, 50).Draw(t, "messages") {
					if len(w.packets) > 0 {
						i := rapid.IntRange(0, min(len(w.packets)-1, 2)).Draw(t, "which")
						p := w.packets[i]
						w.packets = slices.Delete(w.packets, i, i+1)
						w.arrive(p, rapid.Bool().Draw(t, "accepted"))
					}
				}
			},
			"answer": func(t *rapid.T) {
				for range rapid.IntRange(1, 50).Draw(t, "messages") {
					if len(w.answers) > 0 {
						i := rapid.IntRange(0, min(len(w.answers)-1, 2)).Draw(t, "which")
						a := w.answers[i]
						w.answers = slices.Delete(w.answers, i, i+1)
						w.answered(a)
					}
				}
			},
			"lose":      func(*rapid.T) { w.packets = nil },
			"mute":      func(*rapid.T) { w.answers = nil },
			"deaf":      func(*rapid.T) { w.deaf = !w.deaf },
			"end":       func(*rapid.T) { ts := some(); ts.proxies[len(ts.proxies)-1].gone = true },
			"supersede": func(*rapid.T) { w.register(some(), false) },
			"take over": func(*rapid.T) { w.register(some(), true) },
			"release": func(t *rapid.T) {
				ts := some()
				if ts.sub.phase == absent {
					t.Skip("it is released")
				}
				by := uint64(len(ts.proxies))
				if rapid.Bool().Draw(t, "by hand") {
					by = 0
				}
				ts.proxies[len(ts.proxies)-1].gone = true
				w.sessions.release(ts.sub, by, w.now)
				ts.released = by > 0
			},
			"wait": func(t *rapid.T) {
				w.tick(time.Duration(rapid.SampledFrom([]int{10, 60, 300, 1100, 11_000}).Draw(t, "milliseconds")) * time.Millisecond)
			},
			"": func(*rapid.T) { w.check() },
		})
		w.deaf = false
		for _, ts := range w.subs {
			if ts.stored++; ts.proxies[len(ts.proxies)-1].gone || ts.sub.phase == absent {
				w.register(ts, false)
			}
		}
		most := uint64(20)
		for _, ts := range w.subs {
			most += ts.stored // of a window of one event in the worst case
		}
		for range most {
			for _, p := range w.packets {
				w.arrive(p, true)
			}
			w.packets = nil
			for _, a := range w.answers {
				w.answers = w.answers[1:]
				w.answered(a)
			}
			for _, ts := range w.subs {
				w.send(ts)
			}
			w.tick(maxAsk)
			w.check()
		}
		for _, ts := range w.subs {
			if s := ts.sub; s.phase != running || s.sender.Acked != ts.stored || !s.sender.Idle() {
				t.Fatalf("%s is in phase %d, and %d of %d are acknowledged", s.name, s.phase, s.sender.Acked, ts.stored)
			}
		}
	})
}
