package emitter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/kv"
)

// pointsWorld is a bucket of checkpoints that loses writes and answers, is deleted and made anew, and
// leaders that succeed one another; one that is deposed goes on until it learns of it. The values are the
// leaders' own; only NATS and the loop are not there.
type pointsWorld struct {
	t       *rapid.T
	records map[string]kv.Entry
	last    uint64 // revision
	missing bool   // the bucket is deleted
	loses   bool   // checkpoints, or all of them
	loss    string // of the next write
	acked   map[string]uint64
	leaders []*pointsLeader // the last one holds the lease
}

type pointsLeader struct {
	term        uint64
	checkpoints checkpoints
	subs        map[string]*sub
	under       *batch // the write that is under way
	results     []written
	anew        bool
	arrived     bool
	deposed     bool
}

var (
	errAnswerLost = errors.New("no answer")
	pointKeys     = []string{"s.a", "s.b", "s.c"}
)

// Put implements checkpointBucket.
func (w *pointsWorld) Put(_ context.Context, writes []kv.Write) []kv.Result {
	results := make([]kv.Result, len(writes))
	for i, write := range writes {
		there := w.records[write.Key]
		switch {
		case w.missing:
			results[i].Err = kv.ErrNoStream
		case w.loss == "write":
			results[i].Err = errAnswerLost
		case there.Revision != write.Revision:
			results[i].Err = kv.ErrConflict
		default:
			var before, after Checkpoint
			_ = json.Unmarshal(there.Data, &before)
			if err := json.Unmarshal(write.Data, &after); err != nil {
				w.t.Fatal(err)
			}
			if after.Term < before.Term {
				w.t.Fatalf("the leader of term %d wrote over the checkpoint of term %d", after.Term, before.Term)
			}
			if after.Sequence > w.acked[write.Key] {
				w.t.Fatalf("the checkpoint of %s is at %d, and %d is acknowledged", write.Key, after.Sequence, w.acked[write.Key])
			}
			w.last++
			w.records[write.Key] = kv.Entry{Key: write.Key, Revision: w.last, Operation: kv.Put, Data: write.Data}
			if results[i].Revision = w.last; w.loss == "answer" {
				results[i] = kv.Result{Err: errAnswerLost}
			}
		}
	}
	w.loss = ""
	return results
}

// GetFromLeader implements checkpointBucket.
func (w *pointsWorld) GetFromLeader(_ context.Context, key string) (kv.Entry, bool, error) {
	if w.missing {
		return kv.Entry{}, false, kv.ErrNoStream
	}
	e, ok := w.records[key]
	return e, ok, nil
}

// GetLast implements checkpointBucket.
func (w *pointsWorld) GetLast(_ context.Context, keys []string, found func(kv.Entry)) error {
	for _, key := range keys {
		if e, ok := w.records[key]; ok {
			found(e)
		}
	}
	return nil
}

// Keys implements checkpointBucket.
func (w *pointsWorld) Keys(context.Context, string) (map[string]bool, error) {
	return map[string]bool{}, nil
}

// Newest implements checkpointBucket.
func (*pointsWorld) Newest(context.Context, string) (kv.Entry, bool, error) {
	return kv.Entry{}, false, nil
}

func (w *pointsWorld) saved() *savedPlaces {
	return &savedPlaces{store: "s", bucket: w, log: slog.New(slog.DiscardHandler), ensure: func(context.Context) (bool, error) {
		created := w.missing
		w.missing = false
		return created, nil
	}}
}

func (l *pointsLeader) stamp() stamp {
	return stamp{term: l.term, emitter: fmt.Sprint(l.term), epoch: "e"}
}

// elect has a leader begin with what the bucket holds.
func (w *pointsWorld) elect() {
	l := &pointsLeader{term: uint64(len(w.leaders) + 1), subs: map[string]*sub{}}
	w.leaders = append(w.leaders, l)
	for _, key := range pointKeys {
		l.subs[key] = &sub{key: key, name: key, session: session{phase: loading}}
		l.checkpoints.want(l.subs[key])
	}
	if w.missing { // its emitter opens the bucket before it leads
		w.missing = false
	}
	w.saved().load(w.t.Context(), l.checkpoints.toRead(), present{epoch: "e"}, func(page []loaded) {
		for i := range page {
			l.checkpoints.loaded(&page[i], l.stamp())
		}
	})
	l.checkpoints.readEnded()
	for _, s := range l.subs {
		if s.phase = running; !s.checkpoint.placed { // its proxy says what it took
			s.sender, s.checkpoint.placed = NewSender(w.acked[s.key]), true
			l.checkpoints.mark(s)
		}
	}
}

