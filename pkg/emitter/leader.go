package emitter

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/digest"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/link"
)

// leadership is what a leader needs of the lease that it leads by; *election.Lease is one. The context that
// the leader runs with ends when another holds it.
type leadership interface {
	Term() uint64
	// Epoch is what the lease's record says of the store's history; empty: nothing.
	Epoch() string
	// Witness is what it says to prove it.
	Witness() string
	SetEpoch(ctx context.Context, epoch, witness string) error
	// Remember has the witness written with the next renewal.
	Remember(witness string)
	// RaiseTerm makes the term higher than the one given, by a conditional write.
	RaiseTerm(ctx context.Context, above uint64) error
}

// outside is what a leader talks to, and what it is told when it begins. Nothing of it changes while it
// leads.
type outside struct {
	store    string
	stream   string
	name     string // of the emitter
	layout   Layout
	interval time.Duration // between writes of checkpoints
	lease    leadership
	nc       *nats.Conn
	link     *link.Link // of nc; nil: there is none
	js       jetstream.JetStream
	local    Local // nil: none
	saved    *savedPlaces
	log      *slog.Logger
	digest   *digest.Log // of what may concern many events
	metrics  *Metrics
	announce func(term uint64)
	park     func(ctx context.Context, s *record, e *event.Event, epoch, reason string) error
	lacks    func() string // the emitter's Hindered; nil: nothing is known
}

// within is a context for something that JetStream may take up to work for, in so many round trips.
func (o *outside) within(work time.Duration, roundTrips int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), work+time.Duration(roundTrips)*o.way())
}

// way is how long to wait for the way to the server and back, beside what is to be done there.
func (o *outside) way() time.Duration {
	if o.link == nil {
		return 0
	}
	return o.link.Patience(0)
}

// leader sends a store's events to the subscriptions that want them, for as long as it leads. What is to be
// done is decided by plain values: catchUp (who is shown which events), subs (what passes between the
// subscriptions and their proxies, with their sessions and outlets), checkpoints (what is read and written)
// and history (which events the sequences are of). The leader is the loop around them, which owns them all:
// what takes time (reads of the stream and of checkpoints, writes) is done beside it, and posted to its
// inbox.
type leader struct {
	outside
	inbox *inbox
	work  sync.WaitGroup

	reader      reader
	history     history
	catchUp     catchUp
	subs        subscriptions
	checkpoints checkpoints
	historian   historian
	reporter    reporter
	remaking    remaking
	looks       rate.Sometimes // said that the stream can't be looked at
	sweptAt     time.Time
}

// sentTerm is the term that is sent with; the lease's may have risen since.
type sentTerm struct {
	number uint64
	value  []string // of the header
}

func newTerm(number uint64) sentTerm {
	return sentTerm{number, []string{strconv.FormatUint(number, 10)}}
}

// newLeader is a leader without subscriptions.
func newLeader(o outside) *leader {
	l := &leader{
		outside: o, inbox: newInbox(), looks: rate.Sometimes{Interval: time.Minute},
		remaking: remaking{fails: rate.Sometimes{Interval: time.Minute}},
	}
	l.subs = subscriptions{
		outside: &l.outside, leader: l, history: &l.history, catchUp: &l.catchUp, checkpoints: &l.checkpoints, obstacles: &l.reporter.obstacles,
		byKey: map[string]*sub{}, byID: map[uint64]*sub{}, outbox: outbox{outside: &l.outside},
	}
	l.catchUp = catchUp{sender: &l.subs, reader: l, index: newIndex(), gaps: gaps{
		store: o.store, log: o.log, metrics: o.metrics, obstacles: &l.reporter.obstacles, checkpoints: &l.checkpoints,
	}}
	l.reporter = reporter{
		outside: &l.outside, subs: l.subs.byKey, catchUp: &l.catchUp, checkpoints: &l.checkpoints, large: rate.Sometimes{Interval: time.Minute},
	}
	l.historian = historian{outside: &l.outside, history: &l.history, work: &l.work}
	return l
}

// movesWithin is how long a subscription may be nobody's on its way from one instance to another. Nobody
// means it to begin anew then, and its checkpoint is not read, which would be most of its pause.
const movesWithin = time.Second

const (
	tickInterval = 50 * time.Millisecond
	// maxEvents and maxBytes bound the tail; a pass has half of that. A subscription that falls further
	// behind is caught up by a pass.
	maxEvents = 8192
	maxBytes  = 32 << 20
)

