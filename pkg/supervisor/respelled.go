package supervisor

import (
	"strings"
	"time"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// respelled takes an entry of a key that is none of the proxies'. Where it is one of theirs with the
// selector's JSON written in another way, as a version of before wrote it, then the subscription had its
// incarnations there: its first claim is of one above, so that a subscriber that fences does not take the
// instance for a superseded one.
func (l *loop) respelled(e *kv.Entry, now time.Time) {
	name, err := subscription.DecodeToken(e.Key[strings.LastIndexByte(e.Key, '.')+1:])
	if err != nil {
		return
	}
	it := l.byName[name]
	if it == nil || it.proxy.Registered || !it.proxy.Type.IsJSON() {
		return
	}
	if was, err := subscription.ParseKey(e.Key); err != nil || !was.SameAs(it.proxy.Subscription) {
		return
	}
	incarnation := e.Incarnation
	if e.Operation == kv.Put {
		record, err := registration.Decode(e.Key, e.Data)
		if err != nil {
			return
		}
		incarnation = record.Incarnation
	}
	l.stepper.step(it, proxy.Input{Kind: proxy.Respelled, News: proxy.News{Incarnation: incarnation}}, now)
}
