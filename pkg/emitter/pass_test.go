package emitter

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestPageOfAPassThatWasGivenUpIsShownToNobody(t *testing.T) {
	l := newLeader(outside{store: "s", metrics: NewMetrics(nil)})
	l.catchUp.tail = newSegment(10)
	s := &sub{name: "n", session: session{phase: running}, flow: flow{window: firstWindow}}
	if err := l.catchUp.index.add(s, by(subscription.ByEventType, "of another stream")); err != nil {
		t.Fatal(err)
	}
	l.catchUp.resume(s)
	l.catchUp.startPass(t.Context())
	old := l.catchUp.passes[0]
	l.catchUp.detach(s) // as a reset has it
	l.catchUp.end(old)
	l.catchUp.resume(s)
	l.catchUp.page(old, []feed.Message{{Subject: event.Subject("s", "g", "t"), Sequence: 1}}, nil, time.Now())
	if waits := l.catchUp.waits(s); s.segment != nil || !waits {
		t.Errorf("it is attached: %v, it waits for another pass: %v", s.segment != nil, waits)
	}
}

// slowWorld is a leader with one subscription that is 5,000 events behind, in virtual time: its reads and
// acknowledgements take as long as a test says.
type slowWorld struct {
	t      *testing.T
	leader *leader
	sub    *sub
}

func (w *slowWorld) Read(ctx context.Context, from uint64, batch, _ int) ([]feed.Message, error) {
	time.Sleep(1500 * time.Millisecond) // the machine is loaded
	var page []feed.Message
	for seq := from; len(page) < batch; seq++ {
		page = append(page, feed.Message{Subject: event.Subject("s", "g", "t"), Sequence: seq, Header: nats.Header{"Nats-Msg-Id": {"m"}}})
	}
	return page, ctx.Err()
}

func (*slowWorld) AheadReader() *feed.AheadReader { return nil }

func (*slowWorld) BulkReader(*slog.Logger) *feed.BulkReader { panic("no pass is so long here") }

func (*slowWorld) First(context.Context) (uint64, error) { return 1, nil }

func (*slowWorld) Last(context.Context) (uint64, error) { return 5000, nil }

func (*slowWorld) Compare(context.Context, []feed.Witness) (feed.Comparison, error) {
	return feed.Comparison{}, nil
}

func (*slowWorld) Prefix() string { return "near." }

func (*slowWorld) Offer(event.Handoff) bool { return true }

// A subscription of which each window is smaller than a page never gets to the end of its pass, and reads
// take longer than a pass without anybody is kept. The pass is kept nevertheless: somebody comes back for
// the rest of it.
func TestPassIsKeptForASubscriptionThatComesBackForTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &slowWorld{t: t}
		never := time.Now().Add(1000 * time.Hour)
		w.leader = newLeader(outside{store: "s", lease: steadyLease{}, local: w, metrics: NewMetrics(nil), log: slog.New(slog.DiscardHandler)})
		w.leader.subs.outbox.term, w.leader.reader, w.leader.catchUp.tail, w.leader.subs.sessions.replies = newTerm(7), w, newSegment(5000), "r"
		w.leader.checkpoints.wroteAt, w.leader.sweptAt, w.leader.reporter.told.at = never, never, never
		w.leader.catchUp.tail.low = 4900
		w.sub = &sub{name: "n", session: session{phase: running}, flow: flow{window: firstWindow}, local: true}
		if err := w.leader.catchUp.index.add(w.sub, by(subscription.ByStream, subscription.AllStreams)); err != nil {
			t.Fatal(err)
		}
		w.leader.catchUp.resume(w.sub)
		for n := range 200 { // ten seconds
			time.Sleep(tickInterval)
			if n%18 == 0 {
				w.leader.subs.acked(w.sub, w.sub.sender.Sent, time.Now())
			}
			w.leader.turn(t.Context())
		}
		if n := testutil.ToFloat64(w.leader.metrics.Passes); n != 1 || w.sub.sender.Acked < 1000 {
			t.Errorf("%v passes were begun for %d events", n, w.sub.sender.Acked)
		}
		for _, pass := range w.leader.catchUp.passes {
			pass.end()
		}
		w.leader.work.Wait()
	})
}
