package emitter

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
)

// Checkpoint is a record of the bucket of checkpoints, under the registration's key.
type Checkpoint struct {
	Sequence  uint64    `json:"seq"`               // of the store: everything up to here was acknowledged, or is not wanted
	Term      uint64    `json:"term"`              // of the leader that wrote it
	Emitter   string    `json:"emitter"`           // that leader's name
	Epoch     string    `json:"epoch"`             // which history of the store the sequence is of
	Witness   string    `json:"witness,omitempty"` // events of that history, which prove that it is what the stream holds; see witnessText
	UpdatedAt time.Time `json:"updated_at"`
	// Gap is what the subscription lost, while that is told.
	Gap *event.Gap `json:"gap,omitempty"`
}

// checkpoints is the bucket of checkpoints; *kv.Bucket is one.
type checkpoints interface {
	Put(ctx context.Context, writes []kv.Write) []kv.Result
	GetLast(ctx context.Context, keys []string, found func(kv.Entry)) error
	GetFromLeader(ctx context.Context, key string) (kv.Entry, bool, error)
	Keys(ctx context.Context, store string) (map[string]bool, error)
	Newest(ctx context.Context, store string) (kv.Entry, bool, error)
}

const (
	// DefaultCheckpointInterval is how often checkpoints are written: what was acknowledged since is sent again after a leader
	// was killed, and dropped by proxies that live.
	DefaultCheckpointInterval = 200 * time.Millisecond
	// maxWrites bounds how many are written together; with the interval it bounds the rate.
	maxWrites = 2000
	// skipAfter is how many events of no interest a checkpoint lets pass before it moves over them, so that a new leader need
	// not look at them again.
	skipAfter    = 10_000
	checkpointIO = 5 * time.Second
)

// write writes the checkpoints that moved, a batch at a time.
func (l *leader) write() {
	// While it is being looked at whether this leader is deposed, it must not write over what a later one wrote.
	if l.writing || l.verifying || len(l.dirty) == 0 {
		return
	}
	subs, writes := l.due()
	if len(subs) == 0 {
		return
	}
	l.writing = true
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointIO)
		defer cancel()
		results, anew := l.put(ctx, writes)
		l.inbox.call(func() {
			l.writing = false
			l.wrote(subs, writes, results, anew)
		})
	})
}

// due takes what is to be written next.
func (l *leader) due() ([]*sub, []kv.Write) {
	n := min(len(l.dirty), maxWrites)
	subs, writes := make([]*sub, 0, n), make([]kv.Write, 0, n)
	now, witness := time.Now().UTC(), witnessText(l.history.ends(l.resetting))
	for s := range l.dirty {
		if len(subs) == n {
			break
		}
		delete(l.dirty, s)
		if !s.recorded {
			continue // its place in the stream is not known yet
		}
		data, _ := json.Marshal(Checkpoint{Sequence: s.sender.Acked, Term: l.lease.Term(), Emitter: l.name, Epoch: l.history.epoch, Witness: witness, UpdatedAt: now, Gap: s.loss.gap})
		s.writing = true
		subs = append(subs, s)
		writes = append(writes, kv.Write{Key: s.key, Data: data, Revision: s.revision})
	}
	return subs, writes
}

// found is what the bucket has in place of what a write was conditional on.
type found struct {
	ok  bool
	at  uint64 // revision; 0: nothing
	err error
	by  Checkpoint
}

type written struct {
	revision uint64
	err      error
	found    *found
}

// put writes, and looks at what is there where a write was refused. It reports whether the bucket was gone and is made anew.
func (l *leader) put(ctx context.Context, writes []kv.Write) (_ []written, anew bool) {
	results := make([]written, len(writes))
	gone := false
	for i, r := range l.points.Put(ctx, writes) {
		results[i] = written{revision: r.Revision, err: r.Err}
		gone = gone || errors.Is(r.Err, kv.ErrNoStream)
		if !errors.Is(r.Err, kv.ErrConflict) {
			continue
		}
		var f found
		e, ok, err := l.points.GetFromLeader(ctx, writes[i].Key)
		f.err = err
		if ok {
			f.at = e.Revision
			f.ok = e.Operation == kv.Put && json.Unmarshal(e.Data, &f.by) == nil
		}
		results[i].found = &f
	}
	if gone {
		var err error
		if anew, err = l.ensure(ctx); err != nil {
			l.log.Warn("the bucket of checkpoints is away", "error", err)
		}
	}
	return results, anew
}

func (l *leader) wrote(subs []*sub, writes []kv.Write, results []written, anew bool) {
	failed, vanished := 0, false
	var sample error
	deposed := uint64(0)
	for i, s := range subs {
		r := &results[i]
		s.writing = false
		switch {
		case r.err == nil:
			s.revision, s.durable = r.revision, true
			l.dropFormer(s)
			l.metrics.Checkpoints.Inc()
			if s.phase == placing {
				l.ask(s, time.Now())
			}
			continue
		case r.found != nil && r.found.err == nil:
			// A later leader's, this one's own of which the acknowledgement was lost, or somebody's by hand.
			s.revision = r.found.at
			vanished = vanished || r.found.at == 0 && writes[i].Revision > 0 // not deleted, which leaves a marker
			if r.found.ok && r.found.by.Term > l.lease.Term() {
				deposed = max(deposed, r.found.by.Term)
			}
		default:
			failed, sample = failed+1, r.err
		}
		l.dirty[s] = struct{}{}
	}
	if failed > 0 && !l.failing {
		l.log.Warn("checkpoints could not be written; what is acknowledged meanwhile is sent again after a change of leader", "subscriptions", failed, "error", sample)
	}
	l.failing = failed > 0
	if anew || vanished {
		l.log.Error("the bucket of checkpoints lost what it held; all are written again", "subscriptions", len(l.subs))
		l.writeAll(anew)
	}
	if deposed > 0 {
		l.stale(deposed)
	}
}

// writeAll writes every checkpoint again: of those that rest nothing else would be written for a long time.
func (l *leader) writeAll(anew bool) {
	for _, s := range l.subs {
		if anew {
			s.revision = 0
		}
		if s.recorded {
			l.dirty[s] = struct{}{}
		}
	}
}

// skip moves checkpoints over what their subscriptions do not want.
func (l *leader) skip(least uint64) {
	for s := range l.tail.riders {
		if s.sender.Idle() && l.tail.high > s.sender.Acked+least {
			s.sender.Skip(l.tail.high)
			l.dirty[s] = struct{}{}
		}
	}
}

// finish writes what was acknowledged, before the lease goes to the next.
func (l *leader) finish(ctx context.Context) {
	if errors.Is(context.Cause(ctx), election.ErrDeposed) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishWithin)
	defer cancel()
	l.turn(ctx) // the acknowledgements that are here already
	for len(l.dirty) > 0 && !l.verifying && l.nc.IsConnected() && ctx.Err() == nil {
		subs, writes := l.due()
		if len(writes) == 0 {
			continue
		}
		results, anew := l.put(ctx, writes)
		l.wrote(subs, writes, results, anew)
	}
	if n := len(l.dirty); n > 0 {
		l.log.Warn("not all checkpoints were written at the end", "subscriptions", n, "within", finishWithin, "perhaps_deposed", l.verifying)
	}
}

// finishWithin bounds the writing of checkpoints at the end: 10,000 take a tenth of a second.
const finishWithin = 2 * time.Second
