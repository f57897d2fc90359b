package emitter

import (
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// hindered is the feed's word that the store's stream can't be followed, or with nil that it is followed again.
func (l *leader) hindered(reason error) {
	var retention *feed.RetentionError
	text, gauge := "", 0.0
	switch {
	case errors.As(reason, &retention):
		text, gauge = unfit(l.store, retention).Error(), 1
	case reason != nil:
		text, gauge = "stream "+l.stream+" can't be followed: "+reason.Error(), 1
	}
	l.inbox.call(func() {
		l.obstacles.blockStore(text)
		l.metrics.Trouble.WithLabelValues(l.store).Set(gauge)
		if text == "" {
			l.log.Info("the store's stream is followed again", "stream", l.stream)
		}
	})
}

// sayTroubleAgain is how often what keeps the store from being followed is logged, for as long as it lasts.
const sayTroubleAgain = time.Minute

// sayTrouble logs what keeps the store from being followed.
func (l *leader) sayTrouble(now time.Time) {
	if l.obstacles.say(now) {
		l.log.Error("no event of the store is delivered", "stream", l.stream, "reason", l.obstacles.store)
	}
}
