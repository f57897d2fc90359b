package emitter

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/registration"
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

// start is one start of the proxy, with a deliver subject and an incarnation of its own. One that is
// superseded goes on for a while with what it has in hand.
type start struct {
	receiver delivery.Receiver
	hand     []uint64 // taken, and not with the subscriber yet
	accepted uint64
	heard    packet // the last one, whose leader hears what is accepted
	dead     bool
	handed   bool // by the start before, which had accepted up to place
	place    uint64
}

// forwarded is an event that the subscriber got, and from which start.
type forwarded struct{ sequence, incarnation uint64 }

// handoff is one subscription: the events that match it, the checkpoint, leaders, the proxy's starts, the
// channel between, and a subscriber that drops what an older incarnation sends than it has seen.
type handoff struct {
	t          *rapid.T
	events     []uint64
	checkpoint uint64
	leaders    []*claimant
	term       uint64

	starts    []*start // the last one is registered
	known     uint64   // the registration that emitters have heard of: how many starts
	seen      uint64   // the highest incarnation that the subscriber has seen
	delivered []forwarded

	packets []packet
	answers []reply
}

func (h *handoff) elect() {
	h.term++
	h.leaders = append(h.leaders, &claimant{id: h.term, term: h.term, proxy: h.known, sender: NewSender(h.checkpoint)})
}

// hear lets the latest leader learn which registration is known.
func (h *handoff) hear(l *claimant) {
	if l.proxy == h.known || l != h.leaders[len(h.leaders)-1] {
		return
	}
	l.proxy, l.sender = h.known, NewSender(l.sender.Acked)
	l.session, l.asking = l.session+1, false
	if s := h.starts[h.known-1]; s.handed && !l.deposed {
		if l.sender.Ack(s.place) {
			h.checkpoint = max(h.checkpoint, l.sender.Acked)
		}
		l.sender = NewSender(l.sender.Acked)
		l.sender.Nak(s.place)
	}
}

// send lets a leader send the next event after what it sent last.
func (h *handoff) send(l *claimant) {
	h.hear(l)
	i, _ := slices.BinarySearch(h.events, l.sender.Sent+1)
	if l.deposed || l.asking || i == len(h.events) || l.sender.InFlight() >= 8 {
		return
	}
	sequence := h.events[i]
	h.packets = append(h.packets, packet{l.id, l.proxy, l.session, l.term, sequence, l.sender.Send(sequence)})
}

// ask begins a session: what was sent is forgotten, and nothing is sent before the proxy has said what it
// took.
func (h *handoff) ask(l *claimant) {
	if l.deposed {
		return
	}
	h.hear(l)
	l.sender, l.asking = NewSender(l.sender.Acked), true
	l.session++
	h.packets = append(h.packets, packet{leader: l.id, proxy: l.proxy, session: l.session, term: l.term})
}

func (h *handoff) arrive(p packet) {
	s := h.starts[p.proxy-1]
	if s.dead {
		return // nobody listens there any more
	}
	if p.sequence == 0 {
		if _, stale := s.receiver.Answer(p.term, ""); stale {
			h.leader(p.leader).deposed = true
			return
		}
		s.heard = p
		h.sayAccepted(s)
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, s.receiver.Last, true})
		return
	}
	decision := s.receiver.Receive(p.term, p.sequence, p.prev)
	if decision == delivery.StaleTerm {
		h.leader(p.leader).deposed = true
		return
	}
	s.heard = p
	switch decision {
	case delivery.Forward:
		s.hand = append(s.hand, p.sequence)
	case delivery.Duplicate:
		h.sayAccepted(s)
	case delivery.Gap:
		h.answers = append(h.answers, reply{p.leader, p.proxy, p.session, s.receiver.Last, true})
	}
}

// forward hands the subscriber the next event that a start has in hand. The proxy takes it for accepted,
// also where the subscriber knows better: it has no word from it.
func (h *handoff) forward(incarnation uint64) {
	s := h.starts[incarnation-1]
	if len(s.hand) == 0 {
		return
	}
	sequence := s.hand[0]
	s.hand = s.hand[1:]
	if incarnation >= h.seen {
		h.seen = incarnation
		h.delivered = append(h.delivered, forwarded{sequence, incarnation})
	}
	s.accepted = sequence
	h.sayAccepted(s)
}

func (h *handoff) sayAccepted(s *start) {
	if s.accepted > 0 && s.heard.leader > 0 {
		h.answers = append(h.answers, reply{s.heard.leader, s.heard.proxy, s.heard.session, s.accepted, false})
	}
}

func (h *handoff) leader(id uint64) *claimant { return h.leaders[id-1] }

