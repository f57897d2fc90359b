package emitter

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Whatever is sent, answered and moved to another instance: no more is under way than the bound and one
// event, whoever waits has its turn in order and once, and those that moved don't.
func TestOutletBoundsWhatIsUnderWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &outlet{}
		var line []*sub
		now, largest := time.Now(), int64(0)
		subs := make([]*sub, rapid.IntRange(1, 6).Draw(t, "subscriptions"))
		for i := range subs {
			subs[i] = &sub{name: fmt.Sprint(i), outlet: o}
		}
		t.Repeat(map[string]func(*rapid.T){
			"sends": func(t *rapid.T) {
				s := subs[rapid.IntRange(0, len(subs)-1).Draw(t, "subscription")]
				if !o.room() {
					if s.line == nil {
						line = append(line, s)
					}
					o.wait(s)
					return
				}
				size := rapid.Int64Range(1, maxUnheard).Draw(t, "size")
				largest = max(largest, size)
				if o.sent += size; o.due(now) && o.marked <= o.heard {
					o.marked, o.markedAt = o.sent, now
				}
			},
			"answers": func(*rapid.T) { o.heard = o.marked },
			"moves": func(t *rapid.T) {
				s := subs[rapid.IntRange(0, len(subs)-1).Draw(t, "subscription")]
				for i := range line {
					if line[i] == s {
						line = append(line[:i:i], line[i+1:]...)
						break
					}
				}
				s.line = nil
			},
			"turn": func(t *rapid.T) {
				s := o.next()
				switch {
				case s == nil && o.room() && len(line) > 0:
					t.Fatalf("there is room, and %d wait", len(line))
				case s != nil && (len(line) == 0 || line[0] != s):
					t.Fatalf("it is the turn of %s, of %d", s.name, len(line))
				case s != nil:
					line = line[1:]
				}
			},
			"": func(t *rapid.T) {
				if under := o.sent - o.heard; under >= maxUnheard+largest && under > 0 {
					t.Fatalf("%d bytes are under way", under)
				}
				if !o.room() && o.marked <= o.heard && !o.due(now) {
					t.Fatal("nobody asks whether it has arrived")
				}
				if o.marked > o.heard && !o.due(now.Add(stallAfter+o.way.Patience(0))) {
					t.Fatal("a mark that is lost is not sent again")
				}
			},
		})
	})
}

// TestEventForManySubscriptionsDoesNotFloodTheirInstance: one large event that all subscriptions of an
// instance want is sent to no more of them than the bound allows, until the instance says that it has
// arrived; others are not held up.
func TestEventForManySubscriptionsDoesNotFloodTheirInstance(t *testing.T) {
	_, js := startJetStream(t)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	const subscriptions, size = 40, 900 << 10
	marks, err := js.Conn().SubscribeSync("exesdb.proxy.deliver.full.0")
	if err != nil {
		t.Fatal(err)
	}
	var full []*holder
	for n := range subscriptions {
		full = append(full, hold(t, js, subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: fmt.Sprint("n", n)}, func(h *holder) {
			h.silent = true // its subscriber accepts nothing
			h.record.Owner = registration.Owner{Name: "full", ID: "full"}
			h.record.DeliverSubject = fmt.Sprintf("exesdb.proxy.deliver.full.%d", n+1)
		}))
	}
	other := hold(t, js, by(subscription.ByStream, "$all"))
	sent := func() (n int) {
		for _, h := range full {
			n += h.count()
		}
		return n
	}
	eventually(t, "all were asked", func() bool {
		for _, h := range full {
			if h.questions() == 0 {
				return false
			}
		}
		return true
	})
	appendEvents(t, js, event.Event{Stream: "g.1", Type: "large", Data: make([]byte, size)})
	other.awaits(1)
	first, err := marks.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	const most = maxUnheard/size + 1
	eventually(t, "the instance has what may be under way", func() bool { return sent() >= most })
	again, err := marks.NextMsg(patience) // asked once more, since there was no answer
	if err != nil {
		t.Fatal(err)
	}
	if n := sent(); n > most {
		t.Errorf("%d events of %d bytes are sent to an instance that has told of none", n, size)
	}
	other.awaits(1)
	for _, m := range []*nats.Msg{first, again} {
		_ = m.Respond(event.Answer{Kind: event.Gone}.Encode())
	}
	for deadline := time.Now().Add(patience); sent() < subscriptions; {
		if m, err := marks.NextMsg(50 * time.Millisecond); err == nil {
			_ = m.Respond(event.Answer{Kind: event.Gone}.Encode())
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d have the event", sent(), subscriptions)
		}
	}
	for _, h := range full {
		h.awaits(1)
	}
}
