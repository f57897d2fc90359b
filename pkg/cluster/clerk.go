package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/registry"
)

// clerk does for rules, in the goroutine that steps them, what they ask for: one request to the bucket at a time, and
// beside it at most one try to make the bucket anew. It keeps what the feed shows meanwhile.
type clerk struct {
	ctx      context.Context // of Run
	follower *Follower
	patience time.Duration                   // with one request
	remake   func(ctx context.Context) error // makes the bucket anew; optional
	logger   *slog.Logger
	work     sync.WaitGroup // what goes on beside
	timer    *time.Timer

	mu     sync.Mutex
	inputs []input       // guarded by mu: what the feed showed
	news   chan struct{} // says that there are inputs; holds one

	answers  chan input // of the request; holds the one there can be
	remade   chan error // holds the one there can be
	remaking bool
	failing  string // the failure logged last, in a row
}

func newClerk(f *Follower, logger *slog.Logger) *clerk {
	return &clerk{
		follower: f, logger: logger, timer: time.NewTimer(0),
		news: make(chan struct{}, 1), answers: make(chan input, 1), remade: make(chan error, 1),
	}
}

// heard implements watcher.
func (c *clerk) heard(in input) {
	c.mu.Lock()
	c.inputs = append(c.inputs, in)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *clerk) take() []input {
	c.mu.Lock()
	defer c.mu.Unlock()
	inputs := c.inputs
	c.inputs = nil
	return inputs
}

// read asks the bucket's leader what is under the key.
func (c *clerk) read(key string) {
	c.request(func(ctx context.Context) (in input) {
		in.entry, in.found, in.err = c.follower.bucket.GetFromLeader(ctx, key)
		return in
	})
}

func (c *clerk) write(w registry.Write) {
	c.request(func(ctx context.Context) input {
		r := c.follower.bucket.Put(ctx, []registry.Write{w})[0]
		return input{revision: r.Revision, err: r.Err}
	})
}

// request makes the one request at a time. It ends by time and not with Run, which needs to know what became of a write.
func (c *clerk) request(do func(context.Context) input) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), c.patience)
	c.work.Go(func() {
		defer cancel()
		in := do(ctx)
		in.kind = answered
		c.answers <- in
	})
}

// ensure is beside the requests: while it waits for a bucket that has no leader, renewals go on.
func (c *clerk) ensure() {
	if c.remaking || c.remake == nil {
		return
	}
	c.remaking = true
	ctx, cancel := context.WithTimeout(c.ctx, ensureWait)
	c.work.Go(func() {
		defer cancel()
		err := c.remake(ctx)
		if err == nil {
			c.follower.feed.Poke()
		}
		c.remade <- err
	})
}

// wake sets the timer; a zero next stops it.
func (c *clerk) wake(next time.Time) {
	c.timer.Stop()
	if !next.IsZero() {
		c.timer.Reset(time.Until(next))
	}
}

// report logs a failure once in a row.
func (c *clerk) report(message string, err error, args ...any) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if c.failing != err.Error() {
		c.failing, level = err.Error(), slog.LevelWarn
	}
	c.logger.Log(c.ctx, level, message, append(args, "error", err)...)
}
