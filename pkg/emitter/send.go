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

// send sends one event. It reports false where that could not be done, and the subscription no longer runs.
func (l *leader) send(s *sub, e *entry) bool {
	if e.header == nil {
		e.header = l.outgoing(e)
	}
	wasIdle, before := s.sender.Idle(), s.sender.Sent
	prev := s.sender.Send(e.event.Sequence)
	if !l.give(s, e, prev) {
		e.header[event.PrevHeader] = []string{strconv.FormatUint(prev, 10)}
		e.header[event.TermHeader] = l.term.value // which may have risen since the event was sent to another
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
		Sequence: e.event.Sequence, Prev: prev, Term: l.term.number,
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
				l.reporter.obstacles.block(s.name, fmt.Sprintf("event %d is too large to be sent (%v) and can't be parked: %v", ev.Sequence, reason, err))
				return
			}
			l.digest.Add(slog.LevelError, l.store, "events are larger than the server's max_payload once they have their headers; they are parked",
				"subscription", s.name, "sequence", ev.Sequence, "error", reason)
			l.reporter.obstacles.block(s.name, "")
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

// read reads the next page beside the loop.
func (l *leader) read(t *segment) {
	t.reading = true
	from, read := t.high+1, l.reader.Read
	if t.stretch == nil && t.pages >= shortPass && l.catchUp.tail.low > t.high+shortPass*pageSize {
		t.stretch = l.reader.Stretch(l.log)
	}
	if t.stretch != nil {
		read = t.stretch.Read
	}
	l.work.Go(func() {
		page, err := read(t.ctx, from, pageSize, pageBytes)
		l.inbox.call(func() { l.catchUp.page(t, page, err, time.Now()) })
	})
}

// judge finds out beside the loop where the stream begins, for the holes that were met.
func (l *leader) judge(now time.Time) {
	holes := l.catchUp.gaps.toJudge(now)
	if len(holes) == 0 {
		return
	}
	reader, resets := l.reader, l.history.resets
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		first, err := reader.First(ctx)
		l.inbox.call(func() {
			l.catchUp.gaps.asking = false
			switch {
			case resets != l.history.resets: // they were of another stream
			case err != nil:
				l.catchUp.gaps.judgeLater(holes)
			default:
				for _, h := range holes {
					l.catchUp.judged(h, first)
				}
			}
		})
	})
}
