package emitter

import "time"

// obstacles are what keeps a leader from sending: the whole store's events, or those of one subscription.
// Each is a sentence for an operator, says what to do about it, and stands until it is removed. Instances
// turn it into health, alerts and an exit status, so it names the cause alone: "stream EXESDB_s has
// interest retention: …; mend it with: nats stream edit …". The leader's loop owns them.
type obstacles struct {
	store   string            // of the whole store; empty: none
	lacks   string            // the permission that the emitter lacks, and what it stops; empty: none
	waiting map[string]string // by subscription
	told    bool              // progress was sent since the last change
	saidAt  time.Time         // when store was logged; zero: not yet
}

// blockStore notes why nobody gets events of the store; an empty reason: they do.
func (o *obstacles) blockStore(reason string) {
	if o.store != reason {
		o.store, o.told, o.saidAt = reason, false, time.Time{}
	}
}

// lack notes the permission that the emitter lacks, for which events come late or not at all; empty: none.
func (o *obstacles) lack(reason string) {
	if o.lacks != reason {
		o.lacks, o.told = reason, false
	}
}

// say reports whether it is time to log why nobody gets events of the store: once, and each minute that it
// stands.
func (o *obstacles) say(now time.Time) bool {
	if o.store == "" || now.Sub(o.saidAt) < sayTroubleAgain {
		return false
	}
	o.saidAt = now
	return true
}

// block notes why one subscription gets no events; an empty reason: it does.
func (o *obstacles) block(name, reason string) {
	switch {
	case o.waiting[name] == reason:
		return
	case reason == "":
		delete(o.waiting, name)
	default:
		if o.waiting == nil {
			o.waiting = map[string]string{}
		}
		o.waiting[name] = reason
	}
	o.told = false
}

// news reports whether something changed since it was asked last.
func (o *obstacles) news() bool {
	news := !o.told
	o.told = true
	return news
}
