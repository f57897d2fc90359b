package deadletter

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

// Errors of the stream that callers match.
var (
	// ErrNotParked is returned for a sequence that the stream does not hold.
	ErrNotParked = errors.New("not parked")
	// ErrTruncated is returned by Replay for an event whose data or headers did not fit into the stream.
	ErrTruncated = errors.New("parked without all of its data or headers")
	// ErrWrongStream is returned for a stream of this name that exists and would lose parked events, or
	// hide them.
	ErrWrongStream = errors.New("stream " + Stream + " can't hold parked events")
	// ErrFull is returned by Park where the stream has reached a limit and discards what is new.
	ErrFull = errors.New("stream " + Stream + " is full")
	// ErrNoStream is returned by Park where OpenExisting found no stream.
	ErrNoStream = errors.New("no stream listens")
)

const (
	// parkTimeout bounds one try to store an event, or to read some.
	parkTimeout = 5 * time.Second
	// lookTimeout bounds a look whether an event is parked already, which a user may not be permitted.
	lookTimeout = time.Second
	// lookAgain is how long nothing is looked up after a look failed.
	lookAgain = time.Minute
	// A page of the stream is read at once; events can be a megabyte each.
	pageSize  = 256
	pageBytes = 8 << 20
)

// Config says how the stream is created where it is absent.
type Config struct {
	Replicas int  // 1, 3 or 5; default 1
	Memory   bool // memory storage in place of file
	Storage  feed.Storage
}

// Store is the stream of parked events. It is safe for concurrent use.
type Store struct {
	js     jetstream.JetStream
	cfg    Config
	direct feed.Direct
	stream jetstream.Stream // nil where OpenExisting found none
	marks  marks
}

// Open opens the stream, creating it where it is absent. An existing stream is the user's and stays as it
// is; one that can't hold parked events is ErrWrongStream.
func Open(ctx context.Context, js jetstream.JetStream, cfg Config) (*Store, error) {
	s := &Store{js: js, cfg: cfg, direct: feed.NewDirect(js, Stream)}
	stream, err := s.ensure(ctx)
	if err != nil {
		return nil, err
	}
	s.stream = stream
	return s, nil
}

// OpenExisting opens the stream to look at it. A stream that is not there is read as an empty one, and
// nothing can be parked in it.
func OpenExisting(ctx context.Context, js jetstream.JetStream) (*Store, error) {
	stream, err := js.Stream(ctx, Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return &Store{js: js}, nil
	case err != nil:
		return nil, fmt.Errorf("open stream %s: %w", Stream, err)
	default:
		return &Store{js: js, direct: feed.NewDirect(js, Stream), stream: stream}, check(stream)
	}
}

// Reach proves that what is parked here gets to the stream, which may be another account's: the stream
// refuses a message that is meant for another.
func (s *Store) Reach(ctx context.Context) error {
	const (
		noStream, otherStream = "none", 10060 // the server's JSStreamNotMatchErr
		patience              = 5 * time.Second
	)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: Prefix + "proof.proof"}, jetstream.WithExpectStream(noStream), jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == otherStream:
		return nil
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, context.DeadlineExceeded): // another may listen, and say nothing
		return fmt.Errorf("%w: nothing takes what is parked in %s, on %s; import it as a service, or let it pass the leaf node's link", ErrNoStream, Stream, Prefix+">")
	default:
		return fmt.Errorf("reach stream %s: %w", Stream, err)
	}
}

func (s *Store) ensure(ctx context.Context) (jetstream.Stream, error) {
	stream, err := s.js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		sc := jetstream.StreamConfig{
			Name: Stream, Description: "Events that their subscribers refused", Subjects: []string{Prefix + ">"},
			Replicas: max(s.cfg.Replicas, 1), AllowDirect: true,
		}
		s.cfg.Storage.Set(&sc)
		if s.cfg.Storage.MaxBytes > 0 {
			sc.Discard = jetstream.DiscardNew
		}
		if s.cfg.Memory {
			sc.Storage = jetstream.MemoryStorage
		}
		stream, err = s.js.CreateStream(ctx, sc)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = feed.AwaitStream(ctx, s.js, Stream) // somebody else was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", Stream, err)
	}
	return stream, check(stream)
}

// Park stores the event with the reason and how often it was refused, and returns once that is
// acknowledged. What a kill repeats, whichever instance parks it again, is stored once: an event goes by
// its ID. Where the event is too large for the stream, what can be kept of it is kept, and marked. Any
// error is one of the stream, and passes: the event is not parked.
func (s *Store) Park(ctx context.Context, e *Refused) error {
	err := s.park(ctx, e)
	if err != nil {
		return fmt.Errorf("park event %d of %s/%s: %w", e.Sequence, e.Store, e.Subscription, err)
	}
	return nil
}

func (s *Store) park(ctx context.Context, e *Refused) error {
	switch {
	case e.Store == "" || e.Subscription == "":
		return subscription.ErrEmptyName
	case s.stream == nil:
		return fmt.Errorf("%w on %s", ErrNoStream, Prefix+">")
	}
	m, id := message(e, time.Now()), e.ID
	if s.marks.has(ctx, s, m.Subject, id, e.Sequence) {
		return nil
	}
	err := s.store(ctx, m, id)
	for _, part := range truncated(m) {
		if !unstorable(err) {
			break
		}
		err = s.store(ctx, part, id)
	}
	if err == nil {
		s.marks.note(id, e.Sequence)
	}
	return err
}

