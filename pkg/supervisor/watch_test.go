package supervisor

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestPresenceOfAnEmitter(t *testing.T) {
	const after = 25 * time.Second
	begin := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(seconds int, by string) sign {
		return sign{begin.Add(time.Duration(seconds) * time.Second), by}
	}
	for name, c := range map[string]struct {
		presence
		spoken bool
		now    int
		want   string // part of it; empty: it is there
	}{
		"nothing yet, soon after the begin":          {now: 24},
		"nothing ever":                               {now: 25, want: "none was heard since 2026-11-30T12:00:00Z; start one"},
		"nothing but events, of one that only sends": {now: 1000, spoken: true},
		"progress":                                         {presence: presence{told: at(980, "a")}, now: 1000},
		"progress that ended":                              {presence: presence{told: at(980, "a")}, now: 1005, want: "the last, a, was heard at 2026-11-30T12:16:20Z"},
		"progress that ended, events or not":               {presence: presence{told: at(980, "a")}, now: 1005, spoken: true, want: "the last, a,"},
		"a lease alone":                                    {presence: presence{renewed: at(999, "a")}, now: 1000},
		"a lease that ended":                               {presence: presence{renewed: at(970, "a")}, now: 1000, want: "the last, a,"},
		"a lease that is held by one that told before":     {presence: presence{renewed: at(999, "a"), told: at(900, "a")}, now: 1000, want: "emitter a leads store s and has told no progress since"},
		"a lease that is held by another than told before": {presence: presence{renewed: at(999, "b"), told: at(900, "a")}, now: 1000},
	} {
		c.since = begin
		got := c.absent("s", at(c.now, "").at, after, func() bool { return c.spoken })
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		c.since = at(c.now-1, "").at
		if got := c.absent("s", at(c.now, "").at, after, func() bool { return false }); got != "" {
			t.Errorf("%s, a second after nothing could be heard: %q", name, got)
		}
	}
}

func TestProgressIsTakenWholeOrNotAtAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p progress
		now, told := time.Unix(1, 0), uint64(0)
		for round := range rapid.IntRange(1, 6).Draw(t, "rounds") {
			parts := rapid.IntRange(1, 4).Draw(t, "parts")
			lost := rapid.IntRange(0, 2*parts).Draw(t, "lost") // 0, and above parts: none
			whole := lost == 0 || lost > parts
			now = now.Add(time.Second)
			for part := 1; part <= parts; part++ {
				if part == lost {
					continue
				}
				m := &event.Progress{
					Emitter: "e", LastSequence: uint64(round + 1), Part: part, Parts: parts, Behind: map[string]uint64{fmt.Sprint(part): uint64(round + 1)},
				}
				if complete := p.add(m, now); complete != (whole && part == parts) {
					t.Fatalf("part %d of %d, without %d, completes: %v", part, parts, lost, complete)
				}
			}
			if whole {
				told = uint64(round + 1)
				if len(p.behind) != parts || p.at != now {
					t.Fatalf("%d are behind of %d", len(p.behind), parts)
				}
			}
			if p.last != told || p.behind["1"] != told {
				t.Fatalf("after round %d with part %d of %d lost: last %d, behind %v; told last was %d", round, lost, parts, p.last, p.behind, told)
			}
		}
	})
}

func TestStandstillBeginsWithEachMove(t *testing.T) {
	var s standstill
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	s.stands("a", 5, 1, at(1))
	s.stands("a", 5, 1, at(2))
	if s["a"].since != at(1) {
		t.Errorf("stands since %s", s["a"].since)
	}
	s.stands("a", 6, 1, at(3))
	if s["a"].since != at(3) {
		t.Error("an event that is not wanted is no move")
	}
	s.stands("a", 6, 2, at(4))
	if s["a"].since != at(4) {
		t.Error("an event that was accepted is no move")
	}
	if s.keep(map[string]uint64{"b": 1}); len(s) != 0 {
		t.Error("one that is not behind stands still")
	}
}

// receiving makes proxies that take events, which nobody sends.
func receiving(connected *atomic.Bool) func(*Options) {
	return func(o *Options) {
		o.Delivery = delivery.New(delivery.Options{Owner: o.Owner})
		if connected != nil {
			o.Connected = connected.Load
		}
	}
}

