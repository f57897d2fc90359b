package emitter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
)

// dispatch shows an event to those that are attached to the segment.
func (l *leader) dispatch(t *segment, e *entry) {
	sequence, wanted := e.event.Sequence, 0
	l.groups = l.index.matching(&e.event, l.groups[:0])
	for _, g := range l.groups {
		wanted += len(g.subs)
	}
	e.alone = wanted == 1
	for _, g := range l.groups {
		for _, s := range g.subs {
			switch {
			case s.deferred && t == l.tail:
				l.ask(s, time.Now())
			case s.segment != t || s.pos >= sequence:
			case !s.hasRoom():
				s.full = true
				l.detach(s)
				s.pos = sequence - 1
			case !s.outlet.room():
				l.detach(s)
				s.pos = sequence - 1
				s.outlet.wait(s)
			default:
				l.send(s, e)
			}
		}
	}
	if len(t.attached) > 0 {
		t.consumedTo = sequence
	}
}

// replay shows a subscription what the segment has after its position. It is attached then, unless its window is full before.
func (l *leader) replay(s *sub, t *segment) {
	for i := t.after(s.pos); i < len(t.events); i++ {
		e := t.events[i]
		if e.hole != nil {
			if !l.pass(s, e.hole) {
				l.stop(s, e.hole)
				return
			}
		} else if s.group.matches(e) {
			if !s.hasRoom() {
				s.full = true
				return
			}
			if !s.outlet.room() {
				s.outlet.wait(s)
				return
			}
			if e.given { // and wanted once more: it has to be read again
				t.forget(i)
				l.resume(s)
				return
			}
			if !l.send(s, e) {
				return
			}
			t.emptyAt = time.Time{}
		}
		s.pos = e.event.Sequence
		t.consumedTo = max(t.consumedTo, s.pos)
	}
	s.pos = max(s.pos, t.high)
	t.consumedTo = max(t.consumedTo, t.high)
	s.segment, t.emptyAt = t, time.Time{}
	t.attached[s] = struct{}{}
}

// resume goes on with a subscription that is not attached: on a segment that has what it wants next, or it waits for one.
func (l *leader) resume(s *sub) {
	if s.phase != running || s.segment != nil || s.loss.stopped != nil || !s.hasRoom() {
		return
	}
	l.catchUp.forget(s)
	if !s.outlet.room() {
		s.outlet.wait(s)
		return
	}
	if l.tail.has(s.pos) {
		l.replay(s, l.tail)
	} else if t := l.catchUp.passAt(s.pos); t != nil {
		l.replay(s, t)
	} else {
		l.catchUp.wait(s)
	}
}

// detach takes a subscription off its segment.
func (l *leader) detach(s *sub) {
	if s.segment != nil {
		delete(s.segment.attached, s)
		s.segment = nil
	}
	l.catchUp.forget(s)
	s.loss.stopped = nil
}

// send sends one event. It reports false where that could not be done, and the subscription no longer runs.
func (l *leader) send(s *sub, e *entry) bool {
	if e.header == nil {
		e.header = l.outgoing(e)
	}
	wasIdle, before := s.sender.Idle(), s.sender.Sent
	prev := s.sender.Send(e.event.Sequence)
	if !l.give(s, e, prev) {
		e.header[event.PrevHeader] = []string{strconv.FormatUint(prev, 10)}
		e.header[event.TermHeader] = l.termValue // which may have risen since the event was sent to another
		if err := l.nc.PublishMsg(&nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: e.header, Data: e.event.Data}); err != nil {
			s.sender.unsend(before)
			return l.unsent(s, e, err)
		}
		l.carry(s, e.size)
	}
	s.sent(e.event.Sequence, e.size)
	s.loss.fresh = false
	l.metrics.Sent.Inc()
	if wasIdle {
		l.sessions.sent(s, time.Now())
	}
	return true
}

// give hands an event to a proxy in this process. What nobody else wants goes with its headers, and is gone for the emitter.
func (l *leader) give(s *sub, e *entry, prev uint64) bool {
	if !s.local {
		return false
	}
	h := event.Handoff{
		Message:  &nats.Msg{Subject: s.registration.DeliverSubject, Reply: s.reply, Header: e.header, Data: e.event.Data},
		Sequence: e.event.Sequence, Prev: prev, Term: l.term,
	}
	if !e.alone {
		h.Message.Header = maps.Clone(e.header)
	}
	if !l.local.Offer(h) {
		return false
	}
	if e.alone {
		e.given, e.header, e.event.Header = true, nil, nil
	}
	return true
}

// unsent deals with an event that the connection does not take: there is none, or it is too large with its headers.
func (l *leader) unsent(s *sub, e *entry, err error) bool {
	if !errors.Is(err, nats.ErrMaxPayload) {
		l.pause(s, time.Now())
		return false
	}
	if s.parked == e.event.Sequence {
		return true // it is seen to: the next one goes on
	}
	// Whoever is to get it can't, with any number of attempts. What comes before it is in flight or accepted.
	l.pause(s, time.Now())
	s.askWait = stallAfter
	if !s.parking {
		s.parking = true
		l.parkAside(s, e, err)
	}
	return false
}

// parkAside parks an event that can't be sent beside the loop, and lets its subscription go on then.
func (l *leader) parkAside(s *sub, e *entry, reason error) {
	r, ev, epoch := s.registration, e.event, l.history.epoch
	ev.Header = maps.Clone(ev.Header)
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointIO)
		defer cancel()
		err := l.park(ctx, &r, &ev, epoch, reason.Error())
		l.inbox.call(func() {
			s.parking = false
			if err != nil {
				l.digest.Add(slog.LevelError, l.store, "events that are too large to be sent could not be parked; they hold their subscriptions",
					"subscription", s.name, "sequence", ev.Sequence, "error", err)
				l.obstacles.block(s.name, fmt.Sprintf("event %d is too large to be sent (%v) and can't be parked: %v", ev.Sequence, reason, err))
				return
			}
			l.digest.Add(slog.LevelError, l.store, "events are larger than the server's max_payload once they have their headers; they are parked",
				"subscription", s.name, "sequence", ev.Sequence, "error", reason)
			l.obstacles.block(s.name, "")
			if s.parked = ev.Sequence; s.phase == paused {
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
