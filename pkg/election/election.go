package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Errors of an election.
var (
	// ErrConfig is returned by New for a configuration that can't be run.
	ErrConfig = errors.New("election: invalid configuration")
	// ErrDeposed is returned by a lease's methods once the lease is held no more, and is the cause of
	// Lead's context then.
	ErrDeposed = errors.New("the leader's lease is held no more")
	// ErrLastTerm is returned where a term is asked for above the last there is (event.MaxTerm). The way
	// back is to begin the count again: stop the emitters, subproxy reset-term STORE, delete the lease's
	// key.
	ErrLastTerm = errors.New("there is no higher term; stop the emitters, " +
		"run subproxy reset-term for the store, delete the key of its lease, and start them")
)

// flushWait is how long a lease is still renewed after Run's context has ended, for Lead to return.
const flushWait = 10 * time.Second

// Config says who contends for what.
type Config struct {
	Store     string
	Candidate registration.Owner // its ID must be new at each start, and run one election a store at a time
	Follower  *lease.Follower    // of the cluster bucket; may serve many elections

	TTL time.Duration // how long a leader that is silent stays one; default lease.DefaultTTL

	// Lead is called each time that the candidate is elected, never twice at once. Its context ends when
	// the lease is lost (the cause is ErrDeposed) or Run's context ends; then the lease is renewed for 10 s
	// more, for Lead to return. If it returns while leading, the candidate resigns, and lets others lead
	// for a TTL.
	Lead func(ctx context.Context, l *Lease)
	// MinTerm is optional: the highest term of the store that the caller knows of, such as from
	// registrations. It must not block.
	MinTerm func() uint64
	// Ensure is optional. It is called when the bucket is found gone, and should create it.
	Ensure func(ctx context.Context) error
	Logger *slog.Logger // optional
}

func (cfg *Config) fill() error {
	if cfg.TTL == 0 {
		cfg.TTL = lease.DefaultTTL
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Store == "" || cfg.Candidate.ID == "" || cfg.Follower == nil || cfg.Lead == nil:
		return fmt.Errorf(
			"%w: a store, a candidate with an id, a follower and what to do as leader are needed", ErrConfig)
	case cfg.TTL < lease.MinTTL || cfg.TTL > lease.MaxTTL:
		return fmt.Errorf("%w: TTL %s is not from %s to %s", ErrConfig, cfg.TTL, lease.MinTTL, lease.MaxTTL)
	}
	return nil
}

// Election is one candidate's part in the election of one store's leader. What its rules say is done in the
// goroutine of Run, which owns what is not said to be shared.
type Election struct {
	cfg    Config
	log    *slog.Logger
	client *lease.Client
	rules  rules
	ctx    context.Context // of Run

	lease   *Lease // nil while not leading
	end     context.CancelCauseFunc
	waiting []renewal // to be sent
	sent    []renewal // on their way
	gaveUp  bool      // resigning was not acknowledged
}

// New checks cfg. It sends nothing.
func New(cfg Config) (*Election, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	// The grace is the part of the TTL that counts only while JetStream answers.
	grace := min(lease.DefaultGrace, cfg.TTL/2)
	log := cfg.Logger.With("store", cfg.Store, "candidate", cfg.Candidate.Name)
	return &Election{
		cfg: cfg, log: log,
		client: lease.NewClient(lease.ClientConfig{
			// A request gets half the grace: one that was sent while JetStream was away must be over, and
			// be sent again, before the others have waited out theirs.
			Follower: cfg.Follower, Patience: max(grace/2, lease.MinRetry), Ensure: cfg.Ensure, Logger: log,
			Failure: "the leader's lease could not be read or written",
		}),
		rules: newRules(settings{
			store: cfg.Store, self: cfg.Candidate,
			ttl: cfg.TTL, grace: grace, flushWait: flushWait, patience: cfg.Follower.Patience, minTerm: cfg.MinTerm,
		}, backoff.Jitter),
	}, nil
}

