package emitter

import (
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// hindered is the feed's word that the store's stream can't be followed, or with nil that it is followed again.
func (l *leader) hindered(reason error) {
	var retention *feed.RetentionError
	text := ""
	switch {
	case errors.As(reason, &retention):
		text = unfit(l.store, retention).Error()
	case reason != nil:
		text = "stream " + l.stream + " can't be followed: " + reason.Error()
	}
	l.inbox.call(func() {
		l.progress.obstacles.blockStore(text)
		l.gaugeTrouble()
		if text == "" {
			l.log.Info("the store's stream is followed again", "stream", l.stream)
		}
	})
}

// seePermissions sees whether the emitter lacks a permission. It is logged where the server's answer is heard.
func (l *leader) seePermissions() {
	if l.lacks != nil {
		l.progress.obstacles.lack(l.lacks())
		l.gaugeTrouble()
	}
}

func (l *leader) gaugeTrouble() {
	gauge := 0.0
	if l.progress.obstacles.store+l.progress.obstacles.lacks != "" {
		gauge = 1
	}
	l.metrics.Trouble.WithLabelValues(l.store).Set(gauge)
}

// sayTroubleAgain is how often what keeps the store from being followed is logged, for as long as it lasts.
const sayTroubleAgain = time.Minute

// sayTrouble logs what keeps the store from being followed.
func (l *leader) sayTrouble(now time.Time) {
	if l.progress.obstacles.say(now) {
		l.log.Error("no event of the store is delivered", "stream", l.stream, "reason", l.progress.obstacles.store)
	}
}
