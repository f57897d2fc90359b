package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/backoff"
)

const (
	// pollInterval is the time between looks at the stream's last sequence: it bounds how long the loss of
	// the very last message goes unseen.
	pollInterval = time.Second
	// batchSize is one page of direct get. On one node pages of 100 gave 205,000 messages of 200 bytes a
	// second, pages of 1000 325,000, larger ones no more.
	batchSize = 1000

	// ModeRepublish: live messages come by republish, missed ones by direct get; no consumer exists.
	ModeRepublish = "republish"
	// ModeOrdered: live messages come through an ordered consumer, because the stream does not republish
	// all that is asked for, or allows no direct get. It costs one consumer, and a pause of a second or two
	// when its node dies.
	ModeOrdered = "ordered"

	recheck = time.Second // of a stream whose configuration stands in the way
)

var (
	// ErrConfig is returned by New for a Config that can't be followed.
	ErrConfig = errors.New("feed: invalid configuration")
	// ErrRecreated is the reason of a reset: the stream was deleted and created again.
	ErrRecreated = errors.New("stream was deleted and created again")
	// ErrWentBack is the reason of a reset: the stream holds an earlier or another history than the one
	// followed.
	ErrWentBack = errors.New("stream went back to an earlier state")

	errReopen = errors.New("stream configuration changed")
)

// Message is one message of the stream.
type Message struct {
	Subject  string // as stored, not as republished
	Sequence uint64
	Time     time.Time   // when the stream stored it
	Header   nats.Header // the original headers, and those the server adds to tell sequence, subject and time
	Data     []byte
}

// Config says what to follow.
type Config struct {
	// Stream is the stream's name, such as KV_exesdb_subscriptions. It need not exist yet.
	Stream string
	// StartSeq is the first sequence wanted: 1 for everything that is there, 0 for only what comes after
	// the start. If the stream ends before StartSeq-1 it is not the stream the caller knew: Reset is called
	// and it is read from 1.
	StartSeq uint64
	Handler  Handler
	// First is optional. It is called with the sequence of the stream's first message after each look at
	// the stream that found the handler up to date, or nothing that it could still be shown: what lies
	// below is gone, and where it was purged no message says so. Like the handler's, its calls come from
	// the goroutine that runs Run.
	First func(seq uint64)
	// Seen is optional. It is called, by the same goroutine, with messages that the stream was seen to
	// have, at each look that found others. What was seen before a Reset is not of the stream after it.
	Seen func([]Witness)
	// Absent is optional. It is called, by the same goroutine, at each look that finds no such stream.
	Absent func()
	// Trouble is optional. It is called, by the same goroutine, when the stream can't be followed, with the
	// reason: a *RetentionError at once, what may pass after 5 s; and with nil when it is followed again.
	Trouble func(reason error)
	// Logger is optional. Only changes of state are logged, never single messages.
	Logger *slog.Logger

	pollInterval time.Duration // 0: pollInterval
	batchSize    int           // 0: batchSize
}

// Handler receives what the stream holds. All calls come from the goroutine that runs Run.
type Handler interface {
	// Message is called for each message, once, in sequence order.
	Message(Message)
	// Level is called once after a start, and after a Reset, when everything that was in the stream then
	// has been delivered; seq is the stream's last sequence.
	Level(seq uint64)
	// Reset is called when the stream was recreated or went back (ErrRecreated, ErrWentBack): everything
	// seen is void, and the stream follows again from its first message, ending in Level.
	Reset(reason error)
}

// Stats are counters since New, and the present position.
type Stats struct {
	Received   uint64 // messages taken in order
	Duplicates uint64 // live messages that had been taken already
	Gaps       uint64 // times that messages were found missing, by a later message or by a poll
	Filled     uint64 // messages read to close gaps; those of the first reading are not counted
	Polls      uint64 // looks at the stream's end that were answered
	Resets     uint64
	Foreign    uint64 // live messages that another stream of the same name sent under the republish subject
	LastSeq    uint64 // sequence of the last message taken
	Mode       string // ModeRepublish or ModeOrdered; empty while the stream has not been seen
}

type counters struct {
	received, duplicates, gaps, filled, polls, resets, foreign, last atomic.Uint64
	mode                                                             atomic.Pointer[string]
}

