package emitter

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/payload"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// ProgressPrefix begins the subject on which a leader tells how far it is; the store follows as one token.
const ProgressPrefix = event.ProgressPrefix

// progressInterval is how often the leader tells how far it is, where anything changed; progressHeartbeat where not.
const (
	progressInterval  = time.Second
	progressHeartbeat = 10 * time.Second
	// progressPart is how many subscriptions stand in one message: names are up to 1 KiB.
	progressPart = 500
	// progressHead is the JSON of what else is in a message, but for names and sentences.
	progressHead = 512
)

// progress is what there is to tell of a leader's work, and what was told last. The leader's loop owns it.
type progress struct {
	told      progressMark
	obstacles obstacles // why events are not sent
	strays    strays
	large     rate.Sometimes // told that progress is larger than the server takes
}

// progressMark is what was told last.
type progressMark struct {
	at     time.Time
	last   uint64
	behind int
}

// report tells instances and people how far the store's subscriptions are, and the log what was found missing.
func (l *leader) report(now time.Time) {
	if now.Sub(l.progress.told.at) < progressInterval {
		return
	}
	l.seePermissions()
	if l.checkpoints.restored > 0 {
		l.log.Error("checkpoints are missing that there were; positions are restored from what the proxies took", "subscriptions", l.checkpoints.restored)
		l.metrics.Restored.Add(float64(l.checkpoints.restored))
		l.checkpoints.restored = 0
	}
	if l.checkpoints.voided > 0 {
		l.log.Error("checkpoints are of a stream that is no more; their subscriptions begin at the start of this one", "subscriptions", l.checkpoints.voided)
		l.checkpoints.voided = 0
	}
	behind := map[string]uint64{}
	counts := map[phase]int{}
	for _, s := range l.subs {
		counts[s.phase]++
		if s.phase == absent {
			continue
		}
		if lag := l.lag(s, now); lag > 0 {
			behind[s.name] = lag
		}
	}
	l.gauge(counts, len(behind))
	lost := l.catchUp.lostBy(l.subs, now)
	l.catchUp.gaps.logLost(now)
	same := !l.catchUp.gaps.news && !l.progress.strays.news && l.catchUp.tail.high == l.progress.told.last && len(behind) == 0 && l.progress.told.behind == 0
	if !l.progress.obstacles.news() && same && now.Sub(l.progress.told.at) < progressHeartbeat {
		return
	}
	l.progress.told = progressMark{at: now, last: l.catchUp.tail.high, behind: len(behind)}
	l.catchUp.gaps.news, l.progress.strays.news = false, false
	l.tell(event.Progress{
		LastSequence: l.catchUp.tail.high, Subscriptions: len(l.subs) - counts[absent], Held: counts[paused], Behind: behind, Gaps: lost,
		PassedOver: l.progress.strays.tell(now),
	}, now)
}

// tellEarly tells why the store is not followed, before it is known where its stream ends.
func (l *leader) tellEarly(now time.Time) {
	l.seePermissions()
	if l.progress.obstacles.store+l.progress.obstacles.lacks != "" && (l.progress.obstacles.news() || now.Sub(l.progress.told.at) >= progressHeartbeat) {
		l.progress.told.at = now
		l.tell(event.Progress{Subscriptions: len(l.subs)}, now)
	}
}

// lagAfter is how long an acknowledgement may take before what was sent counts as lag.
const lagAfter = 500 * time.Millisecond

// lag is how many events of the store lie after what the subscription has accepted, or been found not to want. One that
// has everything is level, wherever its last event lies, and so is one that is given each event as it is stored and
// acknowledges in time, and one whose new proxy need not be asked yet.
func (l *leader) lag(s *sub, now time.Time) uint64 {
	level := s.deferred || s.segment == l.catchUp.tail && (s.sender.Idle() || now.Sub(s.progressAt) < lagAfter)
	if level || s.sender.Acked >= l.catchUp.tail.high || !s.checkpoint.placed {
		return 0
	}
	return l.catchUp.tail.high - s.sender.Acked
}

