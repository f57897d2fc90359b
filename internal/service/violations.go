package service

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/health"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/sink"
)

// stops is what a missing permission stops, by what the subject begins with.
var stops = []struct{ prefix, part string }{
	{proxy.DeliverPrefix, "events on their way from emitters to proxies"},
	{health.StatusPrefix, "statuses"},
	{health.SummaryPrefix, "summaries"},
	{health.AlertPrefix, "alerts"},
	{health.HandOverPrefix, "hand-overs between instances"},
	{health.SupersededPrefix, "runs telling each other that they are superseded"},
	{health.ControlPrefix, "operators' requests"},
	{"$SRV.", "operators' requests"},
	{event.ProgressPrefix, "the emitters' progress"},
	{"exesdb.emitter.", "answers between proxies and emitters"},
	{sink.ParkedPrefix, "parking"},
	{DeliveredPrefix, "a sink"},
	{"$KV.", "writes to a bucket"},
	{"$JS.", "requests to JetStream"},
	{"_INBOX.", "answers to requests"},
}

// stopped is what a missing permission stops.
func stopped(subject string) string {
	for _, s := range stops {
		if strings.HasPrefix(subject, s.prefix) {
			return s.part
		}
	}
	return "what is sent or heard on " + subject
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
	saidAt time.Time
	since  int // since then
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
	part := stopped(denied.Subject)
	v.mu.Lock()
	defer v.mu.Unlock()
	was := v.parts[part]
	if was == nil {
		was = &violation{}
		v.parts[part] = was
	}
	was.since++
	if now.Sub(was.saidAt) < sayAgain {
		return
	}
	v.log.Warn("a permission is missing", "stops", part, "messages", was.since, "error", denied)
	was.saidAt, was.since = now, 0
}
