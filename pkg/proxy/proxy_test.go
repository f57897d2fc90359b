package proxy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/backoff"
	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

var testSettings = Settings{
	Breaker:         breaker.Settings{MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute},
	InitialInterval: time.Second, NormalInterval: 15 * time.Second, Verify: true, VerificationTimeout: 2 * time.Second, EventDriven: true,
}

var errTest = errors.New("the bucket is away")

// noDeadline hides the test's deadline from rapid: real time may not be asked for where time is virtual.
type noDeadline struct{ rapid.TB }

// machine drives one proxy in virtual time and checks, at each step, what must always hold.
type machine struct {
	t        *rapid.T
	p        Proxy
	settings Settings
	revision uint64 // of the bucket
	// kept is the health that a restart found, which stands until a success or until it is worse.
	kept breaker.Health
}

func newMachine(t *rapid.T) *machine {
	m := &machine{t: t, settings: testSettings}
	m.settings.Breaker.Exponential = rapid.Bool().Draw(t, "exponential")
	m.p = Proxy{Subscription: subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}, Health: breaker.Unknown}
	return m
}

// step applies an input and checks the invariants around it.
func (m *machine) step(in Input) Effects {
	now := time.Now()
	in.SeenAt = now
	was := m.p
	open := m.p.Breaker.State() == breaker.Open
	fx := m.p.Step(in, now, &m.settings)
	if m.p.Standby && m.p.Record.Holder == nil && !m.p.Stopped {
		fx = fx.and(m.p.Step(Input{Kind: Assigned}, now, &m.settings))
	}
	if fx.Attempt {
		switch {
		case was.Attempt.UnderWay && in.Kind != Finished:
			m.t.Fatalf("a second attempt while one is under way, after %v", in.Kind)
		case open && in.Kind == Due:
			m.t.Fatalf("the timer made an attempt while the breaker was open")
		case !m.p.Attempt.UnderWay:
			m.t.Fatalf("an attempt was asked for that the proxy does not know of")
		case m.p.Standby:
			m.t.Fatalf("an attempt while standing by")
		}
	}
	if m.p.Started && !m.p.Standby && !m.p.Stopped && m.p.Failures > 0 {
		if want := m.settings.Breaker.Health(m.p.Failures); m.p.Health != want && (want != breaker.Healthy || m.p.Health != m.kept) {
			m.t.Fatalf("health %s after %d failures, want %s", m.p.Health, m.p.Failures, want)
		}
	}
	if m.p.Verified && !m.p.Registered {
		m.t.Fatalf("verified without being registered")
	}
	return fx
}

func (m *machine) finish(o Outcome) Effects {
	o.At = time.Now()
	return m.step(Input{Kind: Finished, Outcome: o, Jitter: rapid.Float64Range(-1, 0.999).Draw(m.t, "jitter")})
}

func (m *machine) succeed() Effects {
	m.revision++
	return m.finish(Outcome{Revision: m.revision, Incarnation: m.p.Record.NextIncarnation(), Verified: true, Written: true})
}

func TestWhateverHappensTheRulesHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			m := newMachine(t)
			if fx := m.step(Input{Kind: Start}); !fx.Attempt {
				t.Fatal("a start makes no attempt")
			}
			t.Repeat(map[string]func(*rapid.T){
				"event":     func(*rapid.T) { m.event(registration.LeaderChanged) },
				"time":      func(t *rapid.T) { m.wait(time.Duration(rapid.Int64Range(1, int64(20*time.Second)).Draw(t, "wait"))) },
				"until due": func(*rapid.T) { m.untilDue() },
				"success":   func(*rapid.T) { m.success() },
				"failure":   func(*rapid.T) { m.failure() },
				"removed":   func(*rapid.T) { m.removed() },
				"restart":   func(*rapid.T) { m.restart() },
				"interval": func(t *rapid.T) {
					m.reschedule(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
				},
				"taken":    func(*rapid.T) { m.taken() },
				"released": func(*rapid.T) { m.removed() },
				"void":     func(*rapid.T) { m.step(Input{Kind: Voided}); m.revision = 0 },
			})
		})
	})
}

// event checks that an attempt is made at once, or right after the one under way.
func (m *machine) event(cause registration.Cause) {
	attempting, standby := m.p.Attempt.UnderWay, m.p.Standby
	fx := m.step(Input{Kind: Event, Cause: cause})
	switch {
	case standby && fx.Attempt:
		m.t.Fatal("an event made a proxy attempt that stands by")
	case !standby && !attempting && !fx.Attempt:
		m.t.Fatal("an event made no attempt at once")
	case attempting && m.p.Attempt.again == "" && !standby:
		m.t.Fatal("an event during an attempt was forgotten")
	}
}