// tell completes a progress and publishes it.
func (l *leader) tell(p event.Progress, now time.Time) {
	p.Store, p.Emitter, p.Term, p.Trouble, p.Hindered, p.Waiting = l.store, l.name, l.lease.Term(), l.progress.obstacles.store, l.progress.obstacles.lacks, l.progress.obstacles.waiting
	if err := publishProgress(l.nc, p, now); err != nil {
		l.untold(err)
	}
}

// tellTrouble says why nothing of the store is sent, where the loop does not run. It may be called from any goroutine.
func (l *leader) tellTrouble(reason string) {
	p := event.Progress{Store: l.store, Emitter: l.name, Term: l.lease.Term(), Trouble: reason}
	if err := publishProgress(l.nc, p, time.Now()); err != nil {
		l.untold(err)
	}
}

// publishProgress sends a progress in as many parts as it takes.
func publishProgress(nc *nats.Conn, p event.Progress, now time.Time) error {
	p.Type, p.Timestamp = event.ProgressType, now.UTC()
	parts := splitProgress(p.Behind, p.Waiting, p.Gaps, payload.Room(nc.MaxPayload())-progressHead-payload.Text(p.Store)-payload.Text(p.Emitter)-payload.Text(p.Trouble)-payload.Text(p.Hindered)-p.PassedOver.Size())
	for i, part := range parts {
		p.ID, p.Part, p.Parts, p.Behind, p.Waiting, p.Gaps = nuid.Next(), i+1, len(parts), part.behind, part.waiting, part.gaps
		data, err := json.Marshal(p)
		if err == nil {
			err = nc.Publish(ProgressPrefix+subscription.EncodeToken(p.Store), data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// part is what one message tells of subscriptions.
type part struct {
	behind  map[string]uint64
	waiting map[string]string
	gaps    map[string]event.Gap
	bytes   int // of JSON, at most
}

// splitProgress makes parts of at most so many bytes and progressPart subscriptions; one subscription is never split.
func splitProgress(behind map[string]uint64, waiting map[string]string, gaps map[string]event.Gap, room int) []part {
	parts := []part{{behind: map[string]uint64{}}}
	last := &parts[0]
	add := func(bytes int) {
		if n := len(last.behind) + len(last.waiting) + len(last.gaps); n > 0 && (n >= progressPart || last.bytes+bytes > room) {
			parts = append(parts, part{behind: map[string]uint64{}})
			last = &parts[len(parts)-1]
		}
		last.bytes += bytes
	}
	for name, lag := range behind {
		add(payload.Text(name) + maxDigits)
		last.behind[name] = lag
	}
	for name, reason := range waiting {
		add(payload.Text(name) + payload.Text(reason) + 2)
		if last.waiting == nil {
			last.waiting = map[string]string{}
		}
		last.waiting[name] = reason
	}
	for name, gap := range gaps {
		add(payload.Text(name) + gapText)
		if last.gaps == nil {
			last.gaps = map[string]event.Gap{}
		}
		last.gaps[name] = gap
	}
	return parts
}

// gapText is the JSON of a gap, at the most.
const gapText = 160

// maxDigits is the JSON of a number, with colon and comma.
const maxDigits = 22

// untold logs that progress could not be published. Without a connection that is nothing new.
func (l *leader) untold(err error) {
	if errors.Is(err, nats.ErrMaxPayload) {
		l.progress.large.Do(func() {
			l.log.Warn("how far the emitter is can't be published: it is larger than the server takes", "max_payload", l.nc.MaxPayload(), "error", err)
		})
		return
	}
	l.log.Debug("progress could not be published", "error", err)
}

func (l *leader) gauge(counts map[phase]int, behind int) {
	set := func(state string, n int) { l.metrics.Subscriptions.WithLabelValues(l.store, state).Set(float64(n)) }
	set("running", counts[running])
	set("held", counts[paused])
	set("asking", counts[asking]+counts[placing]+counts[loading])
	l.metrics.Behind.WithLabelValues(l.store).Set(float64(behind))
	l.metrics.Last.WithLabelValues(l.store).Set(float64(l.catchUp.tail.high))
}
