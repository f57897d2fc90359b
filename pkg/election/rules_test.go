package election

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	testTTL   = 3 * time.Second
	testGrace = time.Second
)

const leaseKey = "leader.s"

// world is a bucket with one lease, and contenders for it.
type world struct {
	*leasetest.World
	contenders []*contender

	// In order of the writes: who led last, and every leadership's terms.
	leader string
	terms  map[string]uint64
	top    uint64
	lossy  bool // what the bucket held can be lost, and registrations are asked for terms
}

// contender is a candidate of a world.
type contender struct {
	*leasetest.Run
	rules rules
	lead  bool // Lead runs
}

func newWorld(t interface{ Fatalf(string, ...any) }, contenders int, lossy bool) *world {
	first := uint64(0)
	if lossy {
		first = 1 << 20
	}
	w := &world{World: leasetest.NewWorld(t, first), terms: map[string]uint64{}, lossy: lossy}
	w.Account = w.account
	w.Settled = func(r *leasetest.Run) bool { w.returnLead(w.contender(r)); return false }
	for i := range contenders {
		s := settings{
			store: "s", self: registration.Owner{Name: fmt.Sprintf("n%d", i), ID: fmt.Sprintf("id%d", i)},
			ttl: testTTL, grace: testGrace, flushWait: flushWait,
		}
		if lossy {
			s.minTerm = func() uint64 { return w.top }
		}
		c := &contender{rules: newRules(s, leasetest.Steady)}
		c.Run = w.Add(leaseKey, func(in lease.Input) { w.follow(c, c.rules.Step(in, w.Now)) })
		w.contenders = append(w.contenders, c)
	}
	for _, c := range w.contenders {
		c.Step(lease.Input{Kind: lease.TimerDue})
	}
	return w
}

func leadership(r *LeaderRecord) string { return r.ID + r.Since.String() }

// entry is what is under the key; its revision is 0 where there is not even a marker.
func (w *world) entry() kv.Entry { return w.Entries[leaseKey] }

// set puts an entry under the key, whatever is there.
func (w *world) set(e kv.Entry) {
	e.Key = leaseKey
	w.Set(e)
}

func (w *world) contender(r *leasetest.Run) *contender {
	for _, c := range w.contenders {
		if c.Run == r {
			return c
		}
	}
	return nil
}

// follow does what a contender's rules want done, and checks what must always be true.
func (w *world) follow(c *contender, fx effects) {
	if fx.Elected {
		if c.lead {
			w.T.Fatalf("%s leads twice at once", c.rules.self.ID)
		}
		c.lead = true
	}
	w.Follow(c.Run, &fx.Effects, fx.Done)
	if c.rules.leading && c.lead {
		if used, written := c.rules.held.Term, w.terms[leadership(&c.rules.held)]; used > written {
			w.T.Fatalf("%s uses term %d, and nothing above %d was written", c.rules.self.ID, used, written)
		}
	}
	if fx.Done && c.lead {
		w.T.Fatalf("done while Lead runs")
	}
	holders := 0
	for _, c := range w.contenders {
		if c.rules.leading && c.rules.holds() && c.rules.lease.Revision == w.entry().Revision {
			holders++
		}
	}
	if holders > 1 {
		w.T.Fatalf("%d hold the latest revision", holders)
	}
}

// account checks that terms grow with each leadership, in the order of the writes. A write that finds no
// lease of its own leadership wins, and may use its revision as term.
func (w *world) account(write *kv.Write, over kv.Entry, revision uint64) {
	record, err := decodeLeader("s", write.Data)
	if err != nil {
		w.T.Fatalf("%v", err)
	}
	before, err := decodeLeader("s", over.Data)
	term, who := record.Term, leadership(&record)
	if err != nil || !before.same(&record) {
		term = max(term, revision)
	}
	if who != w.leader && term <= w.top || term < w.terms[who] {
		w.T.Fatalf("revision %d: %s has term %d after term %d of %s", revision, who, term, w.top, w.leader)
	}
	w.leader, w.terms[who], w.top = who, term, max(w.top, term)
}

