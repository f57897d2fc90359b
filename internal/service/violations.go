package service

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/sink"
)

// stops is what a missing permission stops, by what the subject begins with, and whether all that the instance is for is hindered by it.
var stops = []struct {
	prefix, part string
	hinders      bool
}{
	{proxy.DeliverPrefix, "events on their way from emitters to proxies", true},
	{health.StatusPrefix, "statuses", true},
	{health.SummaryPrefix, "summaries", true},
	{health.AlertPrefix, "alerts", true},
	{health.HandOverPrefix, "hand-overs between instances", true},
	{health.SupersededPrefix, "runs telling each other that they are superseded", true},
	{health.ControlPrefix, "operators' requests", true},
	{"$SRV.", "operators' requests", true},
	{event.ProgressPrefix, "the emitters' progress", true},
	{sink.ParkedPrefix, "parking", false}, // the subscription says it
	{DeliveredPrefix, "a sink", false},    // likewise
	{"$KV.", "writes to a bucket", true},
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

// violations log what a server says it does not permit: of each part one line a minute, however many messages it is of. Other errors are
// logged as they come.
type violations struct {
	log *slog.Logger

	mu    sync.Mutex
	parts map[string]*violation
}

type violation struct {
	saidAt  time.Time
	since   int // since then
	hinders bool
	err     error
	at      time.Time // reported last
}

func newViolations(log *slog.Logger) *violations {
	return &violations{log: log, parts: map[string]*violation{}}
}

// report logs an error of a connection.
func (v *violations) report(subject string, err error, now time.Time) {
	var denied *connect.PermissionError
	if !errors.As(err, &denied) {
		v.log.Warn("NATS reported an error", "subject", subject, "error", err)
		return
	}
	part, hinders := stopped(denied.Subject)
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.parts[part]
	if was == nil {
		was = &violation{}
		v.parts[part] = was
	}
	was.since++
	was.hinders, was.err, was.at = hinders, denied, now
	if now.Sub(was.saidAt) < sayAgain {
		return
	}
	v.log.Warn("a permission is missing", "stops", part, "messages", was.since, "error", denied)
	was.saidAt, was.since = now, 0
}

// hindering is what the instance can't do at present, as far as it has tried in the last minute; empty: nothing.
func (v *violations) hindering(now time.Time) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var parts []string
	for part, was := range v.parts {
		if was.hinders && now.Sub(was.at) < sayAgain {
			parts = append(parts, part+": "+was.err.Error())
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}
