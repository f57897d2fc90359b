package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func begun(t *testing.T) (*Proxy, *Settings, time.Time) {
	t.Helper()
	p := &Proxy{Subscription: subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}, Health: breaker.Unknown}
	s, now := testSettings, time.Now()
	p.Step(Input{Kind: Start, SeenAt: now}, now, &s)
	return p, &s, now
}

func TestReleaseBehindALostRaceFreesTheKey(t *testing.T) {
	p, s, now := begun(t)
	p.Step(Input{Kind: Seen, News: News{Revision: 12, Removed: true}}, now, s)
	fx := p.Step(Input{Kind: Finished, Outcome: Outcome{Superseded: true, Revision: 11, Incarnation: 4, By: registration.Owner{Name: "b", ID: "b"}}}, now, s)
	if p.Standby && p.Record.Holder == nil {
		fx = p.Step(Input{Kind: Assigned}, now, s)
	}
	if !fx.Attempt || p.Standby || p.Attempt.Cause != registration.Takeover {
		t.Fatalf("the winner has released it, and nobody takes it: %+v, standby %v", fx, p.Standby)
	}
}

func TestNothingOfTheOldBucketSurvivesAVoidDuringAnAttempt(t *testing.T) {
	for name, o := range map[string]Outcome{
		"success": {Revision: 5001, Incarnation: 1, Verified: true, Written: true},
		"failure": {Revision: 5001, Incarnation: 1, Known: true, Err: errTest},
	} {
		p, s, now := begun(t)
		p.Step(Input{Kind: Voided}, now, s)
		if fx := p.Step(Input{Kind: Finished, Outcome: o}, now, s); !fx.Attempt || p.Record.Known || p.Record.Revision != 0 || p.Registered {
			t.Errorf("%s in the old bucket: %+v, revision %d, known %v, registered %v", name, fx, p.Record.Revision, p.Record.Known, p.Registered)
		}
		p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 3, Incarnation: 1, Verified: true, Written: true}}, now, s)
		if fx := p.Step(Input{Kind: Seen, News: News{Revision: 4, Removed: true}}, now, s); !fx.Attempt {
			t.Errorf("%s: a deletion in the new bucket went unnoticed", name)
		}
	}
}

func TestLateAcknowledgementIsNoReasonToHurry(t *testing.T) {
	p, s, now := begun(t)
	p.Step(Input{Kind: Finished, Outcome: Outcome{Err: errTest, Known: true, Incarnation: 3}}, now, s)
	fx := p.Step(Input{Kind: Seen, News: News{Revision: 9, Mine: true, Readable: true}}, now, s)
	if fx.Attempt || !p.Registered || p.Verified || p.Record.Revision != 9 {
		t.Fatalf("a write that came through late: %+v, registered %v, verified %v, revision %d", fx, p.Registered, p.Verified, p.Record.Revision)
	}
	if fx := p.Step(Input{Kind: Due}, p.Next, s); !fx.Attempt {
		t.Fatal("the retry is not made")
	}
}

func TestWrittenButUnverifiedRecordIsReleasedAtTheEnd(t *testing.T) {
	p, s, now := begun(t)
	p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 7, Incarnation: 1, Written: true, Err: errTest}}, now, s)
	if fx := p.Step(Input{Kind: Stop}, now, s); !fx.Release || p.Record.Revision != 7 {
		t.Fatalf("%+v at %d", fx, p.Record.Revision)
	}
}

func TestFailedRestartDoesNotMakeHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, now := begun(t)
		for range 5 {
			p.Step(Input{Kind: Finished, Outcome: Outcome{Err: errTest}}, now, s)
			p.Step(Input{Kind: Event, Cause: registration.LeaderChanged, SeenAt: now}, now, s)
		}
		p.Step(Input{Kind: Finished, Outcome: Outcome{Err: errTest}}, now, s)
		p.Step(Input{Kind: Restart, SeenAt: now}, now, s)
		if fx := p.Step(Input{Kind: Finished, Outcome: Outcome{Err: errTest}}, now, s); fx.Entered != "" || p.Health != breaker.Failed {
			t.Fatalf("entered %q, health %s", fx.Entered, p.Health)
		}
	})
}

// TestStoreAlertIsResolvedAndRaisedAnew puts most of a store out, lets all but one recover, which fails on
// alone, and then all: the alerts that were raised are resolved, and the next outage is told as the first
// was. Two instances wrote the same incarnation, each into a bucket that did not show the other's record: a
// registration was deleted by hand while one was paused, and the bucket purged before it woke.
func TestEqualClaimsAreOutbidOnce(t *testing.T) {
	rival := registration.Owner{Name: "other", ID: "other"}
	for _, c := range []struct {
		name string
		in   Input
	}{
		{"seen", Input{Kind: Seen, News: News{Revision: 20, Readable: true, Incarnation: 1, Owner: rival}}},
		{"read back", Input{Kind: Finished, Outcome: Outcome{Err: errTest, Missing: true, Known: true, Revision: 20, Incarnation: 1, FoundIncarnation: 1}}},
	} {
		p, s, now := begun(t)
		p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 10, Incarnation: 1, Written: true, Verified: true}}, now, s)
		if c.in.Kind == Finished {
			p.Step(Input{Kind: Event, Cause: registration.LeaderChanged}, now, s)
		}
		if p.Step(c.in, now, s); p.Standby || p.Record.NextIncarnation() != 2 {
			t.Errorf("%s: standby %t, the next incarnation is %d, want 2", c.name, p.Standby, p.Record.NextIncarnation())
		}
	}
}

func TestRestartForgetsThatTheSinkRefused(t *testing.T) {
	p, s, now := begun(t)
	succeed := func(revision, incarnation uint64) {
		p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: revision, Incarnation: incarnation, Verified: true, Written: true, At: now}}, now, s)
	}
	succeed(1, 1)
	if p.Step(Input{Kind: Delivering, Reason: "no"}, now, s); p.Health != breaker.Degraded {
		t.Fatalf("health %s", p.Health)
	}
	// Only a worker that told of a refusal tells that it is over, and a restart has another.
	p.Step(Input{Kind: Restart, SeenAt: now}, now, s)
	succeed(2, 2)
	if p.Health != breaker.Healthy || p.Refusal != "" {
		t.Errorf("health %s, refusal %q", p.Health, p.Refusal)
	}
}

func TestWhoMissedAnIncarnationGoesOnAfterIt(t *testing.T) {
	p, s, now := begun(t)
	p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 1, Incarnation: 1, Verified: true, Written: true, At: now}}, now, s)
	// It was paused: another has superseded it and released it, and only the marker is left.
	fx := p.Step(Input{Kind: Seen, News: News{Revision: 9, Removed: true, Incarnation: 2}}, now, s)
	if next := p.Record.NextIncarnation(); !fx.Attempt || next != 3 {
		t.Errorf("%+v, with incarnation %d; want 3", fx, next)
	}
}
