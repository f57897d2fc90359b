package proxy

import (
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// An entry of the bucket comes while no attempt is under way: whether it supersedes the proxy, or is
// written over.
func TestWhoIsSuperseded(t *testing.T) {
	now := time.Unix(1000, 0)
	var (
		b     = registration.Owner{Name: "b", ID: "b1"}
		holds = Record{Known: true, Mine: true, Revision: 5, Incarnation: 3, Claim: 3}
		lost  = Record{Known: true, Revision: 5, Incarnation: 3, Claim: 3} // it tried to write 3, and the last record seen is another's
		fresh = Record{}
		of    = func(incarnation uint64) News {
			return News{Revision: 6, Readable: true, Incarnation: incarnation, Owner: b}
		}
	)
	for name, c := range map[string]struct {
		record     Record
		news       News
		superseded bool
		attempt    bool
		next       uint64 // incarnation of the next claim, where it is not superseded
	}{
		"a higher claim":                           {holds, of(4), true, false, 0},
		"an equal claim, and this one has it":      {holds, of(3), false, true, 4},
		"a lower claim":                            {holds, of(2), false, true, 3},
		"an equal claim that this one tried":       {lost, of(3), true, false, 0},
		"a lower claim than this one tried":        {lost, of(2), false, false, 4},
		"what was there when this one came":        {fresh, of(9), false, false, 10},
		"what was known before":                    {holds, News{Revision: 5, Readable: true, Incarnation: 9, Owner: b}, false, false, 3},
		"what can't be read":                       {holds, News{Revision: 6}, false, true, 3},
		"a marker that says a higher incarnation":  {holds, News{Revision: 6, Removed: true, Incarnation: 9}, false, true, 10},
		"a record of its own that comes by itself": {holds, News{Revision: 6, Mine: true, Readable: true, Incarnation: 3}, false, true, 3},
	} {
		p := NewProxy(subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"})
		p.Started, p.Record, p.Registered, p.Health = true, c.record, c.record.Mine, breaker.Healthy
		fx := p.Step(Input{Kind: Seen, News: c.news}, now, &testSettings)
		if got := fx.Superseded != nil; got != c.superseded || p.Standby != c.superseded || fx.Attempt != c.attempt {
			t.Errorf("%s: standby %v, %+v", name, p.Standby, fx)
			continue
		}
		if c.superseded && (*fx.Superseded != b || *p.Record.Holder != b) {
			t.Errorf("%s: by %+v, holder %+v", name, fx.Superseded, p.Record.Holder)
		}
		if got := p.Record.NextIncarnation(); !c.superseded && got != c.next {
			t.Errorf("%s: the next claim is of incarnation %d, want %d", name, got, c.next)
		}
	}
}