func (w *pointsWorld) acknowledge(l *pointsLeader, key string, sequence uint64) {
	w.acked[key] = max(w.acked[key], sequence)
	if s := l.subs[key]; s.sender.Ack(sequence) {
		l.checkpoints.mark(s)
	}
}

// begin begins a write, where there is one to do.
func (l *pointsLeader) begin(now time.Time) {
	if b := l.checkpoints.due(now, l.stamp()); len(b.subs) > 0 {
		l.under = &b
	}
}

// arrive has the bucket take the write, and end tells the leader what came of it.
func (w *pointsWorld) arrive(l *pointsLeader) {
	if l.under != nil && !l.arrived {
		l.results, l.anew = w.saved().put(w.t.Context(), l.under.writes)
		l.arrived = true
	}
}

func (l *pointsLeader) end() {
	if !l.arrived {
		return
	}
	o := l.checkpoints.wrote(*l.under, l.results, l.anew, l.term)
	l.under, l.arrived = nil, false
	if o.emptied {
		l.checkpoints.writeAll(l.subs, l.anew)
	}
	if o.later > 0 { // its lease says the same
		l.checkpoints.suspended, l.deposed = true, true
	}
}

// TestCheckpointsAreNeverBeyondWhatWasAcknowledged drives the leaders' checkpoints against such a bucket:
// none is ever beyond what was acknowledged, none is written over a later leader's, and in the end each is
// what was acknowledged.
func TestCheckpointsAreNeverBeyondWhatWasAcknowledged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &pointsWorld{t: t, records: map[string]kv.Entry{}, acked: map[string]uint64{}, loses: rapid.Bool().Draw(t, "the bucket loses")}
		w.elect()
		now := time.Unix(1, 0)
		any := func() *pointsLeader { return rapid.SampledFrom(w.leaders).Draw(t, "leader") }
		key := func() string { return rapid.SampledFrom(pointKeys).Draw(t, "key") }
		t.Repeat(map[string]func(*rapid.T){
			"acknowledge": func(t *rapid.T) {
				l, k := any(), key() // a deposed one hears late what was accepted before
				w.acknowledge(l, k, l.subs[k].sender.Acked+uint64(rapid.IntRange(1, 9).Draw(t, "events")))
			},
			"begin":  func(*rapid.T) { any().begin(now) },
			"arrive": func(*rapid.T) { w.arrive(any()) },
			"end":    func(*rapid.T) { any().end() },
			"lose":   func(t *rapid.T) { w.loss = rapid.SampledFrom([]string{"write", "answer"}).Draw(t, "what") },
			"delete": func(*rapid.T) { // the bucket, by hand or with its only server
				if w.loses {
					w.records, w.missing = map[string]kv.Entry{}, true
				}
			},
			"drop": func(*rapid.T) { // one checkpoint, without a trace: a server lost power
				if k := key(); w.loses {
					delete(w.records, k)
				}
			},
			"look": func(*rapid.T) {
				if l := any(); l.checkpoints.isBucketDue(now.Add(time.Duration(w.last) * pointsInterval)) {
					anew, _ := w.saved().ensure(t.Context())
					if l.checkpoints.looked(); anew {
						l.checkpoints.writeAll(l.subs, true)
					}
				}
			},
			"elect": func(*rapid.T) { w.elect() },
		})
		w.loss = ""
		last := w.leaders[len(w.leaders)-1]
		for k, sequence := range w.acked {
			w.acknowledge(last, k, sequence) // proxies say what they accepted
		}
		if w.loses { // which is seen by a look, or by a write
			last.checkpoints.writeAll(last.subs, false)
		}
		for range 10 {
			last.begin(now)
			w.arrive(last)
			last.end()
		}
		for k, sequence := range w.acked {
			var point Checkpoint
			if err := json.Unmarshal(w.records[k].Data, &point); err != nil || point.Sequence != sequence || w.loses && point.Term != last.term {
				t.Fatalf("%s: the checkpoint is %s (%v), and %d is acknowledged", k, w.records[k].Data, err, sequence)
			}
		}
		if len(last.checkpoints.dirty) > 0 || last.checkpoints.writing || last.deposed {
			t.Fatalf("%d checkpoints are not written", len(last.checkpoints.dirty))
		}
	})
}
