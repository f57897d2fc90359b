package proxy

import (
	"math"
	"time"
)

// unstretched is how many subscriptions there are before the intervals of timers grow.
const unstretched = 1000

// Stretched are the settings where there are so many subscriptions. It does not matter how many instances
// share them: each hears of every registration. Where cluster events cause attempts, timers are the
// fallback for what was not heard, and 100,000 of them every 15 s would be 6,700 writes a second in a
// cluster where nothing happens. So above 1,000 subscriptions both intervals grow with the square root of
// the number, and idle attempts a second with the square root too: 10,000 make three times as many as
// 1,000, and each waits three times as long.
//
// Without cluster events the timer is the only means, and stays as it is configured.
func (s Settings) Stretched(n int) Settings {
	if s.EventDriven && n > unstretched {
		by := math.Sqrt(float64(n) / unstretched)
		s.InitialInterval, s.NormalInterval = stretch(s.InitialInterval, by), stretch(s.NormalInterval, by)
	}
	return s
}

func stretch(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }
