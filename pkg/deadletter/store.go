package sink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Errors of the lot that callers match.
var (
	// ErrNotParked is returned for a sequence that the lot does not hold.
	ErrNotParked = errors.New("not parked")
	// ErrTruncated is returned by Replay for an event whose data or headers did not fit into the lot.
	ErrTruncated = errors.New("parked without all of its data or headers")
	// ErrParkedStream is returned for a stream that exists under the lot's name and can't be the lot.
	ErrParkedStream = errors.New("stream " + ParkedStream + " can't hold parked events")
	// ErrParkedFull is returned by Park where the stream has reached a limit and discards what is new.
	ErrParkedFull = errors.New("stream " + ParkedStream + " is full")
)

const (
	// parkTimeout bounds one try to store an event, or to read some.
	parkTimeout = 5 * time.Second
	// lookTimeout bounds a look whether an event is parked already, which a user may not be permitted.
	lookTimeout = time.Second
	// A page of the lot is read at once; events can be a megabyte each.
	pageSize  = 256
	pageBytes = 8 << 20
)

// ParkedConfig says how the lot is created where it is absent.
type ParkedConfig struct {
	Replicas int  // 1, 3 or 5; default 1
	Memory   bool // memory storage in place of file
}

// Lot is the stream of parked events. It is safe for concurrent use.
type Lot struct {
	js     jetstream.JetStream
	cfg    ParkedConfig
	direct feed.Direct
	stream jetstream.Stream // nil where OpenExistingParked found none
	marks  parkedMarks
}

// OpenParked opens the lot, creating it where it is absent. An existing stream is the user's and stays as it is; one that
// can't be the lot is ErrParkedStream.
func OpenParked(ctx context.Context, js jetstream.JetStream, cfg ParkedConfig) (*Lot, error) {
	l := &Lot{js: js, cfg: cfg, direct: feed.NewDirect(js, ParkedStream)}
	stream, err := l.ensure(ctx)
	if err != nil {
		return nil, err
	}
	l.stream = stream
	return l, nil
}

// OpenExistingParked opens the lot to look at it. A lot that is not there is an empty one, and nothing can be parked in it.
func OpenExistingParked(ctx context.Context, js jetstream.JetStream) (*Lot, error) {
	stream, err := js.Stream(ctx, ParkedStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return &Lot{js: js}, nil
	case err != nil:
		return nil, fmt.Errorf("open stream %s: %w", ParkedStream, err)
	default:
		return &Lot{js: js, direct: feed.NewDirect(js, ParkedStream), stream: stream}, checkParked(stream)
	}
}

func (l *Lot) ensure(ctx context.Context) (jetstream.Stream, error) {
	stream, err := l.js.Stream(ctx, ParkedStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		sc := jetstream.StreamConfig{
			Name: ParkedStream, Description: "Events that their subscribers refused", Subjects: []string{ParkedPrefix + ">"},
			Replicas: max(l.cfg.Replicas, 1), AllowDirect: true,
		}
		if l.cfg.Memory {
			sc.Storage = jetstream.MemoryStorage
		}
		stream, err = l.js.CreateStream(ctx, sc)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = l.js.Stream(ctx, ParkedStream) // somebody else was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", ParkedStream, err)
	}
	return stream, checkParked(stream)
}

// Park stores the event with the reason and how often it was refused, and returns once that is acknowledged. What a kill repeats,
// whichever instance parks it again, is stored once: an event goes by the key of its subscription, its epoch and its sequence.
// Where the event is too large for the lot, what can be kept of it is kept, and marked.
// Any error is one of the lot, and passes: the event is not parked.
func (l *Lot) Park(ctx context.Context, e *Event, c Config, reason string, attempts int) error {
	err := l.park(ctx, e, c, reason, attempts)
	if err != nil {
		return fmt.Errorf("park event %d of %s/%s: %w", e.Sequence, e.Store, e.Subscription, err)
	}
	return nil
}

func (l *Lot) park(ctx context.Context, e *Event, c Config, reason string, attempts int) error {
	switch {
	case e.Store == "" || e.Subscription == "":
		return subscription.ErrEmptyName
	case l.stream == nil:
		return fmt.Errorf("%w on %s", ErrNoStream, ParkedPrefix+">")
	}
	m := parkedMessage(e, c, reason, attempts, time.Now())
	id := messageID(e)
	if l.marks.has(ctx, l, m.Subject, id, e.Sequence) {
		return nil
	}
	err := l.store(ctx, m, id)
	for _, part := range truncated(m) {
		if !unstorable(err) {
			break
		}
		err = l.store(ctx, part, id)
	}
	if err == nil {
		l.marks.note(id, e.Sequence)
	}
	return err
}

func unstorable(err error) bool {
	return tooLarge(err) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadHeaderMsg)
}

