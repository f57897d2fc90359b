package emitter

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/proxy"
)

// packet is an event on its way to a proxy; reply is one on its way back.
// With sequence 0 it is a question.
type packet struct{ leader, proxy, session, term, sequence, prev uint64 }
type reply struct {
	leader, proxy, session, sequence uint64
	nak                              bool
}

// claimant is an emitter that believes it leads; an old one may go on for a while.
type claimant struct {
	id, term, proxy uint64
	session         uint64 // an answer to an older one says nothing about what the proxy misses
	asking          bool
	sender          Sender
	deposed         bool
}

// handoff is one subscription: the events that match it, the checkpoint, leaders, the proxy, and the channel between.
type handoff struct {
	t          *rapid.T
	events     []uint64
	checkpoint uint64
	leaders    []*claimant
	term       uint64

	proxy     uint64 // which start of the proxy this is: its deliver subject
	receiver  proxy.Receiver
	accepted  uint64   // by the sink, in this start
	delivered []uint64 // to the subscriber, in all starts
	restarts  []int    // indexes in delivered at which the proxy was restarted

	packets []packet
	answers []reply
}

func (h *handoff) elect() {
	h.term++
	h.leaders = append(h.leaders, &claimant{id: h.term, term: h.term, proxy: h.proxy, sender: NewSender(h.checkpoint)})
}

// send lets a leader send the next event after what it sent last.
func (h *handoff) send(l *claimant) {
	if l.proxy != h.proxy && l == h.leaders[len(h.leaders)-1] {
		l.proxy, l.sender = h.proxy, NewSender(l.sender.Acked) // the new registration
		l.session, l.asking = l.session+1, false
	}
	i, _ := slices.BinarySearch(h.events, l.sender.Sent+1)
	if l.deposed || l.asking || i == len(h.events) || l.sender.InFlight() >= 8 {
		return
	}
	sequence := h.events[i]
	h.packets = append(h.packets, packet{l.id, l.proxy, l.session, l.term, sequence, l.sender.Send(sequence)})
}

// ask begins a session: what was sent is forgotten, and nothing is sent before the proxy has said what it took.
func (h *handoff) ask(l *claimant) {
	if l.deposed {
		return
	}
	if l == h.leaders[len(h.leaders)-1] {
		l.proxy = h.proxy
	}
	l.sender, l.asking = NewSender(l.sender.Acked), true
	l.session++
	h.packets = append(h.packets, packet{leader: l.id, proxy: l.proxy, session: l.session, term: l.term})
}

func (h *handoff) arrive(p packet) {
	if p.proxy != h.proxy {
		return // nobody listens there any more
	}
	if p.sequence == 0 {
		if _, stale := h.receiver.Ask(p.term, ""); stale {
			h.leader(p.leader).deposed = true
			return
		}
		if h.accepted > 0 {
			h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, h.accepted, false})
		}
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, h.receiver.Last, true})
		return
	}
	switch h.receiver.Receive(p.term, p.sequence, p.prev) {
	case proxy.Take:
		h.delivered = append(h.delivered, p.sequence)
		h.accepted = p.sequence
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, p.sequence, false})
	case proxy.Duplicate:
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, h.accepted, false})
	case proxy.Gap:
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, h.receiver.Last, true})
	case proxy.StaleTerm:
		h.leader(p.leader).deposed = true
	}
}

func (h *handoff) leader(id uint64) *claimant { return h.leaders[id-1] }

func (h *handoff) answered(a reply) {
	l := h.leader(a.leader)
	if a.proxy != l.proxy {
		return
	}
	if a.nak {
		if a.session == l.session {
			l.sender.Nak(a.sequence)
			l.asking = false
		}
		return
	}
	// The checkpoint is written conditionally, so only the latest leader moves it.
	if l.sender.Ack(a.sequence) && l == h.leaders[len(h.leaders)-1] {
		h.checkpoint = max(h.checkpoint, l.sender.Acked)
	}
}

