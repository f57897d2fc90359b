package service

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// ensure opens the bucket again after it was found gone. Many batches find that at once; they take turns, and all but
// the first find it there.
func (s *Service) ensure(ctx context.Context) error {
	s.ensuring.Lock()
	defer s.ensuring.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	created, err := s.bucket.Ensure(ctx, s.bucketConfig())
	if err != nil {
		return err
	}
	s.gone.Store(false)
	if created {
		s.log.Warn("the registry bucket was gone and is created anew; every registration is written again", "bucket", s.bucket.Name())
		if s.running.Load() {
			s.feed.Poke()
			s.work.Go(s.proveAgain)
		}
	}
	return nil
}

// proveAgain looks a while after the bucket was made anew whether it still takes writes: at rest nothing is written for long, and what
// was written before reads as verified. Where it does not, the bucket is seen to as one that is gone.
func (s *Service) proveAgain() {
	const again = 2 * time.Second
	if sleep(s.followed, again) {
		s.bucket.Doubt()
		s.deleted()
	}
}

// follow starts the feed of the bucket and joins the others, which lets the proxies begin once both have shown all there is.
func (s *Service) follow(ctx context.Context) error {
	f, err := feed.New(s.js, feed.Config{Stream: s.bucket.Stream(), StartSeq: 1, Handler: (*follower)(s), First: s.trimmed, Absent: s.deleted, Logger: s.log})
	if err != nil {
		return fmt.Errorf("follow bucket %s: %w", s.bucket.Name(), err)
	}
	s.feed = f
	const patience = 5 * time.Second
	s.gate = newGate(patience, s.supervisor.Begin)
	s.followed, s.cancel = context.WithCancel(context.Background())
	s.work.Go(func() {
		defer s.gate.stop()
		if err := f.Run(s.followed); err != nil {
			s.log.Error("the registry is no longer followed", "error", err)
		}
	})
	return s.join(ctx)
}

// follower is the Service as the feed's handler.
type follower Service

// Message implements feed.Handler.
func (f *follower) Message(m feed.Message) {
	f.supervisor.Entry(f.bucket.NewEntry(m.Subject, m.Sequence, m.Header, m.Data, m.Time))
}

// Level implements feed.Handler.
func (f *follower) Level(uint64) { f.gate.open(bucketLevel) }

// Reset implements feed.Handler.
func (f *follower) Reset(reason error) {
	f.gone.Store(false) // somebody made it anew
	f.log.Warn("the registry bucket is not what it was; every registration is written again", "reason", reason)
	f.supervisor.Void()
}

// trimmed tells the proxies where the bucket begins now: at each change, and at the next look once more, for those whose
// attempts were under way.
func (s *Service) trimmed(first uint64) {
	if first == s.first && s.settled {
		return
	}
	s.first, s.settled = first, first == s.first
	s.supervisor.Trimmed(first)
}
