package emitter

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
)

// dispatch shows an event to those that ride on the track.
func (l *leader) dispatch(t *track, e *entry) {
	sequence := e.event.Sequence
	l.index.matching(&e.event, func(g *group) {
		for _, s := range g.subs {
			switch {
			case s.ride != t || s.pos >= sequence:
			case !s.room():
				s.full = true
				l.leave(s)
				s.pos = sequence - 1
			default:
				l.send(s, e)
			}
		}
	})
	if len(t.riders) > 0 {
		t.front = sequence
	}
}

// serve shows a subscription what the track has after its position. It rides then, unless its window is full before.
func (l *leader) serve(s *sub, t *track) {
	for i := t.after(s.pos); i < len(t.events); i++ {
		e := t.events[i]
		if s.group.matches(e) {
			if !s.room() {
				s.full = true
				return
			}
			if !l.send(s, e) {
				return
			}
		}
		s.pos = e.event.Sequence
		t.front = max(t.front, s.pos)
	}
	s.pos = max(s.pos, t.high)
	t.front = max(t.front, t.high)
	s.ride, t.emptyAt = t, time.Time{}
	t.riders[s] = struct{}{}
}

// resume goes on with a subscription that does not ride: on a track that has what it wants next, or it waits for one.
func (l *leader) resume(s *sub) {
	if s.phase != running || s.ride != nil || !s.room() {
		return
	}
	delete(l.wanting, s)
	if l.tail.has(s.pos) {
		l.serve(s, l.tail)
		return
	}
	for _, t := range l.passes {
		if t.has(s.pos) && s.pos <= t.high {
			l.serve(s, t)
			return
		}
	}
	l.wanting[s] = struct{}{}
}

// leave takes a subscription off its track.
func (l *leader) leave(s *sub) {
	if s.ride != nil {
		delete(s.ride.riders, s)
		s.ride = nil
	}
	delete(l.wanting, s)
}

// send sends one event. It reports false where that could not be done, and the subscription no longer runs.
func (l *leader) send(s *sub, e *entry) bool {
	if e.header == nil {
		e.header = l.outgoing(e)
	}
	wasIdle, before := s.sender.Idle(), s.sender.Sent
	prev := s.sender.Send(e.event.Sequence)
	e.header[event.PrevHeader] = []string{strconv.FormatUint(prev, 10)}
	e.header[event.TermHeader] = l.termValue // which may have risen since the event was sent to another
	m := &nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: e.header, Data: e.event.Data}
	if s.local {
		m.Header = maps.Clone(e.header)
	}
	if err := l.publish(s, m); err != nil {
		s.sender.unsend(before)
		return l.unsent(s, e, err)
	}
	s.sent(e.event.Sequence, e.size)
	l.metrics.Sent.Inc()
	if wasIdle {
		s.progressAt = time.Now()
		l.attention[s] = struct{}{}
	}
	return true
}

// publish sends a message to a proxy. Over NATS the headers are still the caller's afterwards.
func (l *leader) publish(s *sub, m *nats.Msg) error {
	if s.local && l.local.Offer(m) {
		return nil
	}
	return l.nc.PublishMsg(m)
}

// unsent deals with an event that the connection does not take: there is none, or it is too large with its headers.
func (l *leader) unsent(s *sub, e *entry, err error) bool {
	if !errors.Is(err, nats.ErrMaxPayload) {
		l.hold(s, time.Now())
		return false
	}
	if s.parked == e.event.Sequence {
		return true // it is seen to: the next one goes on
	}
	// Whoever is to get it can't, with any number of attempts. What comes before it is in flight or accepted.
	l.hold(s, time.Now())
	s.askWait = stallAfter
	if !s.parking {
		s.parking = true
		l.parkAside(s, e, err)
	}
	return false
}

// parkAside parks an event that can't be sent beside the loop, and lets its subscription go on then.
func (l *leader) parkAside(s *sub, e *entry, reason error) {
	r, ev := s.registration, e.event
	ev.Header = maps.Clone(ev.Header)
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointIO)
		defer cancel()
		err := l.park(ctx, &r, &ev, reason.Error())
		l.inbox.call(func() {
			s.parking = false
			if err != nil {
				l.log.Error("an event that is too large to be sent could not be parked; it holds its subscription", "subscription", s.name, "sequence", ev.Sequence, "error", err)
				return
			}
			l.log.Error("an event is larger than the server's max_payload once it has its headers; it is parked", "subscription", s.name, "sequence", ev.Sequence, "error", reason)
			if s.parked = ev.Sequence; s.phase == held {
				l.ask(s, time.Now())
			}
		})
	})
}

// outgoing are an event's headers as they are sent to every subscription, but for the term and what it is sent after.
func (l *leader) outgoing(e *entry) nats.Header {
	h := e.event.Complete()
	h[event.SequenceHeader] = []string{strconv.FormatUint(e.event.Sequence, 10)}
	return h
}

func (g *group) matches(e *entry) bool { return g.matcher.Match(&e.event) }
