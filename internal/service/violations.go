package service

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/deadletter"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/status"
)

// stops is what a missing permission stops, by what the subject begins with, and whether all that the
// instance is for is hindered by it.
var stops = []struct {
	prefix, part string
	hinders      bool
}{
	{delivery.DeliverPrefix, "events on their way from emitters to proxies", true},
	{status.StatusPrefix, "statuses", true},
	{status.SummaryPrefix, "summaries", true},
	{status.AlertPrefix, "alerts", true},
	{status.HandOverPrefix, "hand-overs between instances", true},
	{status.SupersededPrefix, "runs telling each other that they are superseded", true},
	{control.Prefix, "operators' requests", true},
	{"$SRV.", "operators' requests", true},
	{event.ProgressPrefix, "the emitters' progress", true},
	{kv.RepublishTo, "news of registrations", true},
	{kv.ClusterTo, "news of other instances and of leaders", true},
	{emitter.StoredSubject, "news of stored events", true},
	{deadletter.Prefix, "parking", false},   // the subscription says it
	{sink.DeliveredPrefix, "a sink", false}, // likewise
	{"$KV.", "writes to a bucket", true},
	{"$JS.EVENT.ADVISORY.", "news of elections and of streams that are deleted", true},
	{"$JS.", "requests to JetStream", false}, // some of them can be done without
	{"_INBOX.", "answers, to emitters and others", true},
}

// stopped is what a missing permission stops.
func stopped(subject string) (part string, hinders bool) {
	for _, s := range stops {
		if strings.HasPrefix(subject, s.prefix) {
			return s.part, s.hinders
		}
	}
	return "what is sent or heard on " + subject, false
}

// sayAgain is how often it is logged that the same part lacks a permission.
const sayAgain = time.Minute

// violations log what a server says it does not permit: of each part one line a minute, however many
// messages it is of. Other errors are logged as they come.
type violations struct {
	log  *slog.Logger
	slow rate.Sometimes // says that messages were dropped

	mu    sync.Mutex
	parts map[lacking]*violation
}

// lacking is an operation that is not permitted, and what that stops.
type lacking struct{ part, operation string }

type violation struct {
	saidAt  time.Time
	since   int // since then
	hinders bool
	err     error
	at      time.Time // reported last
}

func newViolations(log *slog.Logger) *violations {
	return &violations{log: log, slow: rate.Sometimes{Interval: sayAgain}, parts: map[lacking]*violation{}}
}

// report logs an error of a connection.
func (v *violations) report(subject string, err error, now time.Time) {
	if errors.Is(err, nats.ErrSlowConsumer) { // which it is each time that it was not for a moment
		v.slow.Do(func() {
			v.log.Warn("messages came faster than they are handled, and some were dropped; what has to be is asked for again", "subject", subject)
		})
		return
	}
	var denied *connect.PermissionError
	if !errors.As(err, &denied) {
		v.log.Warn("NATS reported an error", "subject", subject, "error", err)
		return
	}
	part, hinders := stopped(denied.Subject)
	v.mu.Lock()
	defer v.mu.Unlock()
	one := lacking{part, denied.Operation}
	was := v.parts[one]
	if was == nil {
		was = &violation{}
		v.parts[one] = was
	}
	was.since++
	was.hinders, was.err, was.at = hinders && denied.Operation != connect.Subscribing, denied, now
	if now.Sub(was.saidAt) < sayAgain {
		return
	}
	v.log.Warn("a permission is missing", "stops", part, "messages", was.since, "error", denied)
	was.saidAt, was.since = now, 0
}

// hindering is what can't be sent at present, as far as that was tried in the last minute. What can't be
// heard, a hearing tells.
func (v *violations) hindering(now time.Time) (reasons []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for one, was := range v.parts {
		if was.hinders && now.Sub(was.at) < sayAgain {
			reasons = append(reasons, one.part+": "+was.err.Error())
		}
	}
	return reasons
}

// maxReasons is how many reasons are told; the log has all.
const maxReasons = 3

// joinReasons lists reasons, each once.
func joinReasons(reasons ...[]string) string {
	all := slices.Concat(reasons...)
	slices.Sort(all)
	all = slices.Compact(all)
	if more := len(all) - maxReasons; more > 0 {
		all = append(all[:maxReasons], fmt.Sprintf("and %d more (see the log)", more))
	}
	return strings.Join(all, "; ")
}
