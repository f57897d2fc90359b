package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// A bucket that is made anew where one was just deleted can stay unwritable for good: the server is still
// removing the old one's files. Seen with nats-server 2.15.2 in a few of some hundred deletions, never
// where 5 ms and more lay between.

// ErrUnproven is returned by Ensure for a bucket that was made and does not take writes, so that nothing is
// registered in it.
var ErrUnproven = errors.New("the bucket was made anew and takes no writes yet")

const (
	// remakePause is how long a bucket that is gone is left gone.
	remakePause = 100 * time.Millisecond
	// proofKey is what a bucket that was made is proven by. Its record is a marker of a deletion, which
	// nobody reads as a registration, lease or checkpoint.
	proofKey = "proof"
	// proofTimeout is how long a bucket may take for it: its leader may just have been elected.
	proofTimeout = 2 * time.Second
	proofAgain   = 20 * time.Millisecond
)

// Ensure creates the bucket where it is absent and checks it where it is present. It is called again when
// the bucket is found to be gone (deleted by hand, or NATS restored empty). Calls take turns: of many that
// find it gone at once, one creates it. A bucket that it made anew is proven to take writes; where it does
// not, it is deleted and made once more, and where that does not help either the error is ErrUnproven.
func (b *Bucket) Ensure(ctx context.Context, cfg Config) (created bool, err error) {
	b.ensuring.Lock()
	defer b.ensuring.Unlock()
	stream, created, err := b.findOrCreate(ctx, cfg)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", b.bucket, err)
	}
	b.there = true
	if err := b.check(stream.CachedInfo().Config, cfg.Records); err != nil || !b.doubted.Load() {
		return created, err
	}
	err = b.prove(ctx)
	if isBroken(err) && b.spare.CompareAndSwap(true, false) {
		if cfg.Logger != nil {
			cfg.Logger.Error("a bucket that was made a moment ago takes no writes; it is deleted and made once more", "bucket", b.bucket, "error", err)
		}
		err = b.makeOnceMore(ctx, cfg, err)
		created = true
	}
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w: %w", b.bucket, ErrUnproven, err)
	}
	b.doubted.Store(false)
	return created, nil
}

func (b *Bucket) findOrCreate(ctx context.Context, cfg Config) (stream jetstream.Stream, created bool, err error) {
	stream, err = b.js.Stream(ctx, b.Stream())
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, false, err
	}
	anew := b.there
	if anew && backoff.Sleep(ctx, remakePause) != nil {
		return nil, false, ctx.Err()
	}
	if stream, err = b.create(ctx, cfg); err != nil {
		return nil, false, err
	}
	b.doubted.Store(anew && !cfg.OnlyRead)
	b.made.Store(time.Now().UnixNano())
	b.spare.Store(true)
	return stream, true, nil
}

// makeOnceMore deletes a bucket that was made a moment ago and refuses writes, and makes it again.
func (b *Bucket) makeOnceMore(ctx context.Context, cfg Config, refused error) error {
	if err := b.js.DeleteStream(ctx, b.Stream()); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w; it could not be deleted either, so delete it with nats kv del %s: %w", refused, b.bucket, err)
	}
	if backoff.Sleep(ctx, remakePause) != nil {
		return ctx.Err()
	}
	if _, err := b.create(ctx, cfg); err != nil {
		return err
	}
	return b.prove(ctx)
}

// Doubt has the next Ensure prove that the bucket takes writes. It is for a bucket that was made anew a
// short while ago.
func (b *Bucket) Doubt() { b.doubted.Store(true) }

// young is how long a bucket that was made here counts as new.
const young = 10 * time.Second

// suspect says of a new bucket that can't store that it is as good as gone: whoever writes then calls
// Ensure, which proves it.
func (b *Bucket) suspect(err error) error {
	if !isBroken(err) || time.Since(time.Unix(0, b.made.Load())) > young || !b.spare.Load() {
		return err
	}
	b.doubted.Store(true)
	return fmt.Errorf("%w: %w", ErrNoStream, err)
}

// isBroken reports whether a server can't store what the stream's configuration would let it: not where the
// stream is full.
func isBroken(err error) bool {
	const storeFailed = 10077
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == storeFailed && !strings.Contains(api.Description, "maximum")
}

// prove writes a record, conditional on what is there, and reads it back from the leader.
func (b *Bucket) prove(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout+2*b.link.Patience(0)) // a write and a read
	defer cancel()
	for revision := uint64(0); ; {
		written := b.Put(ctx, []Write{{Key: proofKey, Revision: revision}})[0]
		e, ok, read := b.GetFromLeader(ctx, proofKey)
		switch err = errors.Join(written.Err, read); {
		case err == nil && ok && e.Revision >= written.Revision:
			return nil
		case err == nil:
			err = fmt.Errorf("revision %d was acknowledged and is not there", written.Revision)
		case errors.Is(written.Err, ErrConflict) && read == nil && e.Revision != revision: // another instance's proof
			revision = e.Revision
			continue
		}
		if backoff.Sleep(ctx, proofAgain) != nil {
			return err
		}
	}
}
