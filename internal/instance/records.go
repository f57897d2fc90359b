package instance

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
)

// records is the bucket of registrations, as an instance follows it and keeps it there.
type records struct {
	*Instance
	bucket *kv.Bucket
	feed   *feed.Feed
	domain *string // of JetStream; nil: the bucket's leader did not say

	// first is what the proxies were told last of the bucket's first revision, and settled whether they
	// were told twice. The feed's goroutine owns them.
	first   uint64
	settled bool

	remaking        atomic.Bool    // the bucket was found gone, and is being created again
	gone            atomic.Bool    // that could not be done, and the proxies were told; until it is there again
	recreateWarning rate.Sometimes // told that the bucket could not be created again
}

func (r *records) init(i *Instance) { r.Instance, r.recreateWarning.Interval = i, time.Minute }

// openBuckets opens the two buckets. What is wrong with any that is there, and with what Options.Unfit
// looks at, is one error, so that it takes one start to know it.
func (i *Instance) openBuckets(ctx context.Context) error {
	var err error
	i.records.bucket, err = i.openBucket(ctx, i.o.Registry)
	if err != nil && !IsUnfit(err) {
		return err
	}
	var others error
	if i.o.Unfit != nil {
		others = i.o.Unfit(ctx)
	}
	if err := errors.Join(err, others); err != nil {
		return err
	}
	if domain, err := feed.Domain(ctx, i.o.JetStream, i.records.bucket.Stream()); err == nil {
		i.records.domain = &domain
	}
	i.sessions.bucket, err = i.openBucket(ctx, i.sessions.config())
	return err
}

// IsUnfit reports whether a bucket or stream is there and is not as it must be: waiting does not help.
func IsUnfit(err error) bool {
	var missing *kv.MissingSettingError
	return errors.As(err, &missing) || errors.Is(err, deadletter.ErrWrongStream)
}

// openBucket waits for a JetStream that is only starting.
func (i *Instance) openBucket(ctx context.Context, cfg kv.Config) (*kv.Bucket, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		bucket, err := kv.Open(attempt, i.o.JetStream, cfg)
		cancel()
		if err == nil {
			return bucket, nil
		}
		if IsUnfit(err) {
			return nil, err
		}
		if denied := i.o.Permitted(); denied != nil {
			return nil, denied
		}
		i.log.Warn("JetStream is not ready yet", "error", connect.Explain(err))
		if backoff.Sleep(ctx, time.Second) != nil {
			return nil, connect.Explain(err)
		}
	}
}

// ensure opens the bucket again after it was found gone, which many batches find at once.
func (r *records) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	created, err := r.bucket.Ensure(ctx, r.o.Registry)
	if err != nil {
		return err
	}
	r.gone.Store(false)
	if created {
		r.log.Warn("the registry bucket was gone and is created anew; every registration is written again", "bucket", r.bucket.Name())
		if r.running.Load() {
			r.feed.Poke()
			r.work.Go(r.proveAgain)
		}
	}
	return nil
}

// proveAgain looks a while after the bucket was created again whether it still takes writes: at rest
// nothing is written for long, and what was written before reads as verified. Where it does not, the bucket
// is treated as one that is gone.
func (r *records) proveAgain() {
	const again = 2 * time.Second
	if backoff.Sleep(r.followed, again) == nil {
		r.bucket.Doubt()
		r.deleted()
	}
}

// remakes is how often in a row the bucket is created again, and remakeAgain the time between. A server
// that is not done with removing the old one may refuse to, or take the new one down with it. The feed's
// next look tells once more.
const (
	remakes     = 4
	remakeAgain = 250 * time.Millisecond
)

// deleted is told when the bucket's stream was deleted: by an advisory, which a server does not always
// send, or by the feed that does not find it. The bucket is created again now, and not when the next
// attempt finds out.
func (r *records) deleted() {
	if !r.running.Load() || r.stopping.Load() || r.supervisor.Retired() || !r.remaking.CompareAndSwap(false, true) {
		return
	}
	r.work.Go(func() {
		defer r.remaking.Store(false)
		for range remakes {
			err := r.ensure(r.followed)
			if err == nil {
				return
			}
			r.recreateWarning.Do(func() {
				r.log.Warn("the registry bucket is gone and could not be created anew yet; it is tried again", "bucket", r.bucket.Name(), "error", err)
			})
			if !r.gone.Swap(true) {
				r.supervisor.Void() // nothing is registered, which statuses are to say
			}
			if backoff.Sleep(r.followed, remakeAgain) != nil || r.stopping.Load() || r.supervisor.Retired() {
				return
			}
		}
	})
}

// follow starts the feed of the bucket.
func (r *records) follow() error {
	f, err := feed.New(r.o.JetStream, feed.Config{Stream: r.bucket.Stream(), StartSeq: 1, Handler: r, First: r.trimmed, Absent: r.deleted, Logger: r.log})
	if err != nil {
		return fmt.Errorf("follow bucket %s: %w", r.bucket.Name(), err)
	}
	r.feed = f
	r.work.Go(func() {
		defer r.barrier.stop()
		if err := f.Run(r.followed); err != nil {
			r.log.Error("the registry is no longer followed", "error", err)
		}
	})
	return nil
}

// Message implements feed.Handler.
func (r *records) Message(m feed.Message) {
	r.supervisor.Entry(r.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time))
}

// Level implements feed.Handler.
func (r *records) Level(uint64) { r.barrier.pass(bucketLevel) }

// Reset implements feed.Handler.
func (r *records) Reset(reason error) {
	r.gone.Store(false) // somebody created it again
	r.log.Warn("the registry bucket is not what it was; every registration is written again", "reason", reason)
	r.supervisor.Void()
}

// trimmed tells the proxies where the bucket begins now: at each change, and at the next look once more,
// for those whose attempts were under way.
func (r *records) trimmed(first uint64) {
	if first == r.first && r.settled {
		return
	}
	r.first, r.settled = first, first == r.first
	r.supervisor.Trimmed(first)
}

// FeedStats are the counters of the registry's feed.
func (i *Instance) FeedStats() feed.Stats { return i.records.feed.Stats() }