// takeAlerts are the alerts since the last time, as "level scope name".
func (r *rig) takeAlerts() (all []string) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.alerts {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", a.Level, a.Scope, a.Name)))
	}
	r.alerts = nil
	return all
}

// requireAlerts fails unless just these were raised since the last time.
func (r *rig) requireAlerts(want ...string) {
	r.t.Helper()
	if got := r.takeAlerts(); strings.Join(got, ", ") != strings.Join(want, ", ") {
		r.t.Fatalf("alerts %q, want %q", got, want)
	}
}

func (r *rig) summary() status.Summary {
	r.t.Helper()
	all, err := r.Summaries(r.t.Context())
	if err != nil || len(all) != 1 {
		r.t.Fatalf("%d summaries, %v", len(all), err)
	}
	return all[0]
}

func watchful() proxy.Settings {
	s := testSettings
	s.StalledAfter, s.EmitterSilentAfter = time.Minute, 25*time.Second
	return s
}

func TestStoreWithoutAnEmitterIsOneAlertAndDegraded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 100
		r := newRig(t, watchful(), n, receiving(nil))
		defer r.stop()
		time.Sleep(24 * time.Second)
		r.requireAlerts()
		r.require(n, "healthy, of an unknown lag", func(st status.Status) bool { return st.Health == breaker.Healthy && st.Lag == nil })
		time.Sleep(8 * time.Second)
		r.requireAlerts("warning store")
		r.require(n, "degraded, with the reason", func(st status.Status) bool {
			return st.Health == breaker.Degraded && strings.HasPrefix(st.LastError, "no emitter leads store s:") && st.Lag == nil
		})
		if s := r.summary(); s.Lag != nil || s.Trouble == "" || s.ProgressAt != nil {
			t.Errorf("summary %+v", s)
		}
		tell := func() { r.Progress(event.Progress{Store: "s", Emitter: "e", LastSequence: 7, Part: 1, Parts: 1}) }
		for range 10 {
			tell()
			time.Sleep(10 * time.Second)
		}
		r.requireAlerts("resolved store")
		r.require(n, "healthy, of lag 0", func(st status.Status) bool {
			return st.Health == breaker.Healthy && st.LastError == "" && st.Lag != nil && *st.Lag == 0
		})
		time.Sleep(25 * time.Second)
		r.requireAlerts("warning store")
		tell()
		r.requireAlerts("resolved store")
	})
}

func TestWhatCanNotBeHeardIsNoSilence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var connected atomic.Bool
		connected.Store(true)
		r := newRig(t, watchful(), 3, receiving(&connected))
		defer r.stop()
		time.Sleep(10 * time.Second)
		connected.Store(false)
		time.Sleep(time.Minute)
		connected.Store(true)
		time.Sleep(20 * time.Second)
		r.requireAlerts()
		time.Sleep(20 * time.Second)
		r.requireAlerts("warning store")
		r.Apply(nil)
		r.requireAlerts("resolved store")
	})
}

func TestEmitterThatLeadsByALeaseIsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, watchful(), 1, receiving(nil))
		defer r.stop()
		for range 100 {
			r.Leads("s", "e", 7, time.Now())
			time.Sleep(time.Second)
		}
		r.requireAlerts()
		if s := r.summary(); s.Leader != "e" || s.Term != 7 {
			t.Errorf("leader %q of term %d", s.Leader, s.Term)
		}
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, Term: 8, Leader: "f", SeenAt: time.Now()})
		synctest.Wait()
		if s := r.summary(); s.Leader != "f" || s.Term != 8 {
			t.Errorf("leader %q of term %d, after it changed", s.Leader, s.Term)
		}
		time.Sleep(32 * time.Second)
		r.requireAlerts("warning store")
	})
}

func TestStandstillIsAnAlertUntilItMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, watchful(), 4, receiving(nil))
		defer r.stop()
		tell := func(seconds int, behind, last uint64) {
			for range seconds {
				p := event.Progress{Store: "s", Emitter: "e", LastSequence: last, Part: 1, Parts: 1, Behind: map[string]uint64{}}
				if behind > 0 {
					p.Behind["sub_2"] = behind
				}
				r.Progress(p)
				time.Sleep(time.Second)
			}
		}
		tell(59, 3, 10)
		r.requireAlerts()
		tell(3, 4, 11) // more are appended: it does not move by that
		r.requireAlerts("warning proxy sub_2")
		r.require(4, "stalled, if it is behind", func(st status.Status) bool {
			if st.Name != "sub_2" {
				return verified(st) && !st.Stalled
			}
			return st.Stalled && st.Health == breaker.Degraded && *st.Lag == 4 && strings.Contains(st.LastError, "emitter e sends nothing after event 7")
		})
		if s := r.summary(); s.Stalled != 1 || s.Behind != 1 || *s.Lag != 4 {
			t.Errorf("summary %+v", s)
		}
		tell(3, 3, 11) // it was found not to want an event
		r.requireAlerts("resolved proxy sub_2")
		tell(70, 3, 11)
		r.requireAlerts("warning proxy sub_2")
		tell(2, 0, 11)
		r.requireAlerts("resolved proxy sub_2")
		r.require(4, "well", verified)
	})
}

func TestWhatTheEmitterSaysIsInTheWayIsToldAsItSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, watchful(), 8, receiving(nil))
		defer r.stop()
		tell := func(trouble string, waiting map[string]string) {
			for range 3 {
				r.Progress(event.Progress{Store: "s", Emitter: "e", LastSequence: 7, Part: 1, Parts: 1, Trouble: trouble, Waiting: waiting})
				time.Sleep(time.Second)
			}
		}
		gap := map[string]string{"sub_1": "events 3 to 5 are gone"}
		tell("", gap)
		r.requireAlerts("warning proxy sub_1")
		tell("stream S can't be followed", gap)
		r.requireAlerts("warning store")
		r.require(8, "told the store's trouble", func(st status.Status) bool {
			return st.Health == breaker.Degraded && st.LastError == "no event of store s is sent: stream S can't be followed" && st.Lag == nil
		})
		gap["sub_2"] = "it is another reason"
		tell("stream S can't be followed", gap)
		r.requireAlerts()
		tell("", gap)
		r.requireAlerts("resolved store", "warning proxy sub_2")
		r.require(8, "told its own", func(st status.Status) bool {
			reason, waits := gap[st.Name]
			return waits && st.Health == breaker.Degraded && strings.HasSuffix(st.LastError, reason) || !waits && verified(st)
		})
		tell("", nil)
		if got := r.takeAlerts(); len(got) != 2 || got[0][:8] != "resolved" || got[1][:8] != "resolved" {
			t.Errorf("alerts %q", got)
		}
		r.require(8, "well", verified)
	})
}

func TestMessagesThatAreNoEventsAreToldForAnHour(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, watchful(), 8, receiving(nil))
		defer r.stop()
		var found *event.PassedOver
		tell := func(trouble string) {
			for range 3 {
				r.Progress(event.Progress{Store: "s", Emitter: "e", LastSequence: 7, Part: 1, Parts: 1, Trouble: trouble, PassedOver: found})
				time.Sleep(time.Second)
			}
		}
		tell("")
		r.requireAlerts()
		found = &event.PassedOver{Messages: 1, Sequence: 5, Subject: "exesdb.events.s.a", Reason: "no event", At: time.Now()}
		tell("")
		r.requireAlerts("warning store")
		r.require(8, "told, and well", func(st status.Status) bool {
			return verified(st) && st.PassedOver != nil && st.PassedOver.Sequence == 5
		})
		if sums, err := r.Summaries(t.Context()); err != nil || len(sums) != 1 || sums[0].PassedOver == nil || sums[0].PassedOver.Messages != 1 || sums[0].Trouble != "" {
			t.Errorf("%+v, %v", sums, err)
		}
		found = &event.PassedOver{Messages: 2, Sequence: 6, Subject: "exesdb.events.s.b", Reason: "no event", At: time.Now()}
		tell("")
		r.requireAlerts() // it stands
		tell("stream S can't be followed")
		r.requireAlerts("warning store")
		tell("")
		r.requireAlerts("warning store") // which is what stands again
		last := found.At
		found = nil // another emitter leads
		for time.Since(last) < 59*time.Minute {
			tell("")
		}
		r.requireAlerts()
		for time.Since(last) < 61*time.Minute {
			tell("")
		}
		r.requireAlerts("resolved store")
		r.require(8, "well", func(st status.Status) bool { return verified(st) && st.PassedOver == nil })
	})
}