// Feed follows one stream. Create it with New, then call Run once.
type Feed struct {
	cfg    Config
	api    api
	log    *slog.Logger
	counts counters
	waker  waker
	poked  atomic.Bool
	back   atomic.Bool // the connection came back, and what was followed must be compared with what is there
	mail   atomic.Pointer[report]

	// The goroutine in Run owns what follows.
	cur     cursor
	asked   uint64    // polls sent since New: the id of the latest
	seen    Witnesses // of the stream followed
	ends    []Witness // the stream's at the start; seen once a look has found the same stream
	doubts  []Witness // what was last when something told that the stream may be another
	doubted time.Time // when the last of them was added
	started bool      // cur stands where the caller asked it to
	absent  bool      // the stream was not there when Run began
	level   bool      // Level has been called since the start or the last reset
	trouble trouble
	guard   guard
}

// New checks cfg and returns a feed that is not running. It sends nothing.
func New(js jetstream.JetStream, cfg Config) (*Feed, error) {
	switch {
	case js == nil:
		return nil, fmt.Errorf("%w: no JetStream context", ErrConfig)
	case cfg.Stream == "" || strings.ContainsAny(cfg.Stream, " \t\r\n.*>/\\"):
		return nil, fmt.Errorf("%w: stream name %q", ErrConfig, cfg.Stream)
	case cfg.Handler == nil:
		return nil, fmt.Errorf("%w: no handler", ErrConfig)
	}
	if cfg.pollInterval == 0 {
		cfg.pollInterval = pollInterval
	}
	if cfg.batchSize == 0 {
		cfg.batchSize = batchSize
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feed{cfg: cfg, api: newAPI(js, cfg.Stream), log: cfg.Logger.With("stream", cfg.Stream)}
	f.waker.reset(context.Background())
	return f, nil
}

// Run follows the stream until ctx ends, and returns nil then.
func (f *Feed) Run(ctx context.Context) error {
	status := f.api.nc.StatusChanged(nats.CONNECTED)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for range status { // closed by RemoveStatusListener, or by the connection when it closes
			f.back.Store(true)
			f.Poke()
		}
	}()
	defer func() { f.api.nc.RemoveStatusListener(status); <-listening }()

	failures := 0
	for ctx.Err() == nil {
		info, ok := f.await(ctx)
		if !ok {
			break
		}
		if err := Check(info.Config); err != nil {
			f.hindered(err)
			f.pause(ctx, min(recheck, f.cfg.pollInterval))
			continue
		}
		err := f.place(ctx, info)
		before := f.cur.last
		if err == nil {
			err = f.follow(ctx, info)
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, ErrRecreated) || errors.Is(err, ErrWentBack):
			if errors.Is(err, ErrWentBack) && !f.cur.ordered {
				f.guard.raise(time.Now(), doubtedFor)
			}
			f.reset(err)
		case errors.Is(err, errReopen):
			f.log.Info("stream configuration changed, following anew")
		default:
			if f.cur.last > before {
				failures = 0
			}
			failures++
			f.hindered(fmt.Errorf("following it was interrupted: %w", err))
			f.pause(ctx, f.reopening().After(failures))
		}
	}
	return nil
}

// Stats may be called from any goroutine.
func (f *Feed) Stats() Stats {
	s := Stats{
		Received: f.counts.received.Load(), Duplicates: f.counts.duplicates.Load(), Gaps: f.counts.gaps.Load(),
		Filled: f.counts.filled.Load(), Polls: f.counts.polls.Load(), Resets: f.counts.resets.Load(),
		Foreign: f.counts.foreign.Load(), LastSeq: f.counts.last.Load(),
	}
	if mode := f.counts.mode.Load(); mode != nil {
		s.Mode = *mode
	}
	return s
}

// Poke makes the feed look at the stream now. Call it from any goroutine on a hint that something was
// missed; it never blocks, and many calls cost little more than one.
func (f *Feed) Poke() {
	f.poked.Store(true)
	f.waker.wake()
}

// await returns the stream's info as soon as the stream is there and has a leader.
func (f *Feed) await(ctx context.Context) (*jetstream.StreamInfo, bool) {
	for failures := 1; ctx.Err() == nil; failures++ {
		info, err := f.api.info(ctx)
		if err == nil {
			return info, true
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			f.absent = f.absent || !f.started
			if f.cfg.Absent != nil {
				f.cfg.Absent()
			}
		}
		f.hindered(err)
		f.pause(ctx, f.reopening().After(failures))
	}
	return nil, false
}