func (m *machine) success() {
	if !m.p.Attempt.UnderWay {
		return
	}
	again := m.p.Attempt.again
	fx := m.succeed()
	m.kept = ""
	if again != "" && !fx.Attempt && !m.p.Standby {
		m.t.Fatalf("%s came during the attempt, and none followed", again)
	}
	if m.p.Standby || fx.Attempt {
		return
	}
	if m.p.Health != breaker.Healthy || m.p.Failures != 0 || m.p.Breaker.State() != breaker.Closed {
		m.t.Fatalf("after a success: %s, %d failures, breaker %s", m.p.Health, m.p.Failures, m.p.Breaker.State())
	}
	interval := m.settings.NormalInterval
	if !m.p.settled {
		interval = m.settings.InitialInterval
	}
	m.within(time.Until(m.p.Next), interval)
}

func (m *machine) failure() {
	if !m.p.Attempt.UnderWay {
		return
	}
	again, failures := m.p.Attempt.again, m.p.Failures
	fx := m.finish(Outcome{Err: errTest})
	if m.p.Standby {
		return
	}
	if m.p.Failures != failures+1 {
		m.t.Fatalf("%d failures after %d and one more", m.p.Failures, failures)
	}
	if again != "" && !fx.Attempt {
		m.t.Fatalf("%s came during the attempt, and none followed", again)
	}
	if !fx.Attempt {
		open := m.p.Breaker.State() == breaker.Open
		if want := m.p.Failures >= m.settings.Breaker.MaxFailures; open != want {
			m.t.Fatalf("breaker %s after %d failures", m.p.Breaker.State(), m.p.Failures)
		}
		m.within(time.Until(m.p.Next), m.settings.Breaker.Backoff(m.p.Failures, 0))
	}
}

// untilDue checks progress: when the time comes, an attempt is made.
func (m *machine) untilDue() {
	if m.p.Attempt.UnderWay || m.p.Standby {
		return
	}
	m.wait(time.Until(m.p.Next))
	if !m.p.Attempt.UnderWay {
		m.t.Fatalf("no attempt when it was due; breaker %s", m.p.Breaker.State())
	}
}

func (m *machine) wait(d time.Duration) {
	time.Sleep(max(d, 0)) // virtual
	due := !m.p.Next.IsZero() && !time.Now().Before(m.p.Next)
	fx := m.step(Input{Kind: Due})
	if fx.Attempt && !due {
		m.t.Fatal("the timer made an attempt before it was due")
	}
}

// removed is a record deleted by hand, or released by its holder.
func (m *machine) removed() {
	m.revision++
	attempting := m.p.Attempt.UnderWay
	fx := m.step(Input{Kind: Seen, News: News{Revision: m.revision, Removed: true}})
	if !attempting && !fx.Attempt {
		m.t.Fatal("a lost registration was not mended at once")
	}
}

func (m *machine) restart() {
	before, standby := m.p.Record.NextIncarnation(), m.p.Standby
	m.kept = m.p.Health
	m.step(Input{Kind: Restart})
	if !standby && m.p.Record.NextIncarnation() <= before {
		m.t.Fatalf("restarted with incarnation %d, was %d", m.p.Record.NextIncarnation(), before)
	}
}

// reschedule checks that what is due later than another interval allows comes forward, and nothing else.
func (m *machine) reschedule(interval time.Duration) {
	m.settings.NormalInterval = interval
	before := m.p.Next
	if fx := m.step(Input{Kind: Rescheduled}); fx.Attempt || m.p.Next.After(before) {
		m.t.Fatalf("due at %v, was %v; an attempt: %v", m.p.Next, before, fx.Attempt)
	}
	if m.p.Failures > 0 && m.p.Next != before || m.p.Failures == 0 && time.Until(m.p.Next) > interval {
		m.t.Fatalf("due in %v with intervals of %v, after %d failures", time.Until(m.p.Next), interval, m.p.Failures)
	}
}

// taken is another instance's record with a higher incarnation.
func (m *machine) taken() {
	m.revision++
	attempting, known := m.p.Attempt.UnderWay, m.p.Record.Known
	m.step(Input{Kind: Seen, News: News{Revision: m.revision, Readable: true, Incarnation: m.p.Record.NextIncarnation() + 1, Owner: registration.Owner{Name: "other", ID: "2"}}})
	if !attempting && known && !m.p.Standby {
		m.t.Fatal("a superseded proxy does not stand by")
	}
}

// within checks that an interval is its nominal length, give or take the jitter.
func (m *machine) within(got, nominal time.Duration) {
	slack := time.Duration(backoff.Share*float64(nominal)) + time.Millisecond
	if got < nominal-slack || got > nominal+slack {
		m.t.Fatalf("next attempt in %s, want %s give or take a tenth", got, nominal)
	}
}

func TestSupersededRunNeverAttemptsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			m := newMachine(t)
			m.step(Input{Kind: Start})
			m.succeed()
			m.step(Input{Kind: Retired, News: News{Owner: registration.Owner{Name: "me", ID: "later"}}})
			kind := rapid.SampledFrom([]Kind{Start, Event, Due, Finished, Seen, Voided, Restart, Stop})
			for range 50 {
				time.Sleep(time.Minute) // virtual
				if fx := m.step(Input{Kind: kind.Draw(t, "kind"), News: News{Revision: m.revision + 1, Removed: true}}); fx.Attempt || fx.Release {
					t.Fatalf("a superseded run asked for %+v", fx)
				}
			}
		})
	})
}

