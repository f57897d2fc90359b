package emitter

import (
	"errors"
	"time"

	"github.com/exesdb/subproxy/pkg/feed"
)

// hindered is the feed's word that the store's stream can't be followed, or with nil that it is followed
// again.
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
		l.reporter.obstacles.blockStore(text)
		l.reporter.gaugeTrouble()
		if text == "" {
			l.log.Info("the store's stream is followed again", "stream", l.stream)
		}
	})
}

// seePermissions sees whether the emitter lacks a permission. It is logged where the server's answer is
// heard.
func (r *reporter) seePermissions() {
	if r.lacks != nil {
		r.obstacles.lack(r.lacks())
		r.gaugeTrouble()
	}
}

func (r *reporter) gaugeTrouble() {
	gauge := 0.0
	if r.obstacles.store+r.obstacles.lacks != "" {
		gauge = 1
	}
	r.metrics.Trouble.WithLabelValues(r.store).Set(gauge)
}

// sayTroubleAgain is how often what keeps the store from being followed is logged, for as long as it lasts.
const sayTroubleAgain = time.Minute

// sayTrouble logs what keeps the store from being followed.
func (r *reporter) sayTrouble(now time.Time) {
	if r.obstacles.say(now) {
		r.log.Error("no event of the store is delivered", "stream", r.stream, "reason", r.obstacles.store)
	}
}