// place sets the cursor on a first start, and finds out about a stream that was recreated while nobody
// looked.
func (f *Feed) place(ctx context.Context, info *jetstream.StreamInfo) error {
	if f.started && !f.cur.created.IsZero() && !f.cur.created.Equal(info.Created) {
		f.doubt()
		if err := f.recognize(ctx, info); err != nil {
			return err
		}
	}
	f.cur.created = info.Created
	if f.started {
		return nil
	}
	f.ends, _ = f.api.ends(ctx, info) // what fails is done without
	f.started = true
	switch {
	case f.cfg.StartSeq > 0:
		f.cur.last = f.cfg.StartSeq - 1
	case !f.absent: // all that is in a stream which appears after the start came after the start
		f.cur.last = info.State.LastSeq
		if n := len(f.ends); n > 0 && f.ends[n-1].Sequence == f.cur.last {
			f.cur.at = f.ends[n-1].Time
		}
	}
	f.counts.last.Store(f.cur.last)
	return nil
}

// recognize finds out whether the stream is the one that was followed, although its creation time is
// another. ErrRecreated and ErrWentBack say that it is not.
func (f *Feed) recognize(ctx context.Context, info *jetstream.StreamInfo) error {
	replaced := f.dispel(ctx)
	if replaced != nil && !errors.Is(replaced, ErrWentBack) {
		return replaced
	}
	ends := extent{info.State.FirstSeq, info.State.LastSeq}
	c, err := compare(f.seen.List(0), ends, f.api.lookup(ctx))
	switch {
	case err != nil:
		return fmt.Errorf("compare %s with what was seen of it: %w", f.cfg.Stream, err)
	case replaced != nil && c.Kinship != Another:
		return replaced
	case c.Kinship == Same:
		f.log.Info("the stream has another creation time, and what it held is there", "before", f.cur.created, "now", info.Created)
	case c.Kinship == Shorter: // which must be seen twice
	case c.Kinship == Unproven && f.cur.last > 0 && ends.first > f.cur.last && ends.last >= f.cur.last: // nothing was seen, and nothing is missed
	case c.Kinship == Forked:
		return ErrWentBack
	default:
		return ErrRecreated
	}
	f.cur.created = info.Created
	return nil
}

// doubt remembers what is last now: what comes next may be of another stream.
func (f *Feed) doubt() {
	if n := len(f.doubts); !f.cur.at.IsZero() && (n == 0 || f.doubts[n-1].Sequence != f.cur.last) {
		f.doubts, f.doubted = append(f.doubts, Witness{f.cur.last, f.cur.at}), time.Now()
	}
}

// doubtful reports whether live messages are to wait, since they may be of another stream. Where the leader
// does not say, they do not wait for long. Those of a consumer need not: it ends with its stream.
func (f *Feed) doubtful() bool {
	return len(f.doubts) > 0 && !f.cur.ordered && time.Since(f.doubted) < leaderWait
}

// dispel finds out whether what was last is still there. That it is gone says nothing; that another message
// stands there says that this is another history, though it may be longer than ours.
func (f *Feed) dispel(ctx context.Context) error {
	for _, w := range f.doubts {
		m, ok, err := f.api.lookup(ctx)(w.Sequence, false)
		switch {
		case err != nil:
			return fmt.Errorf("compare %s with what was seen of it: %w", f.cfg.Stream, err)
		case ok && !m.is(w):
			f.see(0, w)
			return ErrWentBack
		}
	}
	f.doubts = nil
	return nil
}

// see remembers messages of the stream that is followed, which begins at first.
func (f *Feed) see(first uint64, all ...Witness) {
	before := f.seen
	f.seen.Add(all...)
	if f.cfg.Seen != nil && f.seen != before {
		f.cfg.Seen(f.seen.List(first))
	}
}

func (f *Feed) reset(reason error) {
	f.log.Warn("everything followed so far is void", "reason", reason, "last_seq", f.cur.last)
	f.cur, f.seen, f.ends, f.doubts, f.level = cursor{}, Witnesses{}, nil, nil, false
	f.counts.resets.Add(1)
	f.counts.last.Store(0)
	f.cfg.Handler.Reset(reason)
}

// reopening are the waits before a stream that can't be followed is looked at again.
func (f *Feed) reopening() backoff.Backoff {
	return backoff.Backoff{First: 50 * time.Millisecond, Max: f.cfg.pollInterval}
}

// pause waits for d, a poke or a reconnect, whichever is first.
func (f *Feed) pause(ctx context.Context, d time.Duration) {
	wait := f.waker.reset(ctx)
	if f.poked.Swap(false) {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wait.Done():
	}
}
