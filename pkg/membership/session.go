package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Errors of a session.
var (
	// ErrSession is returned by OpenSession for a configuration that can't be run.
	ErrSession = errors.New("session: invalid configuration")
	// ErrSuperseded is what a session ended with whose name another run took.
	ErrSuperseded = errors.New("another run of this instance's name took over")
	// ErrClosed is returned by the methods of a session that was closed.
	ErrClosed = errors.New("the session is closed")
)

// SessionConfig says whose session it is.
type SessionConfig struct {
	Owner    registration.Owner // its ID must be new at each start
	Follower *lease.Follower    // of the cluster bucket

	Version  string
	Weight   int           // from 1 to MaxWeight; default 1
	Draining bool          // begin so
	Stores   Stores        // of which the instance has subscriptions
	TTL      time.Duration // how long an instance that is silent lives; default DefaultTTL

	// OnSuperseded is optional. It is called once, if another run of the name takes over. It must not
	// block.
	OnSuperseded func(by Member)
	// Ensure is optional. It is called when the bucket is found gone, and should create it.
	Ensure func(ctx context.Context) error
	Logger *slog.Logger // optional
}

func (cfg *SessionConfig) fill() error {
	if cfg.TTL == 0 {
		cfg.TTL = lease.DefaultTTL
	}
	if cfg.Weight == 0 {
		cfg.Weight = 1
	}
	if cfg.OnSuperseded == nil {
		cfg.OnSuperseded = func(Member) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Owner.Name == "" || cfg.Owner.ID == "" || cfg.Follower == nil:
		return fmt.Errorf("%w: an owner with a name and an id and a follower are needed", ErrSession)
	case cfg.TTL < lease.MinTTL || cfg.TTL > lease.MaxTTL:
		return fmt.Errorf("%w: TTL %s is not from %s to %s", ErrSession, cfg.TTL, lease.MinTTL, lease.MaxTTL)
	case cfg.Weight < 1 || cfg.Weight > MaxWeight:
		return fmt.Errorf("%w: weight %d is not from 1 to %d", ErrSession, cfg.Weight, MaxWeight)
	}
	return nil
}

// Session says to the others that this run of an instance lives: one key in the cluster bucket (MemberKey),
// written four times a TTL. It is held until it is closed or superseded, whatever becomes of JetStream
// meanwhile: while nobody can write, nobody is declared dead. What the bucket lost or somebody deleted is
// written again. Its methods may be called from any goroutine, also after it ended. What is not said to be
// shared belongs to its loop.
type Session struct {
	cfg     SessionConfig
	log     *slog.Logger
	client  *lease.Client
	rules   sessionRules
	pending []*update // not in the bucket yet

	held   atomic.Pointer[Member]
	opened chan struct{} // closed with the first record in the bucket
	ended  chan struct{} // closed when the loop has ended
	err    error         // why it ended, once it has
	close  context.CancelFunc
}

// update is a change of the record that somebody waits for.
type update struct {
	edit      func(*Member)
	done      chan error  // holds the one answer
	abandoned atomic.Bool // nobody waits any more
}

// OpenSession begins to hold the session of an instance, superseding the name's last run. It does not wait
// for the bucket (see Opened). Close it.
func OpenSession(cfg SessionConfig) (*Session, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	o := cfg.Owner
	log := cfg.Logger.With("instance", o.Name)
	s := &Session{
		cfg: cfg, log: log,
		client: lease.NewClient(lease.ClientConfig{
			// A request that was sent while JetStream was away must be over, and sent again, before the
			// others' grace is.
			Patience: max(min(cfg.TTL/lease.Renewals, lease.DefaultGrace/2), lease.MinRetry),
			Follower: cfg.Follower, Ensure: cfg.Ensure, Logger: log, Failure: "the instance's session could not be read or written",
		}),
		rules: newSessionRules(Member{
			Name: o.Name, ID: o.ID, Host: o.Host, PID: o.PID,
			Version: cfg.Version, Weight: cfg.Weight, Draining: cfg.Draining, Stores: cfg.Stores,
			Since: time.Now().UTC().Round(0), TTLMillis: cfg.TTL.Milliseconds(),
		}, cfg.TTL, backoff.Jitter),
		opened: make(chan struct{}), ended: make(chan struct{}),
	}
	var ctx context.Context
	ctx, s.close = context.WithCancel(context.Background())
	unwatch := cfg.Follower.Watch(MemberKey(o.Name), s.client)
	go func() {
		defer close(s.ended) // Close waits for it
		defer unwatch()
		s.run(ctx)
	}()
	return s, nil
}