// check holds what was delivered against the events: every start of the proxy gets them in order, without a gap, and begins
// no later than after the last one that any start before it was given.
func (h *handoff) check() {
	from := 0
	for _, to := range append(slices.Clone(h.restarts), len(h.delivered)) {
		run := h.delivered[from:to]
		for i := range run {
			at, ok := slices.BinarySearch(h.events, run[i])
			if !ok {
				h.t.Fatalf("%d was delivered, which is no event", run[i])
			}
			switch {
			case i > 0 && run[i-1] != h.events[max(at-1, 0)]:
				h.t.Fatalf("%d was delivered after %d", run[i], run[i-1])
			case i == 0 && at > 0 && !slices.Contains(h.delivered[:from], h.events[at-1]):
				h.t.Fatalf("a start of the proxy began with %d, and %d was never delivered", run[i], h.events[at-1])
			}
		}
		from = to
	}
}

// TestEveryEventOnceAndInOrder puts a channel between emitters and a proxy that loses, repeats and reorders, restarts either
// side, and lets deposed leaders go on. Within one start of the proxy each event is delivered once and in order; over its
// restarts none is lost; and once the channel behaves, everything arrives.
func TestEveryEventOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &handoff{t: t, proxy: 1}
		sequence := uint64(0)
		h.elect()
		index := func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(t, label) }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				sequence += uint64(rapid.IntRange(1, 5).Draw(t, "others between"))
				h.events = append(h.events, sequence)
			},
			"send": func(*rapid.T) { h.send(h.leaders[index(len(h.leaders), "leader")]) },
			"arrive": func(t *rapid.T) {
				if len(h.packets) == 0 {
					t.Skip()
				}
				i := index(len(h.packets), "packet") // any of them: reordered
				h.arrive(h.packets[i])
				if !rapid.Bool().Draw(t, "repeat") {
					h.packets = slices.Delete(h.packets, i, i+1)
				}
			},
			"answer": func(t *rapid.T) {
				if len(h.answers) == 0 {
					t.Skip()
				}
				i := index(len(h.answers), "answer")
				h.answered(h.answers[i])
				if !rapid.Bool().Draw(t, "repeat") {
					h.answers = slices.Delete(h.answers, i, i+1)
				}
			},
			"lose a packet": func(t *rapid.T) {
				if len(h.packets) > 0 {
					i := index(len(h.packets), "packet")
					h.packets = slices.Delete(h.packets, i, i+1)
				}
			},
			"lose an answer": func(t *rapid.T) {
				if len(h.answers) > 0 {
					i := index(len(h.answers), "answer")
					h.answers = slices.Delete(h.answers, i, i+1)
				}
			},
			"skip": func(*rapid.T) {
				// What is level and idle moves its checkpoint over what nobody wants, up to the stream's end.
				l := h.leaders[len(h.leaders)-1]
				if n := len(h.events); l.sender.Idle() && (n == 0 || l.sender.Acked >= h.events[n-1]) {
					l.sender.Skip(sequence)
					h.checkpoint = max(h.checkpoint, l.sender.Acked)
				}
			},
			"others":     func(t *rapid.T) { sequence += uint64(rapid.IntRange(1, 5).Draw(t, "of no interest")) },
			"time-out":   func(*rapid.T) { h.leaders[index(len(h.leaders), "leader")].sender.Rewind() },
			"ask":        func(*rapid.T) { h.ask(h.leaders[index(len(h.leaders), "leader")]) },
			"new leader": func(*rapid.T) { h.elect() },
			"proxy restarts": func(*rapid.T) {
				h.proxy++
				h.receiver, h.accepted = proxy.Receiver{}, 0
				h.restarts = append(h.restarts, len(h.delivered))
			},
			"": func(*rapid.T) { h.check() },
		})
		h.behave()
		h.check()
		if n := len(h.events); n > 0 && (h.checkpoint < h.events[n-1] || !slices.Contains(h.delivered, h.events[n-1])) {
			t.Fatalf("the channel behaves, and the checkpoint stays at %d of %d", h.checkpoint, h.events[n-1])
		}
	})
}

// behave lets the last leader work over a channel that loses nothing.
func (h *handoff) behave() {
	h.packets, h.answers = nil, nil
	l := h.leaders[len(h.leaders)-1]
	for range 3*len(h.events) + 10 {
		l.sender.Rewind()
		if l.asking {
			h.ask(l) // asked again
		}
		for {
			before := l.sender.Sent
			h.send(l)
			if l.sender.Sent == before {
				break
			}
		}
		for _, p := range h.packets {
			h.arrive(p)
		}
		h.packets = nil
		for _, a := range h.answers {
			h.answered(a)
		}
		h.answers = nil
	}
}