// Run contends until ctx ends, and leads whenever it is elected. It is called once. It returns nil after
// Lead has returned and the lease is given back; an error says that this could not be done, and the next
// leader has to wait for the TTL.
func (e *Election) Run(ctx context.Context) error {
	e.ctx = ctx
	defer e.cfg.Follower.Watch(LeaderKey(e.cfg.Store), e.client)()
	e.client.Run(ctx,
		func() (done bool) { return e.decide(e.rules.stop) },
		func(inputs ...lease.Input) (done bool) {
			for _, in := range inputs {
				done = e.step(in)
			}
			return done
		})
	if e.gaveUp {
		return fmt.Errorf(
			"resign as leader of store %s: not acknowledged in time", e.cfg.Store)
	}
	return nil
}

// step lets the rules decide on what happened to the key, and does what they say.
func (e *Election) step(in lease.Input) (done bool) {
	return e.decide(func(now time.Time) effects {
		fx := e.rules.Step(in, now)
		if in.Kind == lease.Answered && !fx.Renewed { // the next renewal is for them too
			e.waiting, e.sent = append(e.sent, e.waiting...), nil
		}
		return fx
	})
}

// decide lets the rules decide, and does what they say.
func (e *Election) decide(rule func(now time.Time) effects) (done bool) {
	if e.lease != nil {
		if witness := e.lease.witness.Swap(nil); witness != nil {
			e.rules.mine.Witness = *witness
		}
	}
	fx := rule(time.Now())
	if fx.Deposed || fx.Resigned {
		e.leave(fx.Deposed)
	}
	if fx.Elected {
		e.lead()
	}
	if e.lease != nil {
		held := e.rules.held
		e.lease.held.Store(&held)
	}
	if fx.Renewed {
		for _, r := range e.sent {
			r.done <- nil
		}
		e.sent = nil
	}
	if fx.Write != nil {
		e.sent, e.waiting = e.waiting, nil
	}
	e.client.Do(&fx.Effects, "leading", e.rules.leading)
	return fx.Done
}

// lead begins a leadership.
func (e *Election) lead() {
	ctx, end := context.WithCancelCause(e.ctx)
	l := &Lease{previous: e.rules.before, vacancy: e.rules.vacancy, election: e, ended: make(chan struct{})}
	held := e.rules.held
	l.held.Store(&held)
	e.lease, e.end = l, end
	e.log.Info("elected leader of the store",
		"term", l.Term(), "vacancy", l.vacancy, "previous_leader", l.previous.Leader)
	e.client.Go(func() {
		defer end(nil)
		e.cfg.Lead(ctx, l)
		// Run does not end before this call: the rules are not done while Lead runs.
		returned := func() (done bool) { return e.decide(e.rules.leadReturned) }
		e.client.Call(context.Background(), nil, returned)
	})
}

// leave ends the leadership, and tells all who wait for a renewal.
func (e *Election) leave(deposed bool) {
	unknown := e.rules.lease.State == lease.Unknown || e.rules.ours()
	e.gaveUp = e.rules.stopping && !deposed && unknown
	if e.lease != nil { // nil where it was won after Run's context had ended
		if deposed {
			by := &e.rules.lease.Record
			e.end(ErrDeposed)
			e.log.Warn("deposed as leader of the store",
				"term", e.lease.Term(), "by", by.Leader, "by_term", by.Term)
		} else {
			e.log.Info("resigned as leader of the store", "term", e.lease.Term(), "acknowledged", !unknown)
		}
		close(e.lease.ended)
		e.lease = nil
	}
	for _, r := range append(e.sent, e.waiting...) {
		r.done <- ErrDeposed
	}
	e.sent, e.waiting = nil, nil
}

// renew renews the lease for one who waits for it.
func (e *Election) renew(r renewal) (done bool) {
	if r.lease != e.lease {
		r.done <- ErrDeposed
		return false
	}
	e.waiting = append(e.waiting, r)
	return e.decide(func(now time.Time) effects { return e.rules.renew(r.update, now) })
}