func (l *Lot) store(ctx context.Context, m *nats.Msg, id string) error {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	for {
		ack, err := l.js.PublishMsg(ctx, m, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0)) // an empty id is none
		if errors.Is(err, jetstream.ErrNoStreamResponse) {                                           // deleted since, or NATS was restored empty
			if _, err := l.ensure(ctx); err != nil {
				return err
			}
			ack, err = l.js.PublishMsg(ctx, m)
		}
		switch {
		case err != nil:
			return full(err)
		case !ack.Duplicate || l.holds(ctx, ack.Sequence):
			return nil
		}
		// JetStream remembers ids of events that were dropped since. One that comes again after that is refused anew.
		id += "/" + strconv.FormatUint(ack.Sequence, 10)
	}
}

// holds reports whether an event is still in the lot. One of which nobody says so in time is not taken to be.
func (l *Lot) holds(ctx context.Context, sequence uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, err := l.Get(ctx, sequence)
	return err == nil
}

// errCodeStoreFailed has no name in nats.go. The stream has reached one of its limits, and discards what is new.
const errCodeStoreFailed jetstream.ErrorCode = 10077

// full says what to do about a lot that takes no more.
func full(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != errCodeStoreFailed {
		return fmt.Errorf("stream %s: %w", ParkedStream, err)
	}
	return fmt.Errorf("%w (%s); make room with: subproxy parked replay --all, or subproxy parked drop SEQ; or raise its limit with: nats stream edit %s",
		ErrParkedFull, api.Description, ParkedStream)
}

// List yields what is parked when it is called, in the order of parking. Store and name narrow it; empty means all of them.
// After an error it ends.
func (l *Lot) List(ctx context.Context, store, name string) iter.Seq2[Parked, error] {
	return func(yield func(Parked, error) bool) {
		if l.stream == nil {
			return
		}
		// What is parked meanwhile, perhaps by what is replayed, is left for the next time.
		info, err := l.stream.Info(ctx)
		if err != nil {
			yield(Parked{}, fmt.Errorf("list %s: %w", ParkedStream, err))
			return
		}
		for from, last := uint64(1), info.State.LastSeq; from <= last; {
			page, err := l.page(ctx, from, parkedSubject(store, name))
			if errors.Is(err, feed.ErrNothing) {
				return
			}
			if err != nil {
				yield(Parked{}, fmt.Errorf("list %s: %w", ParkedStream, err))
				return
			}
			for i := range page {
				if page[i].Sequence > last {
					return
				}
				if p, ok := parked(&page[i]); ok && !yield(p, nil) {
					return
				}
				from = page[i].Sequence + 1
			}
		}
	}
}

func (l *Lot) page(ctx context.Context, from uint64, filter string) ([]feed.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	return l.direct.Page(ctx, from, filter, pageSize, pageBytes)
}

// parked reads a message of the lot. It is false for the marker of one that expired.
func parked(m *feed.Message) (Parked, bool) {
	if event.KindOf(m.Header) == event.Marker {
		return Parked{}, false
	}
	return parseParked(m.Sequence, m.Subject, m.Time, m.Header, m.Data), true
}

// Get reads one event by its sequence in the lot, or ErrNotParked.
func (l *Lot) Get(ctx context.Context, sequence uint64) (Parked, error) {
	if l.stream == nil {
		return Parked{}, fmt.Errorf("%d: %w", sequence, ErrNotParked)
	}
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	m, err := l.direct.Get(ctx, sequence)
	if err != nil && !errors.Is(err, feed.ErrNothing) {
		return Parked{}, fmt.Errorf("read %d of %s: %w", sequence, ParkedStream, err)
	}
	p, ok := parked(&m)
	if err != nil || !ok {
		return Parked{}, fmt.Errorf("%d: %w", sequence, ErrNotParked)
	}
	return p, nil
}

// Drop removes one event, or returns ErrNotParked. It is not overwritten on disk.
func (l *Lot) Drop(ctx context.Context, sequence uint64) error {
	if _, err := l.Get(ctx, sequence); err != nil {
		return err
	}
	if err := l.stream.DeleteMsg(ctx, sequence); err != nil {
		return fmt.Errorf("drop %d of %s: %w", sequence, ParkedStream, err)
	}
	return nil
}

// Replay delivers a parked event, and drops it once it is accepted. It is delivered after events that came later in its
// store. What it returns is Deliver's error, or one of dropping it: then it was delivered and is still there.
func (l *Lot) Replay(ctx context.Context, p Parked, s Sink) error {
	if p.Truncated {
		return ErrTruncated
	}
	if err := s.Deliver(ctx, p.event()); err != nil {
		return err
	}
	if err := l.Drop(ctx, p.Sequence); err != nil && !errors.Is(err, ErrNotParked) {
		return fmt.Errorf("delivered, and still parked: %w", err)
	}
	return nil
}
