package service

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/connect"
)

func TestMissingPermissionIsLoggedOnceAMinuteForEachPart(t *testing.T) {
	var log bytes.Buffer
	v, now := newViolations(slog.New(slog.NewTextHandler(&log, nil))), time.Now()
	lines := func() (n int) { defer log.Reset(); return strings.Count(log.String(), "\n") }
	denied := func(subject string) error {
		return &connect.PermissionError{Operation: "publish to", Subject: subject, Err: errors.New("no")}
	}
	for range 1000 {
		v.report("", denied("app.x"), now)
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines for one subject", n)
	}
	for i := range 1000 {
		v.report("", denied("exesdb.proxy.status.s."+strconv.Itoa(i)), now)
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines for all statuses", n)
	}
	v.report("", denied("app.x"), now.Add(sayAgain))
	if !strings.Contains(log.String(), "messages=1000 ") { // 999 that were not logged, and this one
		t.Errorf("a minute later: %s", log.String())
	}
	lines()
	v.report("x", errors.New("another"), now)
	v.report("x", errors.New("another"), now)
	if n := lines(); n != 2 {
		t.Errorf("%d lines for two other errors", n)
	}
}

func TestMissingPermissionHindersWhileItIsTried(t *testing.T) {
	now := time.Now()
	for subject, hinders := range map[string]bool{
		"exesdb.proxy.status.s.a": true, "_INBOX.x.1": true, "exesdb.proxy.deliver.id.*": true, "$KV.exesdb_subscriptions.k": true,
		"app.x": false, "exesdb.delivered.s.a": false, "$JS.API.STREAM.INFO.OUT": false, "exesdb.parked.s.a": false,
	} {
		v := newViolations(slog.New(slog.DiscardHandler))
		v.report("", &connect.PermissionError{Operation: "publish to", Subject: subject, Err: errors.New("no")}, now)
		if got := joinReasons(v.hindering(now.Add(sayAgain - 1))); strings.Contains(got, "not permitted to publish to "+subject) != hinders {
			t.Errorf("%s: %q", subject, got)
		}
		if got := joinReasons(v.hindering(now.Add(sayAgain))); got != "" {
			t.Errorf("%s a minute later: %q", subject, got)
		}
	}
}