// returnLead lets a Lead end whose context has ended.
func (w *world) returnLead(c *contender) {
	if c.lead && (!c.rules.leading || c.rules.stopping) {
		c.lead = false
		w.follow(c, c.rules.leadReturned(w.Now))
	}
}

// leaders are those who believe that they lead.
func (w *world) leaders() (leaders []*contender) {
	for _, p := range w.contenders {
		if p.rules.leading {
			leaders = append(leaders, p)
		}
	}
	return leaders
}

func (w *world) theLeader() *contender {
	leaders := w.leaders()
	if len(leaders) != 1 {
		w.T.Fatalf("%d lead", len(leaders))
	}
	return leaders[0]
}

func TestWhateverHappensOneLeadsAndTermsGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(1, 4).Draw(t, "contenders"), rapid.Bool().Draw(t, "lossy"))
		w.Terms = rapid.Bool().Draw(t, "markers say the term")
		awake := func(t *rapid.T) *contender { return w.contender(w.Awake(t)) }
		actions := w.Actions([]string{leaseKey})
		actions["return"] = func(t *rapid.T) { w.returnLead(awake(t)) }
		actions["give up"] = func(t *rapid.T) {
			if c := awake(t); c.lead {
				c.lead = false
				w.follow(c, c.rules.leadReturned(w.Now))
			}
		}
		actions["renew"] = func(t *rapid.T) {
			if c := awake(t); c.rules.leading {
				var u update
				if w.lossy {
					u.term = rapid.Uint64Range(0, 1000).Draw(t, "over")
				}
				w.follow(c, c.rules.renew(u, w.Now))
			}
		}
		if purge := actions["purge"]; w.lossy {
			actions["purge"] = func(t *rapid.T) {
				// Terms that are ahead of the bucket's revisions are safe from a write that has overtaken a
				// purge only by luck.
				w.ForgetLate()
				if w.Writing() {
					t.Skip("a write is on its way")
				}
				purge(t)
			}
		} else {
			delete(actions, "bucket lost")
		}
		t.Repeat(actions)
		w.Recover()
		// A candidate can be at the beginning of its TTL of silence, and the only one, and have resigned.
		w.Calm(2*testTTL + 2*testGrace)
		first := w.theLeader()
		w.Calm(5 * testTTL)
		if w.theLeader() != first || !first.rules.holds() || first.rules.held != first.rules.mine {
			t.Fatalf("the leader changed without a reason")
		}
		for _, c := range w.contenders {
			if c.rules.lease.State != lease.Present || c.rules.lease.Record.ID != first.rules.self.ID {
				t.Fatalf("%s does not know who leads", c.rules.self.ID)
			}
		}
	})
}

func TestSilentLeaderIsReplacedAfterTheTTL(t *testing.T) {
	w := newWorld(t, 3, false)
	w.Calm(10 * testTTL)
	old := w.theLeader()
	old.Paused = true
	renewed := w.Written[leaseKey]
	w.Calm(testTTL - time.Millisecond - w.Now.Sub(renewed))
	if w.Written[leaseKey] != renewed {
		t.Fatalf("replaced after %v", w.Written[leaseKey].Sub(renewed))
	}
	w.Calm(2 * time.Millisecond)
	if took := w.Written[leaseKey].Sub(renewed); took != testTTL {
		t.Errorf("replaced after %v", took)
	}
	var next *contender
	for _, p := range w.leaders() {
		if p != old {
			next = p
		}
	}
	if next == nil || next.rules.before.ID != old.rules.self.ID || next.rules.vacancy != VacantExpired || next.rules.held.Term <= old.rules.held.Term {
		t.Fatalf("next %+v", next)
	}
	old.Paused = false
	w.Calm(0)
	if w.theLeader() != next {
		t.Error("the old leader goes on")
	}
}

func TestLeaderThatCouldNotRenewHasTheGraceToDoSo(t *testing.T) {
	for _, away := range []time.Duration{testTTL / 2, testTTL, 2 * testTTL, 20 * testTTL} {
		w := newWorld(t, 3, false)
		w.Calm(testTTL)
		leader := w.theLeader()
		term := leader.rules.held.Term
		w.Up = false
		w.Calm(away)
		// Its last try is still under way, and will fail.
		leader.Paused, w.Up = true, true
		w.Calm(testGrace - time.Millisecond)
		leader.Paused = false
		w.Calm(testTTL)
		if w.theLeader() != leader {
			t.Errorf("replaced after JetStream was away for %v", away)
		}
		if away < testTTL && leader.rules.held.Term != term {
			t.Errorf("the term is %d and was %d", leader.rules.held.Term, term)
		}
	}
}