// Opened is closed when the bucket has had the session for the first time.
func (s *Session) Opened() <-chan struct{} { return s.opened }

// Ended is closed when the session is held no more: it was closed, or another run has the name.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Member is the record as the bucket had it last; ok false before Opened.
func (s *Session) Member() (m Member, ok bool) {
	if held := s.held.Load(); held != nil {
		return *held, true
	}
	return Member{}, false
}

// SetDraining tells the others whether this instance is to hold nothing. It returns when that is in the
// bucket; where ctx ends before, it is still going to be. A next run of the name does not know of it.
func (s *Session) SetDraining(ctx context.Context, draining bool) error {
	if err := s.edit(ctx, func(m *Member) { m.Draining = draining }); err != nil {
		return fmt.Errorf("set draining of %s to %t: %w", s.cfg.Owner.Name, draining, err)
	}
	return nil
}

// SetStores tells the others of which stores this instance has subscriptions. It returns as SetDraining
// does.
func (s *Session) SetStores(ctx context.Context, stores Stores) error {
	if err := s.edit(ctx, func(m *Member) { m.Stores = stores }); err != nil {
		return fmt.Errorf("set stores of %s: %w", s.cfg.Owner.Name, err)
	}
	return nil
}

// edit changes the record, and returns when the bucket has it so.
func (s *Session) edit(ctx context.Context, edit func(*Member)) error {
	u := &update{edit: edit, done: make(chan error, 1)}
	if s.client.Call(ctx, s.ended, func() (done bool) { return s.update(u) }) {
		select {
		case err := <-u.done:
			return err
		case <-ctx.Done():
			u.abandoned.Store(true)
			return ctx.Err()
		}
	}
	select {
	case <-s.ended:
		return s.over()
	default:
		return ctx.Err()
	}
}

// Close gives the session back, which the others act on at once. It returns when that is done, or where ctx
// ends before; then the others have to wait for the TTL.
func (s *Session) Close(ctx context.Context) error {
	s.close()
	select {
	case <-s.ended:
		if errors.Is(s.err, ErrSuperseded) {
			return nil // there is nothing to give back
		}
		return s.err
	case <-ctx.Done():
	}
	s.client.Call(context.Background(), s.ended, func() (done bool) {
		s.err = fmt.Errorf("give back the session of %s: %w", s.cfg.Owner.Name, context.Canceled)
		return true
	})
	<-s.ended
	return s.err
}

// over is what a call finds after the end.
func (s *Session) over() error {
	if s.rules.by != nil {
		return ErrSuperseded
	}
	return ErrClosed
}

// run holds the session until it is closed or superseded.
func (s *Session) run(ctx context.Context) {
	s.client.Run(ctx,
		func() (done bool) { return s.perform(s.rules.stop(time.Now())) },
		func(inputs ...lease.Input) (done bool) {
			for _, in := range inputs {
				done = s.perform(s.rules.Step(in, time.Now()))
			}
			return done
		})
	for _, u := range s.pending {
		u.done <- s.over()
	}
	if by := s.rules.by; by != nil {
		s.err = fmt.Errorf("session of %s: %w: %s on %s, pid %d",
			s.cfg.Owner.Name, ErrSuperseded, by.ID, by.Host, by.PID)
		s.cfg.OnSuperseded(*by)
	}
}

// perform does what the rules say.
func (s *Session) perform(fx sessionEffects) (done bool) {
	if fx.Held {
		held := s.rules.lease.Record
		if s.held.Swap(&held) == nil {
			s.log.Info("the instance's session is open",
				"incarnation", held.Incarnation, "ttl", s.cfg.TTL.String())
			close(s.opened)
		}
		s.acknowledge()
	}
	s.client.Do(&fx.Effects)
	return fx.Done
}

// update changes the record for one who waits for it.
func (s *Session) update(u *update) (done bool) {
	s.pending = append(s.pending, u)
	done = s.perform(s.rules.edit(u.edit, time.Now()))
	if s.rules.settled() {
		s.acknowledge() // the bucket has it so already
	}
	return done
}

// acknowledge answers the updates that are in the record that the bucket has.
func (s *Session) acknowledge() {
	held := s.rules.lease.Record
	s.pending = slices.DeleteFunc(s.pending, func(u *update) bool {
		edited := held
		if u.edit(&edited); edited == held {
			u.done <- nil
			return true
		}
		return u.abandoned.Load()
	})
}
