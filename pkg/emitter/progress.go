package emitter

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/pkg/event"
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
)

// progressMark is what was told last.
type progressMark struct {
	at     time.Time
	last   uint64
	behind int
}

// report tells instances and people how far the store's subscriptions are, and the log what was found missing.
func (l *leader) report(now time.Time) {
	if now.Sub(l.told.at) < progressInterval {
		return
	}
	if l.restored > 0 {
		l.log.Error("checkpoints are missing that there were; positions are restored from what the proxies took", "subscriptions", l.restored)
		l.metrics.Restored.Add(float64(l.restored))
		l.restored = 0
	}
	if l.voided > 0 {
		l.log.Error("checkpoints are of a stream that is no more; their subscriptions begin at the start of this one", "subscriptions", l.voided)
		l.voided = 0
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
	if last := l.tail.high; last == l.told.last && len(behind) == 0 && l.told.behind == 0 && now.Sub(l.told.at) < progressHeartbeat {
		return
	}
	l.told = progressMark{at: now, last: l.tail.high, behind: len(behind)}
	l.publishProgress(behind, counts, now)
}

// lagAfter is how long an acknowledgement may take before what was sent counts as lag.
const lagAfter = 500 * time.Millisecond

// lag is how many events of the store lie after what the subscription has accepted, or been found not to want. One that
// has everything is level, wherever its last event lies, and so is one that is given each event as it is stored and
// acknowledges in time, and one whose new proxy need not be asked yet.
func (l *leader) lag(s *sub, now time.Time) uint64 {
	level := s.patient || s.ride == l.tail && (s.sender.Idle() || now.Sub(s.progressAt) < lagAfter)
	if level || s.sender.Acked >= l.tail.high || !s.recorded {
		return 0
	}
	return l.tail.high - s.sender.Acked
}

func (l *leader) publishProgress(behind map[string]uint64, counts map[phase]int, now time.Time) {
	parts := splitProgress(behind)
	for i, part := range parts {
		data, err := json.Marshal(event.Progress{
			Type: event.ProgressType, ID: nuid.Next(), Timestamp: now.UTC(), Store: l.store, Emitter: l.name,
			Term: l.lease.Term(), LastSequence: l.tail.high, Subscriptions: len(l.subs) - counts[absent], Held: counts[held],
			Part: i + 1, Parts: len(parts), Behind: part,
		})
		if err == nil {
			err = l.nc.Publish(ProgressPrefix+subscription.EncodeToken(l.store), data)
		}
		if err != nil {
			l.log.Debug("progress could not be published", "error", err)
			return
		}
	}
}

func splitProgress(behind map[string]uint64) []map[string]uint64 {
	parts := []map[string]uint64{{}}
	for name, lag := range behind {
		last := parts[len(parts)-1]
		if len(last) == progressPart {
			last = map[string]uint64{}
			parts = append(parts, last)
		}
		last[name] = lag
	}
	return parts
}

func (l *leader) gauge(counts map[phase]int, behind int) {
	set := func(state string, n int) { l.metrics.Subscriptions.WithLabelValues(l.store, state).Set(float64(n)) }
	set("running", counts[running])
	set("held", counts[held])
	set("asking", counts[asking]+counts[placing]+counts[loading])
	l.metrics.Behind.WithLabelValues(l.store).Set(float64(behind))
	l.metrics.Last.WithLabelValues(l.store).Set(float64(l.tail.high))
}