// run leads until ctx ends.
func (l *leader) run(ctx context.Context) error {
	info, err := l.streamInfo(ctx)
	if err != nil {
		return err
	}
	l.reader = feed.NewReader(l.js, info)
	l.subs.outbox.term = newTerm(l.lease.Term())

	working, cancel := context.WithCancel(ctx)
	l.historian.ended = working.Done()
	defer l.work.Wait()
	defer cancel()
	if err := l.historian.recall(working, l.reader, info.Created); err != nil {
		return err
	}
	l.subs.listen(l.nc.NewInbox())
	answers, err := l.nc.Subscribe(l.subs.outbox.replies+".*.*", l.inbox.answer)
	if err != nil {
		return fmt.Errorf("subscribe to answers: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only on a closed connection
	if err := answers.SetPendingLimits(-1, 64<<20); err != nil {
		return fmt.Errorf("subscribe to answers: %w", err)
	}
	handler := &tailHandler{inbox: l.inbox, done: working.Done()}
	tail, err := feed.New(l.js, feed.Config{Stream: l.stream, Handler: handler, First: handler.first, Seen: handler.seen, Absent: func() { l.remaking.stream(l) }, Trouble: l.hindered, Logger: l.log})
	if err != nil {
		return err
	}
	l.work.Go(func() {
		if err := tail.Run(working); err != nil {
			l.log.Error("the store is no longer followed", "error", err)
		}
	})
	connected := l.nc.StatusChanged(nats.CONNECTED)
	defer l.nc.RemoveStatusListener(connected)

	l.catchUp.gaps.now = time.Now()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.inbox.wake:
		case item := <-l.inbox.stream:
			l.streamed(working, item)
		case _, open := <-connected:
			if !open { // and so is the connection
				connected = nil
				break
			}
			l.subs.reconnected(time.Now())
		case <-tick.C:
			l.tick(working, time.Now())
		case <-ctx.Done():
			cancel() // the feed no longer waits for this loop, and so the connection can say when all is heard
			l.finish(ctx)
			return nil
		}
		l.turn(working)
	}
}

// adoptTerm takes over a term of the lease that is higher than what was sent with: it was raised, or the
// lease had vanished and was written again.
func (l *leader) adoptTerm(now time.Time) {
	if l.lease.Term() == l.subs.outbox.term.number {
		return
	}
	l.subs.outbox.term = newTerm(l.lease.Term())
	l.announce(l.subs.outbox.term.number)
	l.subs.askAll(now)
}

// turn does all there is to do:
//
//  1. what was posted: results of reads and writes, and where the stream begins;
//  2. answers of proxies. They come before events, since they make room, and before registrations, since what came before a proxy was
//     superseded counts;
//  3. registrations;
//  4. what the stream's feed shows, as much as its queue holds: who is attached to the tail is sent each event;
//  5. checkpoints that are to be read;
//  6. passes: those that have caught up end, the others read on, and one begins where somebody waits;
//  7. holes of the stream that are to be judged;
//  8. questions that were deferred and have their turn.
//
// What is due by time, and the writing of checkpoints, is tick's.
func (l *leader) turn(ctx context.Context) {
	now := time.Now()
	l.catchUp.gaps.now = now
	t := l.inbox.empty()
	for _, call := range t.calls {
		call()
	}
	l.catchUp.first = max(l.catchUp.first, t.first)
	for i := range t.answers {
		l.subs.answered(&t.answers[i], now)
	}
	for i := range t.entries {
		l.subs.entry(&t.entries[i], now)
	}
	for range cap(l.inbox.stream) {
		select {
		case item := <-l.inbox.stream:
			l.streamed(ctx, item)
			continue
		default:
		}
		break
	}
	l.load(ctx)
	l.catchUp.plan(ctx, now)
	l.judge(now)
	l.subs.askDeferred(now)
}

// streamed takes what the feed of the store's stream shows.
func (l *leader) streamed(ctx context.Context, item streamItem) {
	switch item.kind {
	case isMessage:
		l.initTail(item.message.Sequence - 1)
		l.history.heard = feed.Witness{Sequence: item.message.Sequence, Time: item.message.Time}
		l.catchUp.over(l.catchUp.tail, item.message.Sequence-1)
		if e := l.entryOf(item.message); e != nil {
			l.catchUp.tail.add(e)
			l.catchUp.dispatch(l.catchUp.tail, e)
		}
		l.catchUp.tail.high = item.message.Sequence
		l.catchUp.tail.trim(maxEvents, maxBytes)
	case isTrimmed:
		if l.catchUp.tail != nil {
			l.catchUp.over(l.catchUp.tail, item.sequence-1)
		}
	case isLevel:
		l.initTail(item.sequence)
		l.level(ctx)
	case isSeen:
		l.seen(item.seen)
	default:
		l.reset(item.reason)
	}
}

// initTail begins the tail, once it is known where the stream ends.
func (l *leader) initTail(end uint64) {
	if l.catchUp.tail == nil {
		l.catchUp.tail = newSegment(end)
		l.subs.askAll(time.Now())
	}
}

// entryOf reads a message of the stream; nil where it is no event, but a marker or a schedule of the
// server's, or nothing that can be read.
func (l *leader) entryOf(m feed.Message) *entry {
	header := m.Header
	if header == nil {
		header = nats.Header{}
	}
	if kind := event.KindOf(header); kind != event.IsEvent {
		l.metrics.PassedOver.WithLabelValues(string(kind)).Inc()
		return nil
	}
	data, err := l.layout.apply(m.Subject, header, m.Data)
	var e event.Event
	if err == nil {
		e, err = event.FromStored(l.store, m.Subject, m.Sequence, m.Time, header, data)
	}
	if err != nil {
		l.metrics.Malformed.Inc()
		l.metrics.PassedOver.WithLabelValues(string(event.NoEvent)).Inc()
		now := time.Now()
		l.reporter.strays.add(&m, err, now)
		if l.reporter.strays.say(now) {
			l.log.Warn("a message of the store's stream is no event and is passed over", "subject", m.Subject, "sequence", m.Sequence, "error", err)
		}
		return nil
	}
	return &entry{event: e, size: len(e.Data) + 64*len(header) + 256}
}