func TestLateNewsOfAnotherOwnerSupersedesAfterTheAttempt(t *testing.T) {
	p := Proxy{Health: breaker.Unknown}
	now := time.Now()
	s := testSettings
	p.Step(Input{Kind: Start, SeenAt: now}, now, &s)
	p.Step(Input{Kind: Seen, News: News{Revision: 9, Readable: true, Incarnation: 2, Owner: registration.Owner{Name: "b", ID: "b"}}}, now, &s)
	if p.Standby {
		t.Fatal("stood by before the attempt's outcome was known")
	}
	fx := p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 8, Incarnation: 1, Verified: true, At: now}}, now, &s)
	if !p.Standby || fx.Superseded == nil || fx.Attempt || p.Record.Holder.ID != "b" {
		t.Fatalf("after a later record of another owner: standby %v, effects %+v", p.Standby, fx)
	}
}

func TestAttemptThatWasSupersededByARecordThatIsGoneAgain(t *testing.T) {
	p := Proxy{Health: breaker.Unknown}
	now := time.Now()
	s := testSettings
	p.Step(Input{Kind: Start, SeenAt: now}, now, &s)
	p.Step(Input{Kind: Seen, News: News{Revision: 9, Removed: true}}, now, &s)
	by := registration.Owner{Name: "b", ID: "b"}
	fx := p.Step(Input{Kind: Finished, Outcome: Outcome{Superseded: true, Revision: 8, Incarnation: 1, By: by}}, now, &s)
	if !p.Standby || p.Record.Holder != nil || fx.Superseded == nil || *fx.Superseded != by {
		t.Fatalf("holder %v, effects %+v; want it free, and to be told who had it", p.Record.Holder, fx)
	}
}

func TestOwnLateWriteByHandIsMended(t *testing.T) {
	p := Proxy{Health: breaker.Unknown}
	now := time.Now()
	s := testSettings
	p.Step(Input{Kind: Start, SeenAt: now}, now, &s)
	p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 8, Incarnation: 1, Verified: true, At: now}}, now, &s)
	fx := p.Step(Input{Kind: Seen, News: News{Revision: 9, Mine: true, Readable: true, Incarnation: 1}}, now, &s)
	if !fx.Attempt || p.Attempt.Cause != registration.Lost || p.Record.Revision != 9 {
		t.Fatalf("a record of mine that I did not write: effects %+v, cause %s, revision %d", fx, p.Attempt.Cause, p.Record.Revision)
	}
}

func TestTimerOnlySettingsWaitForTheTimer(t *testing.T) {
	p := Proxy{Health: breaker.Unknown}
	now := time.Now()
	s := testSettings
	s.EventDriven = false
	p.Step(Input{Kind: Start, SeenAt: now}, now, &s)
	p.Step(Input{Kind: Finished, Outcome: Outcome{Revision: 8, Incarnation: 1, Verified: true, At: now}}, now, &s)
	if fx := p.Step(Input{Kind: Seen, News: News{Revision: 9, Removed: true}}, now, &s); fx.Attempt || p.Registered {
		t.Fatalf("with events off, a lost record: effects %+v, registered %v", fx, p.Registered)
	}
	if fx := p.Step(Input{Kind: Due}, p.Next, &s); !fx.Attempt || p.Attempt.Cause != registration.Timer {
		t.Fatalf("the timer: effects %+v, cause %s", fx, p.Attempt.Cause)
	}
}

// What an attempt writes that was under way when its proxy was stopped is released when the attempt ends,
// and once.
func TestStoppedProxyReleasesWhatItsLastAttemptWrote(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		outcome  Outcome
		released bool
	}{
		"written":    {Outcome{Revision: 7, Incarnation: 3, Written: true, Verified: true}, true},
		"failed":     {Outcome{Revision: 7, Incarnation: 3, Err: errTest}, true},
		"superseded": {Outcome{Revision: 7, Incarnation: 3, Superseded: true}, false},
	} {
		p := NewProxy(subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"})
		p.Step(Input{Kind: Start, SeenAt: now}, now, &testSettings)
		if fx := p.Step(Input{Kind: Stop}, now, &testSettings); fx.Release {
			t.Errorf("%s: it is released while the attempt is under way, and nothing was registered", name)
		}
		in := Input{Kind: Finished, Outcome: c.outcome}
		if fx := p.Step(in, now, &testSettings); fx.Release != c.released || fx.Attempt {
			t.Errorf("%s: %+v", name, fx)
		}
		if c.released && (p.Record.Revision != 7 || p.Record.Claim != 3) {
			t.Errorf("%s: released at revision %d with incarnation %d", name, p.Record.Revision, p.Record.Claim)
		}
		if fx := p.Step(in, now, &testSettings); fx.Release {
			t.Errorf("%s: it is released twice", name)
		}
	}
}
