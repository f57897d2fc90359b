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

// progressInterval is how often the leader tells how far it is, where anything changed; progressHeartbeat
// where not.
const (
	progressInterval  = time.Second
	progressHeartbeat = 10 * time.Second
	// progressPart is how many subscriptions stand in one message: names are up to 1 KiB.
	progressPart = 500
	// progressHead is the JSON of what else is in a message, but for names and sentences.
	progressHead = 512
)

// reporter tells instances and people how far a leader is, and what keeps it from sending; the log what was
// found missing. The leader's loop owns it.
type reporter struct {
	*outside
	subs        map[string]*sub
	catchUp     *catchUp
	checkpoints *checkpoints

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

// report tells instances and people how far the store's subscriptions are, and the log what was found
// missing.
func (r *reporter) report(now time.Time) {
	if now.Sub(r.told.at) < progressInterval {
		return
	}
	r.seePermissions()
	if r.checkpoints.restored > 0 {
		r.log.Error("checkpoints are missing that there were; positions are restored from what the proxies took", "subscriptions", r.checkpoints.restored)
		r.metrics.Restored.Add(float64(r.checkpoints.restored))
		r.checkpoints.restored = 0
	}
	if r.checkpoints.voided > 0 {
		r.log.Error("checkpoints are of a stream that is no more; their subscriptions begin at the start of this one", "subscriptions", r.checkpoints.voided)
		r.checkpoints.voided = 0
	}
	behind := map[string]uint64{}
	counts := map[phase]int{}
	for _, s := range r.subs {
		counts[s.phase]++
		if s.phase == absent {
			continue
		}
		if lag := r.lag(s, now); lag > 0 {
			behind[s.name] = lag
		}
	}
	r.gauge(counts, len(behind))
	lost := r.catchUp.lostBy(r.subs, now)
	r.catchUp.gaps.logLost(now)
	same := !r.catchUp.gaps.news && !r.strays.news && r.catchUp.tail.high == r.told.last && len(behind) == 0 && r.told.behind == 0
	if !r.obstacles.news() && same && now.Sub(r.told.at) < progressHeartbeat {
		return
	}
	r.told = progressMark{at: now, last: r.catchUp.tail.high, behind: len(behind)}
	r.catchUp.gaps.news, r.strays.news = false, false
	r.tell(event.Progress{
		LastSequence: r.catchUp.tail.high, Subscriptions: len(r.subs) - counts[absent], Held: counts[paused], Behind: behind, Gaps: lost,
		PassedOver: r.strays.tell(now),
	}, now)
}

// tellEarly tells why the store is not followed, before it is known where its stream ends.
func (r *reporter) tellEarly(now time.Time) {
	r.seePermissions()
	if r.obstacles.store+r.obstacles.lacks != "" && (r.obstacles.news() || now.Sub(r.told.at) >= progressHeartbeat) {
		r.told.at = now
		r.tell(event.Progress{Subscriptions: len(r.subs)}, now)
	}
}

// lagAfter is how long an acknowledgement may take before what was sent counts as lag.
const lagAfter = 500 * time.Millisecond

// lag is how many events of the store lie after what the subscription has accepted, or been found not to
// want. One that has everything is level, wherever its last event lies, and so is one that is given each
// event as it is stored and acknowledges in time, and one whose new proxy need not be asked yet.
func (r *reporter) lag(s *sub, now time.Time) uint64 {
	level := s.deferred || s.segment == r.catchUp.tail && (s.sender.Idle() || now.Sub(s.progressAt) < lagAfter)
	if level || s.sender.Acked >= r.catchUp.tail.high || !s.checkpoint.placed {
		return 0
	}
	return r.catchUp.tail.high - s.sender.Acked
}

// tell completes a progress and publishes it.
func (r *reporter) tell(p event.Progress, now time.Time) {
	p.Store, p.Emitter, p.Term, p.Trouble, p.Hindered, p.Waiting = r.store, r.name, r.lease.Term(), r.obstacles.store, r.obstacles.lacks, r.obstacles.waiting
	if err := publishProgress(r.nc, p, now); err != nil {
		r.untold(err)
	}
}

// tellTrouble says why nothing of the store is sent, where the loop does not run. It may be called from any
// goroutine.
func (r *reporter) tellTrouble(reason string) {
	p := event.Progress{Store: r.store, Emitter: r.name, Term: r.lease.Term(), Trouble: reason}
	if err := publishProgress(r.nc, p, time.Now()); err != nil {
		r.untold(err)
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

// splitProgress makes parts of at most so many bytes and progressPart subscriptions; one subscription is
// never split.
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
func (r *reporter) untold(err error) {
	if errors.Is(err, nats.ErrMaxPayload) {
		r.large.Do(func() {
			r.log.Warn("how far the emitter is can't be published: it is larger than the server takes", "max_payload", r.nc.MaxPayload(), "error", err)
		})
		return
	}
	r.log.Debug("progress could not be published", "error", err)
}

func (r *reporter) gauge(counts map[phase]int, behind int) {
	set := func(state string, n int) { r.metrics.Subscriptions.WithLabelValues(r.store, state).Set(float64(n)) }
	set("running", counts[running])
	set("held", counts[paused])
	set("asking", counts[asking]+counts[placing]+counts[loading])
	r.metrics.Behind.WithLabelValues(r.store).Set(float64(behind))
	r.metrics.Last.WithLabelValues(r.store).Set(float64(r.catchUp.tail.high))
}