func TestLeaseThatVanishedIsWrittenAgainAtOnce(t *testing.T) {
	for name, vanish := range map[string]func(*world){
		"expired": func(w *world) { w.set(kv.Entry{Operation: kv.Expired}) },
		"deleted": func(w *world) { w.set(kv.Entry{Operation: kv.Deleted}) },
		"garbage": func(w *world) { w.set(kv.Entry{Data: []byte("{}")}) },
		"purged": func(w *world) {
			w.Purge()
		},
		"lost": func(w *world) {
			w.Replace(0)
		},
	} {
		w := newWorld(t, 1, false)
		w.Calm(testTTL)
		term := w.theLeader().rules.held.Term
		vanish(w)
		w.Calm(0)
		if l := w.theLeader(); !l.rules.holds() || w.entry().Revision == 0 || w.entry().Operation != kv.Put || l.rules.held.Term < term {
			t.Errorf("%s: holds %v, entry %+v, term %d", name, l.rules.holds(), w.entry(), l.rules.held.Term)
		}
	}
}

func TestLeaseWrittenAgainHasATermAboveTheHighestKnown(t *testing.T) {
	w := newWorld(t, 1, true)
	w.Calm(testTTL)
	w.top += 1000 // as registrations say, of a leader that the bucket forgot
	known := w.top
	w.Purge()
	w.Calm(0)
	if l := w.theLeader(); !l.rules.holds() || l.rules.held.Term <= known {
		t.Errorf("term %d, where %d is known", l.rules.held.Term, known)
	}
}

func TestExpiryIsBelievedAfterTheGraceAndDeletionAtOnce(t *testing.T) {
	for operation, want := range map[kv.Operation]time.Duration{kv.Expired: testGrace, kv.Deleted: 0} {
		w := newWorld(t, 2, false)
		w.Calm(testTTL)
		old := w.theLeader()
		old.Paused = true
		at := w.Now
		w.set(kv.Entry{Operation: operation})
		w.Calm(2 * testGrace)
		if len(w.leaders()) != 2 {
			t.Fatalf("%s: nobody took over", operation)
		}
		for _, p := range w.leaders() {
			if took := p.rules.held.Since.Sub(at); p != old && took != want {
				t.Errorf("%s: taken over after %v, want %v", operation, took, want)
			}
		}
	}
}

func TestLostAcknowledgementIsNoLostElection(t *testing.T) {
	w := newWorld(t, 1, false)
	p := w.contenders[0]
	w.Serve(p.Run)
	w.Finish(p.Run, false) // nothing is there
	w.Serve(p.Run)
	w.Finish(p.Run, true)
	for w.Feed(p.Run) {
	}
	if !p.rules.leading || p.rules.held.Term != 1 || p.rules.vacancy != VacantFirst {
		t.Errorf("leading %v, %+v", p.rules.leading, p.rules.held)
	}
	w.Calm(testTTL)
	// The same with a renewal, found by the conflict.
	w.Calm(p.Next.Sub(w.Now) - 1)
	w.Now = p.Next
	w.Wake(p.Run)
	w.Serve(p.Run)
	w.Finish(p.Run, true)
	w.Now = p.Next
	w.Wake(p.Run)
	w.Serve(p.Run)
	w.Finish(p.Run, false) // a conflict
	w.Calm(0)
	if w.theLeader() != p || len(w.terms) != 1 {
		t.Errorf("%v", w.terms)
	}
}

// renewing makes the only candidate write, and leaves that on its way.
func renewing(t *testing.T) (*world, *contender) {
	w := newWorld(t, 1, false)
	w.Calm(testTTL)
	p := w.theLeader()
	w.Now = p.Next
	w.Wake(p.Run)
	if p.Request == nil {
		t.Fatal("no renewal")
	}
	return w, p
}