func (h *handoff) answered(a reply) {
	l := h.leader(a.leader)
	h.hear(l)
	if a.proxy != l.proxy {
		return // of an incarnation that was superseded
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

// check holds what was delivered against the events: every start of the proxy gets them in order, without a
// gap, and begins no later than after the last one that any start was given; none comes after one of a
// later start; and the checkpoint has not passed any that was not delivered.
func (h *handoff) check() {
	delivered, last := map[uint64]bool{}, forwarded{}
	for _, d := range h.delivered {
		at, ok := slices.BinarySearch(h.events, d.sequence)
		switch {
		case !ok:
			h.t.Fatalf("%d was delivered, which is no event", d.sequence)
		case d.incarnation < last.incarnation:
			h.t.Fatalf("%d of start %d was delivered after %d of start %d", d.sequence, d.incarnation, last.sequence, last.incarnation)
		case d.incarnation == last.incarnation && last.sequence != h.events[max(at-1, 0)]:
			h.t.Fatalf("%d was delivered after %d", d.sequence, last.sequence)
		case d.incarnation > last.incarnation && at > 0 && !delivered[h.events[at-1]]:
			h.t.Fatalf("a start of the proxy began with %d, and %d was never delivered", d.sequence, h.events[at-1])
		}
		delivered[d.sequence], last = true, d
	}
	for _, sequence := range h.events {
		if sequence <= h.checkpoint && !delivered[sequence] {
			h.t.Fatalf("the checkpoint is at %d, and %d was never delivered", h.checkpoint, sequence)
		}
	}
}

// TestEveryEventOnceAndInOrder puts a channel between emitters and a proxy that loses, repeats and
// reorders, restarts either side, and lets deposed leaders and superseded proxies go on. Within one start
// of the proxy each event is delivered once and in order; over its starts none is lost; and once the
// channel behaves, everything arrives.
func TestEveryEventOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &handoff{t: t, starts: []*start{{}}, known: 1}
		sequence := uint64(0)
		h.elect()
		index := func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(t, label) }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 3).Draw(t, "events") {
					sequence += uint64(rapid.IntRange(1, 5).Draw(t, "others between"))
					h.events = append(h.events, sequence)
				}
			},
			"send": func(t *rapid.T) {
				l := h.leaders[index(len(h.leaders), "leader")]
				for range rapid.IntRange(1, 3).Draw(t, "events") {
					h.send(l)
				}
			},
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
				// What is level and idle moves its checkpoint over what nobody wants, up to the stream's
				// end.
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
			"forward": func(t *rapid.T) {
				incarnation := uint64(index(len(h.starts), "start") + 1)
				for range rapid.IntRange(1, 3).Draw(t, "events") {
					h.forward(incarnation)
				}
			},
			"nothing is lost for a while": func(t *rapid.T) {
				l := h.leaders[len(h.leaders)-1]
				if l.asking {
					h.ask(l)
				}
				for range rapid.IntRange(1, 4).Draw(t, "events") {
					h.send(l)
				}
				for _, p := range h.packets {
					h.arrive(p)
				}
				h.packets = nil
				for range rapid.IntRange(0, 4).Draw(t, "forwarded") {
					h.forward(l.proxy)
				}
			},
			"one that was superseded wakes up": func(t *rapid.T) {
				incarnation, before := uint64(index(len(h.starts), "start")+1), len(h.answers)
				for len(h.starts[incarnation-1].hand) > 0 {
					h.forward(incarnation)
				}
				for _, a := range h.answers[before:] {
					h.answered(a)
				}
			},
			"another start": func(t *rapid.T) {
				s := h.starts[len(h.starts)-1]
				switch rapid.SampledFrom([]string{"superseded", "handed over", "released", "killed"}).Draw(t, "the one before is") {
				case "handed over":
					next := &start{handed: true, place: s.accepted, accepted: s.accepted}
					next.receiver = delivery.ReceiverAt(registration.Position{Accepted: s.accepted})
					*s = start{dead: true}
					h.starts = append(h.starts, next)
					return
				case "released":
					h.sayAccepted(s)
					fallthrough
				case "killed":
					*s = start{dead: true}
				}
				h.starts = append(h.starts, &start{})
			},
			"registration is heard of": func(*rapid.T) { h.known = uint64(len(h.starts)) },
			"":                         func(*rapid.T) { h.check() },
		})
		h.behave()
		h.check()
		if n := len(h.events); n > 0 && h.checkpoint < h.events[n-1] {
			t.Fatalf("the channel behaves, and the checkpoint stays at %d of %d", h.checkpoint, h.events[n-1])
		}
	})
}

// behave lets the last leader work over a channel that loses nothing.
func (h *handoff) behave() {
	h.packets, h.answers, h.known = nil, nil, uint64(len(h.starts))
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
		for len(h.starts[h.known-1].hand) > 0 {
			h.forward(h.known)
		}
		for _, a := range h.answers {
			h.answered(a)
		}
		h.answers = nil
	}
}
