package proxy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// TestSubscriberThatHasSeenALaterIncarnationMakesTheProxyAskTheBucket has a sink that refuses an event of incarnation 1 for
// that. It is not parked, whatever max_deliver says; what the bucket holds decides.
func TestSubscriberThatHasSeenALaterIncarnationMakesTheProxyAskTheBucket(t *testing.T) {
	for _, c := range []struct {
		name        string
		owner       string
		incarnation uint64 // 0: it was released
		news, again bool   // what the loop is told
	}{
		{"another holds it", "other", 2, true, false},
		{"it was released", "", 0, true, false},
		{"this one holds it, and has claimed it anew", "id", 3, false, true},
		{"this one holds it", "id", 1, false, false},
	} {
		refusals := make(chan struct{}, 100)
		s := newStage(t, sink.Request, 0, func(context.Context, *sink.Event) error {
			refusals <- struct{}{}
			return fmt.Errorf("%w: 2", sink.ErrSuperseded)
		})
		deliver := s.DeliveryOptions.Sink
		s.DeliveryOptions.Sink = func(of subscription.Subscription) (sink.Sink, sink.Config) {
			to, config := deliver(of)
			config.MaxDeliver = 1
			return to, config
		}
		s.Park = func(context.Context, *sink.Event, sink.Config, string, int) error {
			t.Errorf("%s: the event is parked", c.name)
			return errors.New("no")
		}
		of := s.it.proxy.Subscription
		s.it.key = of.Key()
		record := registration.Registration{Subscription: of, Owner: registration.Owner{Name: "n", ID: c.owner}, Incarnation: c.incarnation}
		data, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		entry := kv.Entry{Key: s.it.key, Revision: 1, Data: data}
		if c.incarnation == 0 {
			entry = kv.Entry{Key: s.it.key, Revision: 1, Operation: kv.Deleted, Incarnation: 2}
		}
		s.loop.bucket, s.loop.matcher = &memory{history: []kv.Entry{entry}}, s.Owner.Matcher()
		s.begin(1)
		s.it.inlet.incarnation.Store(1)
		s.send(1)
		for range 2 { // by the second it has asked, and by the third it would tell that it is refused
			select {
			case <-refusals:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: the event is not tried again", c.name)
			}
		}
		told := s.loop.inbox.take()
		if (len(told.news) > 0) != c.news || c.news && told.news[0].Revision != 1 {
			t.Errorf("%s: the loop hears of %+v", c.name, told.news)
		}
		if again := len(told.requests) > 0; again != c.again {
			t.Errorf("%s: the proxy begins anew: %v", c.name, again)
		}
		s.loop.shut(s.it)
		<-s.it.busy
		s.Stop()
	}
}