func TestConflictWithItsOwnRecordIsFoundOutWithoutTheFeed(t *testing.T) {
	w, p := renewing(t)
	w.Serve(p.Run)
	w.Finish(p.Run, true)
	w.Now = p.Next
	w.Wake(p.Run)
	for range 3 { // the conflict, a read, the renewal
		w.Serve(p.Run)
		w.Finish(p.Run, false)
	}
	if w.theLeader() != p || p.rules.lease.Revision != w.Revision || p.Request != nil {
		t.Errorf("at %d of %d", p.rules.lease.Revision, w.Revision)
	}
}

// overtaken lets somebody else write a lease.
func (w *world) overtaken() {
	w.set(kv.Entry{Data: []byte(`{"store":"s","leader":"x","id":"other","term":1000,"ttl_ms":3000}`)})
}

func TestDeposedLeaderWaitsForItsLeadBeforeItContends(t *testing.T) {
	w := newWorld(t, 1, false)
	w.Calm(testTTL)
	p := w.theLeader()
	w.overtaken()
	w.set(kv.Entry{Operation: kv.Deleted})
	for w.Feed(p.Run) {
	}
	if p.rules.leading || p.Request != nil {
		t.Fatalf("leading %v, request %+v", p.rules.leading, p.Request)
	}
	w.Calm(0)
	if l := w.theLeader(); l.rules.held.Term <= 1000 || l.rules.before.ID != "other" || l.rules.vacancy != VacantResigned {
		t.Errorf("%+v after %+v, %s", l.rules.held, l.rules.before, l.rules.vacancy)
	}
}

func TestDeletionFoundAfterALongPauseEndsTheLeadership(t *testing.T) {
	for pause, want := range map[time.Duration]int{testTTL / 2: 1, 2 * testTTL: 2} {
		w := newWorld(t, 1, false)
		w.Calm(testTTL)
		p := w.theLeader()
		p.Paused = true
		w.Calm(pause)
		w.set(kv.Entry{Operation: kv.Deleted})
		p.Paused = false
		w.Calm(testTTL)
		if w.theLeader() != p || len(w.terms) != want {
			t.Errorf("after %v: %d leaderships, want %d", pause, len(w.terms), want)
		}
	}
}

func TestRenewalAcknowledgedAfterTheDepositionLeadsNobody(t *testing.T) {
	w, p := renewing(t)
	w.Now = w.Now.Add(2 * testTTL)
	w.set(kv.Entry{Operation: kv.Deleted})
	p.Request.Write.Revision = w.Revision // as a lease written again over a marker, of which a later one is heard first
	w.Feed(p.Run)
	if p.rules.leading {
		t.Fatal("it still leads")
	}
	w.Serve(p.Run)
	w.Finish(p.Run, false)
	if p.rules.leading {
		t.Fatal("it leads again by a write from before")
	}
	w.Calm(0)
	if w.theLeader() != p || len(w.terms) != 2 {
		t.Errorf("%d leaderships", len(w.terms))
	}
}

func TestGraceBeginsAnewWhereJetStreamWentAwayInIt(t *testing.T) {
	w := newWorld(t, 2, false)
	w.Calm(testTTL)
	leader := w.theLeader()
	leader.Paused = true
	w.Calm(testTTL - testGrace/2 - w.Now.Sub(w.Written[leaseKey])) // it was asked, and half of the grace is over
	w.Up = false
	w.Calm(testGrace) // not so long that the bucket expires it
	w.Up = true
	w.Calm(testGrace - time.Millisecond)
	leader.Paused = false
	w.Calm(testTTL)
	if w.theLeader() != leader {
		t.Error("replaced without the whole grace")
	}
}

func TestAnswerThatIsOlderThanTheFeedIsNotTaken(t *testing.T) {
	w := newWorld(t, 1, false)
	p := w.contenders[0]
	w.overtaken()
	w.Serve(p.Run)
	w.Now = w.Now.Add(time.Millisecond)
	w.overtaken()
	for w.Feed(p.Run) {
	}
	w.Finish(p.Run, false)
	if p.rules.lease.Revision != w.Revision {
		t.Errorf("at %d of %d", p.rules.lease.Revision, w.Revision)
	}
}

