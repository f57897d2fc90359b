package lease

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
)

// ensureWait is what JetStream may take for one try to create the bucket anew: a look, and its creation.
const ensureWait = 5 * time.Second

// ClientConfig says how a client makes its requests.
type ClientConfig struct {
	Follower *Follower
	Patience time.Duration                   // with JetStream, for one request; the way there and back is added
	Ensure   func(ctx context.Context) error // makes the bucket anew; optional
	Failure  string                          // what is logged where a request fails
	Logger   *slog.Logger
}

// Client does for rules what they ask for: one request to the bucket at a time, and beside it at most one
// try to make the bucket anew. It keeps what the feed shows meanwhile. What is not said to be shared
// belongs to the goroutine of Run.
type Client struct {
	cfg     ClientConfig
	ctx     context.Context // of Run
	work    sync.WaitGroup  // what goes on beside
	timer   *time.Timer
	calls   chan func() (done bool) // shared
	answers chan Input              // of the request; holds the one there can be
	ensured chan error              // holds the one there can be
	making  bool                    // the bucket anew
	failing string                  // the failure logged last, in a row

	mu     sync.Mutex
	inputs []Input       // guarded by mu: what the feed showed
	news   chan struct{} // says that there are inputs; holds one
}

// NewClient makes a client of the follower's bucket. It sends nothing.
func NewClient(cfg ClientConfig) *Client {
	return &Client{
		cfg: cfg, timer: time.NewTimer(0), calls: make(chan func() bool), answers: make(chan Input, 1),
		ensured: make(chan error, 1), news: make(chan struct{}, 1),
	}
}

// Hear implements Watcher.
func (c *Client) Hear(in Input) {
	c.mu.Lock()
	c.inputs = append(c.inputs, in)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *Client) heard() []Input {
	c.mu.Lock()
	defer c.mu.Unlock()
	inputs := c.inputs
	c.inputs = nil
	return inputs
}

// Run calls step with what happened, stop once when ctx has ended, and what is given to Call, until one of
// them returns that nothing is left to do. It returns when what it began has ended too.
func (c *Client) Run(ctx context.Context, stop func() (done bool), step func(...Input) (done bool)) {
	defer c.timer.Stop()
	defer c.work.Wait()
	ended := ctx.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	for done := false; !done; {
		select {
		case <-ended:
			ended = nil
			done = stop()
		case <-c.timer.C:
			done = step(Input{Kind: TimerDue})
		case <-c.news:
			// Where they were stepped before, stepping again would only put off what is due.
			if inputs := c.heard(); len(inputs) > 0 {
				done = step(inputs...)
			}
		case in := <-c.answers:
			done = step(in)
			if in.Err == nil {
				c.failing = ""
			}
		case err := <-c.ensured:
			c.making = false
			c.report(err)
		case call := <-c.calls:
			done = call()
		}
	}
}

// Call has do called in the goroutine of Run, which ends where do says so. It returns false where over is
// closed or ctx ends before that. It may be called from any goroutine but that one.
func (c *Client) Call(ctx context.Context, over <-chan struct{}, do func() (done bool)) bool {
	select {
	case c.calls <- do:
		return true
	case <-over:
	case <-ctx.Done():
	}
	return false
}

// Go does something beside, whose end Run waits for.
func (c *Client) Go(do func()) { c.work.Go(do) }

// Do does what rules want done. The arguments are logged with a failure.
func (c *Client) Do(fx *Effects, args ...any) {
	c.report(fx.Failed, args...)
	switch {
	case fx.Read != "":
		key := fx.Read
		c.request(func(ctx context.Context) (in Input) {
			in.Entry, in.Found, in.Err = c.cfg.Follower.bucket.GetFromLeader(ctx, key)
			return in
		})
	case fx.Write != nil:
		writes := []kv.Write{*fx.Write}
		c.request(func(ctx context.Context) Input {
			r := c.cfg.Follower.bucket.Put(ctx, writes)[0]
			return Input{Revision: r.Revision, Err: r.Err}
		})
	}
	if fx.Ensure {
		c.ensure()
	}
	c.timer.Stop()
	if !fx.Next.IsZero() {
		c.timer.Reset(time.Until(fx.Next))
	}
}

// request makes the one request at a time. It ends by time and not with Run, which needs to know what
// became of a write.
func (c *Client) request(do func(context.Context) Input) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), c.cfg.Follower.bucket.Patience(c.cfg.Patience))
	c.work.Go(func() {
		defer cancel()
		in := do(ctx)
		in.Kind = Answered
		c.answers <- in
	})
}

// ensure makes the bucket anew beside the requests: while it waits for a bucket that has no leader,
// renewals go on.
func (c *Client) ensure() {
	if c.making || c.cfg.Ensure == nil {
		return
	}
	c.making = true
	ctx, cancel := context.WithTimeout(c.ctx, ensureWait+3*c.cfg.Follower.bucket.Patience(0))
	c.work.Go(func() {
		defer cancel()
		err := c.cfg.Ensure(ctx)
		if err == nil {
			c.cfg.Follower.feed.Poke()
		}
		c.ensured <- err
	})
}

// report logs a failure once in a row.
func (c *Client) report(err error, args ...any) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if c.failing != err.Error() {
		c.failing, level = err.Error(), slog.LevelWarn
	}
	c.cfg.Logger.Log(c.ctx, level, c.cfg.Failure, append(args, "error", err)...)
}
