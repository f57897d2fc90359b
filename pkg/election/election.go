package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

// Errors of an election.
var (
	// ErrConfig is returned by New for a configuration that can't be run.
	ErrConfig = errors.New("election: invalid configuration")
	// ErrDeposed is returned by a lease's methods once the lease is held no more, and is the cause of Lead's context then.
	ErrDeposed = errors.New("the leader's lease is held no more")
	// ErrLastTerm is returned where a term is asked for above the last there is (event.MaxTerm). The way back is to begin
	// the count again: stop the emitters, subproxy reset-term STORE, delete the lease's key.
	ErrLastTerm = errors.New("there is no higher term; stop the emitters, run subproxy reset-term for the store, delete the key of its lease, and start them")
)

// DefaultFlushWait is how long a lease is still renewed for a Lead that was told to return.
const DefaultFlushWait = 10 * time.Second

// Config says who contends for what.
type Config struct {
	Store     string
	Candidate registration.Owner // its ID must be new at each start, and run one election a store at a time
	Follower  *lease.Follower    // of the cluster bucket; may serve many elections

	TTL   time.Duration // how long a leader that is silent stays one; default DefaultTTL
	Grace time.Duration // the part of it that counts only while JetStream answers; default DefaultGrace, at most half of TTL
	// FlushWait is how long the lease is still renewed after Run's context has ended, for Lead to return; default
	// DefaultFlushWait. Run itself waits as long as Lead takes.
	FlushWait time.Duration

	// Lead is called each time that the candidate is elected, never twice at once. Its context ends when the lease is
	// lost (the cause is ErrDeposed) or Run's context ends. If it returns while leading, the candidate resigns, and lets
	// others lead for a TTL.
	Lead func(ctx context.Context, l *Lease)
	// MinTerm is optional: the highest term of the store that the caller knows of, such as from registrations. It must not block.
	MinTerm func() uint64
	// Ensure is optional. It is called when the bucket is found gone, and should create it.
	Ensure func(ctx context.Context) error
	Logger *slog.Logger // optional
}

func (cfg *Config) fill() error {
	if cfg.TTL == 0 {
		cfg.TTL = lease.DefaultTTL
	}
	if cfg.Grace == 0 {
		cfg.Grace = lease.DefaultGrace
	}
	cfg.Grace = min(cfg.Grace, cfg.TTL/2)
	if cfg.FlushWait == 0 {
		cfg.FlushWait = DefaultFlushWait
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Store == "" || cfg.Candidate.ID == "" || cfg.Follower == nil || cfg.Lead == nil:
		return fmt.Errorf("%w: a store, a candidate with an id, a follower and what to do as leader are needed", ErrConfig)
	case cfg.TTL < lease.MinTTL || cfg.TTL > lease.MaxTTL:
		return fmt.Errorf("%w: TTL %s is not from %s to %s", ErrConfig, cfg.TTL, lease.MinTTL, lease.MaxTTL)
	case cfg.Grace < 0 || cfg.FlushWait < 0:
		return fmt.Errorf("%w: grace %s, flush wait %s", ErrConfig, cfg.Grace, cfg.FlushWait)
	}
	return nil
}

// Election is one candidate's part in the election of one store's leader.
type Election struct {
	cfg    Config
	log    *slog.Logger
	leader atomic.Pointer[LeaderRecord]
}

// New checks cfg. It sends nothing.
func New(cfg Config) (*Election, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	return &Election{cfg: cfg, log: cfg.Logger.With("store", cfg.Store, "candidate", cfg.Candidate.Name)}, nil
}

// Leader is who leads, as far as this candidate knows while it runs.
func (e *Election) Leader() (LeaderRecord, bool) {
	if r := e.leader.Load(); r != nil {
		return *r, true
	}
	return LeaderRecord{}, false
}

// Run contends until ctx ends, and leads whenever it is elected. It returns nil after Lead has returned and the lease is
// given back; an error says that this could not be done, and the next leader has to wait for the TTL.
func (e *Election) Run(ctx context.Context) error {
	c := &runner{
		Election: e, client: lease.NewClient(e.cfg.Follower, e.log),
		rules: rules{
			store: e.cfg.Store, self: e.cfg.Candidate, ttl: e.cfg.TTL, grace: e.cfg.Grace, flushWait: e.cfg.FlushWait,
			minTerm: e.cfg.MinTerm, rand: rand.Float64,
		},
		returned: make(chan struct{}, 1),
		asks:     make(chan *ask),
	}
	// A request gets half the grace: one that was sent while JetStream was away must be over, and be sent again, before the
	// others have waited out theirs.
	c.client.Context, c.client.Patience, c.client.Remake = ctx, max(e.cfg.Grace/2, lease.MinRetry), e.cfg.Ensure
	defer e.cfg.Follower.Watch(LeaderKey(e.cfg.Store), c.client)()
	return c.run()
}
