package kv

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// broken is JetStream where a bucket's files are removed under it: it is there, and reads, and stores
// nothing.
type broken struct {
	jetstream.JetStream
	left    atomic.Int32 // how many more deletions it takes until it stores again
	deleted atomic.Int32
	gone    time.Time // when it was deleted last
	pause   time.Duration
}

func (b *broken) PublishMsgAsync(m *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	if b.left.Load() > 0 {
		return failed{&jetstream.APIError{Code: 503, ErrorCode: 10077, Description: "open 1.blk: no such file or directory"}}, nil
	}
	return b.JetStream.PublishMsgAsync(m, opts...)
}

func (b *broken) DeleteStream(ctx context.Context, name string) error {
	b.left.Add(-1)
	b.deleted.Add(1)
	b.gone = time.Now()
	return b.JetStream.DeleteStream(ctx, name)
}

func (b *broken) CreateKeyValue(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	b.pause = time.Since(b.gone)
	return b.JetStream.CreateKeyValue(ctx, cfg)
}

// failed is a write that was refused.
type failed struct{ err error }

func (f failed) Ok() <-chan *jetstream.PubAck { return nil }
func (f failed) Msg() *nats.Msg               { return nil }
func (f failed) Err() <-chan error {
	refused := make(chan error, 1)
	refused <- f.err
	return refused
}

func TestBucketIsMadeAnewAfterAPauseAndProven(t *testing.T) {
	bucket, js, _ := open(t)
	b := &broken{JetStream: bucket.js}
	bucket.js = b
	if err := js.DeleteKeyValue(t.Context(), DefaultBucket); err != nil {
		t.Fatal(err)
	}
	b.gone = time.Now()
	if created, err := bucket.Ensure(t.Context(), Config{}); err != nil || !created {
		t.Fatalf("created %t, %v", created, err)
	}
	if b.pause < remakePause {
		t.Errorf("it was made anew after %v", b.pause)
	}
	if e, ok, err := bucket.GetFromLeader(t.Context(), proofKey); err != nil || !ok || e.Operation != Deleted {
		t.Errorf("the proof is %+v, %t, %v", e, ok, err)
	}
	if listed, err := bucket.List(t.Context(), "", ""); err != nil || len(listed) > 0 {
		t.Errorf("it lists %v, %v", listed, err)
	}
}

func TestOfManyThatFindTheBucketGoneOneCreatesIt(t *testing.T) {
	bucket, js, _ := open(t)
	if err := js.DeleteKeyValue(t.Context(), DefaultBucket); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var created atomic.Int32
	for range 8 {
		all.Go(func() {
			anew, err := bucket.Ensure(t.Context(), Config{})
			if err != nil {
				t.Error(err)
			}
			if anew {
				created.Add(1)
			}
		})
	}
	all.Wait()
	if n := created.Load(); n != 1 {
		t.Errorf("%d created it", n)
	}
}

func TestNewBucketThatTakesNoWritesIsMadeOnceMore(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than the rest together")
	}
	for name, c := range map[string]struct {
		broken, deleted int32
		proven          bool
	}{"it takes them then": {1, 1, true}, "it takes none then either": {9, 1, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket, js, _ := open(t)
			b := &broken{JetStream: bucket.js}
			b.left.Store(c.broken)
			bucket.js = b
			if err := js.DeleteKeyValue(t.Context(), DefaultBucket); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			cfg := Config{Logger: slog.New(slog.NewTextHandler(&said, nil))}
			created, err := bucket.Ensure(t.Context(), cfg)
			if c.proven != (err == nil && created) || !c.proven && !errors.Is(err, ErrUnproven) {
				t.Errorf("created %t, %v", created, err)
			}
			if n := b.deleted.Load(); n != c.deleted || strings.Count(said.String(), "made once more") != 1 {
				t.Errorf("it was deleted %d times, and said: %s", n, said.String())
			}
			if c.proven {
				write(t, bucket, Write{Key: "k", Data: []byte("d")})
				return
			}
			// It is not taken for good because it is there, nor deleted again and again.
			if _, err := bucket.Ensure(t.Context(), cfg); !errors.Is(err, ErrUnproven) || b.deleted.Load() != c.deleted {
				t.Errorf("again: %v, %d deletions", err, b.deleted.Load())
			}
			b.left.Store(0)
			if _, err := bucket.Ensure(t.Context(), cfg); err != nil {
				t.Errorf("when it takes writes: %v", err)
			}
		})
	}
}

func TestWriteThatANewBucketCannotStoreFindsItGone(t *testing.T) {
	bucket, _, _ := open(t)
	b := &broken{JetStream: bucket.js}
	bucket.js = b
	b.left.Store(1)
	if err := bucket.Put(t.Context(), []Write{{Key: "k", Data: []byte("d")}})[0].Err; !errors.Is(err, ErrNoStream) || !errors.Is(err, ErrRefused) {
		t.Fatalf("written: %v", err)
	}
	if created, err := bucket.Ensure(t.Context(), Config{}); err != nil || !created || b.deleted.Load() != 1 {
		t.Fatalf("created %t, %v after %d deletions", created, err, b.deleted.Load())
	}
	// One that is older, or was made by somebody else, is never deleted.
	bucket.made.Store(time.Now().Add(-young).UnixNano())
	b.left.Store(1)
	if err := bucket.Put(t.Context(), []Write{{Key: "k", Data: []byte("d")}})[0].Err; !errors.Is(err, ErrRefused) || errors.Is(err, ErrNoStream) {
		t.Errorf("written: %v", err)
	}
}

func TestFullBucketIsNotBroken(t *testing.T) {
	for _, c := range []struct {
		err    error
		broken bool
	}{
		{&jetstream.APIError{ErrorCode: 10077, Description: "open 1.blk: no such file or directory"}, true},
		{&jetstream.APIError{ErrorCode: 10077, Description: "maximum bytes exceeded"}, false},
		{&jetstream.APIError{ErrorCode: 10071, Description: "wrong last sequence: 1"}, false},
		{ErrNoAck, false},
	} {
		if got := isBroken(describe(c.err)); got != c.broken {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}

func TestDeletionInABucketWithoutTTLIsTaken(t *testing.T) {
	_, js := startNode(t)
	bucket, err := Open(t.Context(), js, Config{Kind: Checkpoints})
	if err != nil {
		t.Fatal(err)
	}
	revision := write(t, bucket, Write{Key: "k", Data: []byte("d")})
	write(t, bucket, Write{Key: "k", Revision: revision})
}