func TestStoppedLeaderRenewsUntilItsWorkIsDone(t *testing.T) {
	w := newWorld(t, 2, false)
	w.Calm(testTTL)
	old := w.theLeader()
	w.follow(old, old.rules.stop(w.Now))
	for end := w.Now.Add(2 * testTTL); w.Now.Before(end); {
		w.Now = w.Now.Add(100 * time.Millisecond)
		for _, p := range w.contenders {
			w.Wake(p.Run)
			w.Serve(p.Run)
			w.Finish(p.Run, false)
			for w.Feed(p.Run) {
			}
		}
	}
	if w.theLeader() != old {
		t.Fatal("replaced while it was at work")
	}
	w.Calm(0) // it returns
	if next := w.theLeader(); next == old || next.rules.vacancy != VacantResigned || next.rules.before.ID != old.rules.self.ID || !old.Over {
		t.Errorf("next %+v", next.rules)
	}
}

func TestStoppedLeaderThatNeverReturnsIsReplaced(t *testing.T) {
	w := newWorld(t, 2, false)
	w.Calm(testTTL)
	old := w.theLeader()
	w.follow(old, old.rules.stop(w.Now))
	for end := w.Now.Add(old.rules.flushWait + 2*testTTL); w.Now.Before(end); {
		w.Now = w.Now.Add(100 * time.Millisecond)
		for _, p := range w.contenders {
			w.Wake(p.Run)
			w.Serve(p.Run)
			w.Finish(p.Run, false)
			for w.Feed(p.Run) {
			}
		}
	}
	if w.theLeader() == old || !old.lead {
		t.Error("the store has no leader that works")
	}
}

func TestHigherTermIsTakenOver(t *testing.T) {
	w := newWorld(t, 2, false)
	w.Calm(testTTL)
	old := w.theLeader()
	w.follow(old, old.rules.renew(update{term: 1 << 40}, w.Now))
	w.Calm(0)
	if got := old.rules.held.Term; got != 1<<40+1 {
		t.Errorf("raised to %d", got)
	}
	w.follow(old, old.rules.stop(w.Now))
	w.Calm(0)
	if got := w.theLeader().rules.held.Term; got != 1<<40+2 {
		t.Errorf("the next has %d", got)
	}
	for _, last := range []uint64{event.MaxTerm, event.MaxTerm - 1, 1<<64 - 1} {
		if above(last) != event.MaxTerm {
			t.Errorf("above %d comes %d", last, above(last))
		}
	}
}

func TestLeaseAsItStandsInTheBucket(t *testing.T) {
	r := LeaderRecord{Store: "s", Leader: "n", ID: "i", Host: "h", PID: 7, Term: event.MaxTerm, Epoch: "e", Since: time.Date(2026, 11, 23, 7, 0, 0, 123, time.UTC), TTLMillis: 3000}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"store":"s","leader":"n","id":"i","host":"h","pid":7,"term":9223372036854775807,"epoch":"e","since":"2026-11-23T07:00:00.000000123Z","ttl_ms":3000}`; string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
	if back, err := decodeLeader("s", data); err != nil || back != r {
		t.Errorf("back %+v, %v", back, err)
	}
	for _, bad := range []string{"", "null", "[]", "{}", `{"store":"s"}`, `{"store":"t","id":"i"}`, `{"store":"s","id":"i","term":-1}`, `{"store":"s","id":"i","term":9223372036854775808}`} {
		if _, err := decodeLeader("s", []byte(bad)); !errors.Is(err, ErrBadLease) || !strings.Contains(err.Error(), "store s") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if LeaderKey("green house:1") != "leader.green=20house=3A1" {
		t.Errorf("key %s", LeaderKey("green house:1"))
	}
	for ms, want := range map[int64]time.Duration{0: testTTL, -1: testTTL, 1 << 62: testTTL, 500: 500 * time.Millisecond} {
		if got := (&LeaderRecord{TTLMillis: ms}).ttl(testTTL); got != want {
			t.Errorf("%d ms: %v", ms, got)
		}
	}
}
