package emitter

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/pkg/cluster"
)

// currentEpoch is the epoch to go on with: the one in the lease's record, where it is of this stream.
func currentEpoch(recorded, created string) string {
	if ofStream(recorded, created) {
		return recorded
	}
	return created
}

// ofStream reports whether an epoch is of the stream of that creation: the creation itself or, after the stream went back
// to an earlier state, that and something new.
func ofStream(epoch, created string) bool {
	return epoch == created || strings.HasPrefix(epoch, created+"-")
}

// laterEpoch is an epoch of the same stream, after it went back to an earlier state that ended with that sequence.
func laterEpoch(created string, last uint64) string {
	return created + "-" + strconv.FormatUint(last, 10) + "-" + nuid.Next()
}

// shared is up to where an epoch has the same events as the ones of that stream before it.
func shared(epoch, created string) uint64 {
	went, ok := strings.CutPrefix(epoch, created+"-")
	last, _, _ := strings.Cut(went, "-")
	if n, err := strconv.ParseUint(last, 10, 64); ok && err == nil {
		return n
	}
	return math.MaxUint64
}

// checkHistory looks whether the stream has lost events that a proxy took, or a checkpoint knows of. The tail may also just be
// behind.
func (l *leader) checkHistory(known uint64) {
	if l.checking {
		return
	}
	l.checking = true
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		last, err := l.reader.Last(ctx)
		l.inbox.call(func() {
			l.checking = false
			if err == nil && last < known && l.tail != nil {
				l.log.Error("the store's stream ends before events that were delivered: it went back to an earlier state", "last", last, "delivered", known)
				l.newHistory(laterEpoch(l.created, last), last)
			}
		})
	})
}

// reset is the feed's word that the stream is another, or went back.
func (l *leader) reset(reason error) {
	l.log.Error("the store's stream is not what it was; sequences begin anew", "stream", l.stream, "reason", reason)
	for _, s := range l.subs {
		l.leave(s)
	}
	for len(l.catchUp.passes) > 0 {
		l.catchUp.end(l.catchUp.passes[0])
	}
	l.tail, l.first = newTrack(0), 0
	l.pauseAll()
}

// level is the feed's word that it has shown all there is. Nothing is sent before it is known which stream that is: one that
// was made anew has no event that was delivered.
func (l *leader) level(ctx context.Context, last uint64) {
	if !l.resetting {
		return
	}
	resets := l.resets
	l.work.Go(func() {
		info, err := l.streamInfo(ctx)
		if err != nil {
			return // the leader ends
		}
		l.inbox.call(func() {
			if resets != l.resets {
				return
			}
			created := strconv.FormatInt(info.Created.UnixNano(), 10)
			if created == l.created {
				l.newHistory(laterEpoch(l.created, last), last)
				return
			}
			l.created = created
			l.newHistory(created, 0)
		})
	})
}

// newHistory begins an epoch: what lies after last is new, whatever was sent under the same sequences before. The lease knows
// of it first: a leader after this one that went on with the epoch before would make the proxies forget once more.
func (l *leader) newHistory(epoch string, last uint64) {
	l.pauseAll()
	resets := l.resets
	l.work.Go(func() {
		if !l.setEpoch(epoch) {
			return
		}
		l.inbox.call(func() {
			if resets != l.resets {
				return // it is another stream again
			}
			l.resetting, l.epoch = false, epoch
			for _, s := range l.subs {
				s.since = s.session + 1
				s.sender = NewSender(max(min(s.sender.Acked, last), s.least()))
				if s.phase != loading {
					l.dirty[s] = struct{}{}
				}
			}
			l.askAll(time.Now())
		})
	})
}

// pauseAll sends nothing more to anybody until the history is known.
func (l *leader) pauseAll() {
	l.resetting = true
	l.resets++
	for _, s := range l.subs {
		if s.phase == running || s.phase == placing || s.phase == asking {
			l.hold(s, time.Now())
		}
	}
}

// setEpoch reports false where the leader ends before the lease has the epoch.
func (l *leader) setEpoch(epoch string) bool {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := l.lease.SetEpoch(ctx, epoch)
		cancel()
		switch {
		case err == nil:
			return true
		case errors.Is(err, cluster.ErrDeposed):
			return false
		}
		l.log.Warn("the new epoch could not be written to the lease yet; nothing is sent before", "error", err)
		select {
		case <-l.ended:
			return false
		case <-time.After(firstAsk):
		}
	}
}
