package supervisor

import (
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// presence is what is known of whether anybody sends a store's events: the signs of an emitter, and when
// the last of each was seen. An emitter tells its progress every ten seconds, or renews a lease, or does
// neither and only sends. One that was seen to do the first or the second is expected to go on with it. Of
// one that only sends nobody knows whether it lives while there is nothing to send: it is believed to, once
// it has sent anything.
type presence struct {
	since   time.Time // from when on signs could be seen: begin of the loop, or the last time without a connection
	told    sign      // how far it is
	renewed sign      // its lease
}

// sign is one kind of sign of an emitter.
type sign struct {
	at time.Time // when the last was seen; zero: none was
	by string    // the emitter's name
}

// lease is the sign of one that leads by a lease.
type lease struct {
	sign
	term uint64
}

func (s sign) within(d time.Duration, now time.Time) bool { return !s.at.IsZero() && now.Sub(s.at) < d }

// absent says why nobody is believed to send the store's events: no sign for so long. Empty: somebody is.
// Spoken reports whether any proxy was ever sent anything.
func (p *presence) absent(store string, now time.Time, after time.Duration, spoken func() bool) string {
	leads := p.renewed.within(after, now)
	tells := p.told.by != "" && p.told.by == p.renewed.by
	switch {
	case now.Sub(p.since) < after, p.told.within(after, now), leads && !tells, leads && p.told.within(max(after, staleAfter), now):
		return ""
	case leads:
		return fmt.Sprintf("emitter %s leads store %s and has told no progress since %s: it hangs, or may not publish on %s; see its log",
			p.renewed.by, store, clock(p.told.at), event.ProgressPrefix+subscription.EncodeToken(store))
	case p.told.at.IsZero() && p.renewed.at.IsZero():
		if spoken() {
			return ""
		}
		return fmt.Sprintf("no emitter leads store %s: none was heard since %s; start one: subproxy emitter --config FILE, or emitter.enabled in subproxy run",
			store, clock(p.since))
	}
	last := p.told
	if p.renewed.at.After(last.at) {
		last = p.renewed
	}
	return fmt.Sprintf("no emitter leads store %s: the last, %s, was heard at %s; start it or another: subproxy emitter --config FILE, or emitter.enabled in subproxy run",
		store, last.by, clock(last.at))
}

// clock is a time as it stands in sentences for operators. One that would change with every look would make
// each look news.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