func unstorable(err error) bool {
	return TooLarge(err) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadHeaderMsg)
}

// errCodeHeaderExceedsMaximum has no name in nats.go. JetStream stores 64 KiB of headers; core NATS takes
// more.
const errCodeHeaderExceedsMaximum jetstream.ErrorCode = 10097

// TooLarge reports whether JetStream refuses a message because of its size. All its other refusals are the
// stream's (full, no leader, wrong configuration), and pass.
func TooLarge(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum || api.ErrorCode == errCodeHeaderExceedsMaximum)
}

func (s *Store) store(ctx context.Context, m *nats.Msg, id string) error {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	for {
		ack, err := s.js.PublishMsg(ctx, m, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0)) // an empty id is none
		if errors.Is(err, jetstream.ErrNoStreamResponse) {                                           // deleted since, or NATS was restored empty
			if _, err := s.ensure(ctx); err != nil {
				return err
			}
			ack, err = s.js.PublishMsg(ctx, m)
		}
		switch {
		case err != nil:
			return full(err)
		case !ack.Duplicate || s.holds(ctx, ack.Sequence):
			return nil
		}
		// JetStream remembers ids of events that were dropped since. One that comes again after that is
		// refused anew.
		id += "/" + strconv.FormatUint(ack.Sequence, 10)
	}
}

// holds reports whether an event is still in the stream. One of which nobody says so in time is not taken
// to be.
func (s *Store) holds(ctx context.Context, sequence uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, err := s.Get(ctx, sequence)
	return err == nil
}

// errCodeStoreFailed has no name in nats.go. The stream has reached one of its limits, and discards what is
// new.
const errCodeStoreFailed jetstream.ErrorCode = 10077

// full says what to do about a stream that takes no more.
func full(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != errCodeStoreFailed {
		return fmt.Errorf("stream %s: %w", Stream, err)
	}
	return fmt.Errorf("%w (%s); make room with: subproxy parked replay --all, or subproxy parked drop SEQ; or raise its limit with: nats stream edit %s",
		ErrFull, api.Description, Stream)
}

// List yields what is parked when it is called, in the order of parking. Store and name narrow it; empty
// means all of them. After an error it ends.
func (s *Store) List(ctx context.Context, store, name string) iter.Seq2[Parked, error] {
	return func(yield func(Parked, error) bool) {
		if s.stream == nil {
			return
		}
		// What is parked meanwhile, perhaps by what is replayed, is left for the next time.
		info, err := s.stream.Info(ctx)
		if err != nil {
			yield(Parked{}, fmt.Errorf("list %s: %w", Stream, err))
			return
		}
		for from, last := uint64(1), info.State.LastSeq; from <= last; {
			page, err := s.page(ctx, from, subjectOf(store, name))
			if errors.Is(err, feed.ErrNothing) {
				return
			}
			if err != nil {
				yield(Parked{}, fmt.Errorf("list %s: %w", Stream, err))
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

func (s *Store) page(ctx context.Context, from uint64, filter string) ([]feed.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	return s.direct.Page(ctx, from, filter, pageSize, pageBytes)
}

// parked reads a message of the stream. It is false for the marker of one that expired.
func parked(m *feed.Message) (Parked, bool) {
	if event.KindOf(m.Header) == event.Marker {
		return Parked{}, false
	}
	return parseParked(m.Sequence, m.Subject, m.Time, m.Header, m.Data), true
}

// Get reads one event by its sequence in the stream, or ErrNotParked.
func (s *Store) Get(ctx context.Context, sequence uint64) (Parked, error) {
	if s.stream == nil {
		return Parked{}, fmt.Errorf("%d: %w", sequence, ErrNotParked)
	}
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	m, err := s.direct.Get(ctx, sequence)
	if err != nil && !errors.Is(err, feed.ErrNothing) {
		return Parked{}, fmt.Errorf("read %d of %s: %w", sequence, Stream, err)
	}
	p, ok := parked(&m)
	if err != nil || !ok {
		return Parked{}, fmt.Errorf("%d: %w", sequence, ErrNotParked)
	}
	return p, nil
}

// Drop removes one event, or returns ErrNotParked. It is not overwritten on disk.
func (s *Store) Drop(ctx context.Context, sequence uint64) error {
	if _, err := s.Get(ctx, sequence); err != nil {
		return err
	}
	if err := s.stream.DeleteMsg(ctx, sequence); err != nil {
		return fmt.Errorf("drop %d of %s: %w", sequence, Stream, err)
	}
	return nil
}

// Replay delivers a parked event, and drops it once it is accepted. It is delivered after events that came
// later in its store. What it returns is deliver's error, or one of dropping it: then it was delivered and
// is still there.
func (s *Store) Replay(ctx context.Context, p Parked, deliver func(context.Context) error) error {
	if p.Truncated {
		return ErrTruncated
	}
	if err := deliver(ctx); err != nil {
		return err
	}
	if err := s.Drop(ctx, p.Sequence); err != nil && !errors.Is(err, ErrNotParked) {
		return fmt.Errorf("delivered, and still parked: %w", err)
	}
	return nil
}
