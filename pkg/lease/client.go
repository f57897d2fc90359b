package lease

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
)

// ensureWait bounds one try to create the bucket anew.
const ensureWait = 5 * time.Second

// Client does for rules, in the goroutine that steps them, what they ask for: one request to the bucket at a time, and
// beside it at most one try to make the bucket anew. It keeps what the feed shows meanwhile.
type Client struct {
	Context  context.Context                 // of Run
	Patience time.Duration                   // with one request
	Remake   func(ctx context.Context) error // makes the bucket anew; optional
	Work     sync.WaitGroup                  // what goes on beside
	Timer    *time.Timer
	News     chan struct{} // says that there are inputs; holds one
	Answers  chan Input    // of the request; holds the one there can be
	Remade   chan error    // holds the one there can be
	Remaking bool
	Failing  string // the failure logged last, in a row

	follower *Follower
	logger   *slog.Logger

	mu     sync.Mutex
	inputs []Input // guarded by mu: what the feed showed
}

// NewClient makes a client of the follower's bucket.
func NewClient(f *Follower, logger *slog.Logger) *Client {
	return &Client{
		follower: f, logger: logger, Timer: time.NewTimer(0),
		News: make(chan struct{}, 1), Answers: make(chan Input, 1), Remade: make(chan error, 1),
	}
}

// Hear implements Watcher.
func (c *Client) Hear(in Input) {
	c.mu.Lock()
	c.inputs = append(c.inputs, in)
	c.mu.Unlock()
	select {
	case c.News <- struct{}{}:
	default:
	}
}

// Inputs are those that the feed showed since the last call.
func (c *Client) Inputs() []Input {
	c.mu.Lock()
	defer c.mu.Unlock()
	inputs := c.inputs
	c.inputs = nil
	return inputs
}

// Read asks the bucket's leader what is under the key.
func (c *Client) Read(key string) {
	c.request(func(ctx context.Context) (in Input) {
		in.Entry, in.Found, in.Err = c.follower.bucket.GetFromLeader(ctx, key)
		return in
	})
}

// Write writes or deletes a record.
func (c *Client) Write(w kv.Write) {
	c.request(func(ctx context.Context) Input {
		r := c.follower.bucket.Put(ctx, []kv.Write{w})[0]
		return Input{Revision: r.Revision, Err: r.Err}
	})
}

// request makes the one request at a time. It ends by time and not with Run, which needs to know what became of a write.
func (c *Client) request(do func(context.Context) Input) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), c.Patience)
	c.Work.Go(func() {
		defer cancel()
		in := do(ctx)
		in.Kind = Answered
		c.Answers <- in
	})
}

// Ensure is beside the requests: while it waits for a bucket that has no leader, renewals go on.
func (c *Client) Ensure() {
	if c.Remaking || c.Remake == nil {
		return
	}
	c.Remaking = true
	ctx, cancel := context.WithTimeout(c.Context, ensureWait)
	c.Work.Go(func() {
		defer cancel()
		err := c.Remake(ctx)
		if err == nil {
			c.follower.feed.Poke()
		}
		c.Remade <- err
	})
}

// Wake sets the timer; a zero next stops it.
func (c *Client) Wake(next time.Time) {
	c.Timer.Stop()
	if !next.IsZero() {
		c.Timer.Reset(time.Until(next))
	}
}

// Report logs a failure once in a row.
func (c *Client) Report(message string, err error, args ...any) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if c.Failing != err.Error() {
		c.Failing, level = err.Error(), slog.LevelWarn
	}
	c.logger.Log(c.Context, level, message, append(args, "error", err)...)
}
