package proxy

import (
	"math"
	"time"
)

// unstretched is how many subscriptions an instance holds before the intervals of its timers grow.
const unstretched = 1000

// Stretched are the settings of an instance that holds so many subscriptions. Where cluster events cause attempts, timers are
// the fallback for what was not heard, and 100,000 of them every 15 s would be 6,700 writes a second in a cluster where
// nothing happens. So above 1,000 subscriptions both intervals grow with the square root of the number, and idle attempts a
// second with the square root too: 10,000 make three times as many as 1,000, and each waits three times as long.
//
// Without cluster events the timer is the only means, and stays as it is configured.
func (s Settings) Stretched(held int) Settings {
	if s.EventDriven && held > unstretched {
		by := math.Sqrt(float64(held) / unstretched)
		s.InitialInterval, s.NormalInterval = stretch(s.InitialInterval, by), stretch(s.NormalInterval, by)
	}
	return s
}

func stretch(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// rules are the settings in force, for all that the instance holds, in whichever store. They are made anew when either changed.
func (l *loop) rules() *Settings {
	base, held := l.settings.Load(), l.holding.Load()
	if base != l.stretchedFrom || held != l.stretchedFor {
		l.stretched, l.stretchedFrom, l.stretchedFor = base.Stretched(int(held)), base, held
	}
	return &l.stretched
}

// hold counts the item while its proxy holds the subscription.
func (l *loop) hold(it *item, holds bool) {
	if it.holds == holds {
		return
	}
	it.holds = holds
	if holds {
		l.holding.Add(1)
	} else {
		l.holding.Add(-1)
	}
}
