package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// A large event is not sent to where nobody listens: that is found out first, with a message that has no
// data and that nobody gets.
//
// NATS traces messages (ADR-41; nats-server 2.11): with the header Nats-Trace-Only the server handles a
// message as any other, and delivers it to no subscriber and no stream. It answers the reply subject of one
// that would have reached nobody with status 503, and any other with what it found, on the subject in
// Nats-Trace-Dest. So no subscriber can take a probe for an event.
const (
	traceDestHeader = "Nats-Trace-Dest"
	traceOnlyHeader = "Nats-Trace-Only"

	// probedFrom is the size of an event from which on its subject is probed: less costs the server as much
	// as a probe.
	probedFrom = 4 << 10
	// probeWithin is how long the server may take to answer.
	probeWithin = 2 * time.Second
	// probeAgain is how long the answer that nobody listens holds for all that forward to the subject.
	probeAgain = 200 * time.Millisecond
	// trustProbes is how long nobody is said to listen before the event is sent all the same: somebody whom
	// no probe finds would never get it.
	trustProbes = 30 * time.Second
)

// ErrNotSent is matched by an error of an event that was not sent, since nobody listens.
var ErrNotSent = errors.New("not sent")

// unsentError has the words of what is the matter.
type unsentError struct{ error }

func (e *unsentError) Is(target error) bool { return target == ErrNotSent }
func (e *unsentError) Unwrap() error        { return e.error }

// interest is whether anybody listens on a subject, as far as is known. All that forward to the subject
// share it.
type interest struct {
	nc      *nats.Conn
	subject string

	mu      sync.Mutex
	known   bool          // the last event found somebody
	asking  chan struct{} // closed when the probe under way is answered; nil: there is none
	absent  time.Time     // when a probe found nobody last; zero: none did since somebody was found
	sentAt  time.Time     // when an event was last sent
	triedAt time.Time     // when somebody was last told to try, though no probe finds anybody
}

// note takes what came of sending an event.
func (i *interest) note(found bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known = found
	if i.sentAt = time.Now(); found {
		i.absent = time.Time{}
	}
}

// nobody reports whether an event need not be sent.
func (i *interest) nobody(ctx context.Context) bool {
	for {
		i.mu.Lock()
		switch now := time.Now(); {
		case i.known:
			i.mu.Unlock()
			return false
		case !i.absent.IsZero() && now.Sub(i.absent) < probeAgain:
			i.mu.Unlock()
			return true
		case i.asking != nil:
			asking := i.asking
			i.mu.Unlock()
			select {
			case <-asking:
			case <-ctx.Done():
				return false
			}
			continue
		}
		i.asking = make(chan struct{})
		if i.sentAt.IsZero() {
			i.sentAt = time.Now()
		}
		i.mu.Unlock()
		said := i.probe(ctx)
		i.mu.Lock()
		close(i.asking)
		i.asking = nil
		nobody := said == findsNobody
		switch said {
		case findsSomebody:
			i.known, i.absent = true, time.Time{} // until an event finds nobody
		case findsNobody:
			i.absent = time.Now()
			nobody = i.absent.Sub(i.sentAt) <= trustProbes
		}
		i.mu.Unlock()
		return nobody
	}
}

// finding is what came of a probe.
type finding uint8

const (
	findsNothing finding = iota // no answer: the event of the one that asked is sent, and the others ask themselves
	findsNobody
	findsSomebody
)

func (i *interest) probe(ctx context.Context) finding {
	if !traces(i.nc.ConnectedServerVersion()) {
		return findsNothing
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	inbox, answers := i.nc.NewInbox(), make(chan *nats.Msg, 8)
	sub, err := i.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return findsNothing
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	if err := i.nc.PublishMsg(&nats.Msg{Subject: i.subject, Reply: inbox, Header: nats.Header{traceDestHeader: {inbox}, traceOnlyHeader: {"true"}}}); err != nil {
		return findsNothing
	}
	select {
	case m := <-answers: // the status comes before the trace
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return findsNobody
		}
		return findsSomebody
	case <-ctx.Done():
		return findsNothing
	}
}

// traces reports whether a server of that version delivers to nobody what is only to be traced.
func traces(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > 2 || major == 2 && minor >= 11)
}

// sparing is a sink that does not send large events to where nobody listens.
type sparing struct {
	Sink
	*interest
	absent error // what is returned then
}

func newSparing(s Sink, nc *nats.Conn, c Config, absent error) *sparing {
	return &sparing{s, &interest{nc: nc, subject: c.Subject}, absent}
}

// Deliver implements Sink.
func (s *sparing) Deliver(ctx context.Context, e *Event) error {
	if len(e.Message.Data) >= probedFrom && s.nobody(ctx) {
		return &unsentError{fmt.Errorf("%w on %s", s.absent, s.subject)}
	}
	err := s.Sink.Deliver(ctx, e)
	s.noted(err)
	return err
}

// Ready implements Prober.
func (s *sparing) Ready(ctx context.Context) error {
	if s.nobody(ctx) || !s.tries(time.Now()) {
		return &unsentError{fmt.Errorf("%w on %s", s.absent, s.subject)}
	}
	return nil
}

// tries reports whether an event is worth getting that nobody was not found for. Where no probe finds
// anybody one is sent every trustProbes, and one is enough for that.
func (i *interest) tries(now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known || i.absent.IsZero() {
		return true
	}
	if now.Sub(i.triedAt) < trustProbes {
		return false
	}
	i.triedAt = now
	return true
}

func (s *sparing) noted(err error) { s.note(err == nil || !errors.Is(err, s.absent)) }

// sparingBatcher is one that takes several events at once.
type sparingBatcher struct {
	*sparing
	batcher Batcher
}

// DeliverBatch implements Batcher.
func (s *sparingBatcher) DeliverBatch(ctx context.Context, events []*Event) (accepted int, err error) {
	size := 0
	for _, e := range events {
		size += len(e.Message.Data)
	}
	if size >= probedFrom && s.nobody(ctx) {
		return 0, &unsentError{fmt.Errorf("%w on %s", s.absent, s.subject)}
	}
	accepted, err = s.batcher.DeliverBatch(ctx, events)
	s.noted(err)
	return accepted, err
}
