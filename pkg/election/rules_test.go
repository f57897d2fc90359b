package election

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/registration"
)

const (
	testTTL   = 3 * time.Second
	testGrace = time.Second
)

// bench is a bucket with one key, and candidates whose requests and feeds are as slow and lossy as the test wants.
type bench struct {
	rt  interface{ Fatalf(string, ...any) }
	now time.Time
	up  bool // JetStream answers

	revision uint64 // of the bucket
	entry    *kv.Entry
	written  time.Time
	log      []lease.Input // what the feed shows
	zombies  []*request
	parties  []*party

	// In order of the writes: who led last, and every leadership's terms.
	leader string
	terms  map[string]uint64
	top    uint64
	lossy  bool // what the bucket held can be lost, and registrations are asked for terms
}

type party struct {
	rules   rules
	fed     int
	request *request
	next    time.Time
	paused  bool
	lead    bool
	gone    bool // Done
}

type request struct {
	write    *kv.Write // nil: a read
	wins     bool
	answered bool
	answer   lease.Input
}

func newBench(rt interface{ Fatalf(string, ...any) }, candidates int, lossy bool) *bench {
	b := &bench{rt: rt, now: time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC), up: true, terms: map[string]uint64{}, lossy: lossy}
	if lossy {
		b.revision = 1 << 20
	}
	for i := range candidates {
		p := &party{rules: rules{
			store: "s", self: registration.Owner{Name: fmt.Sprintf("n%d", i), ID: fmt.Sprintf("id%d", i)},
			ttl: testTTL, grace: testGrace, flushWait: 10 * time.Second, rand: func() float64 { return 0.5 },
		}}
		if lossy {
			p.rules.minTerm = func() uint64 { return b.top }
		}
		b.parties = append(b.parties, p)
	}
	for _, p := range b.parties {
		b.step(p, lease.Input{Kind: lease.TimerDue})
	}
	return b
}

func leadership(r *LeaderRecord) string { return r.ID + r.Since.String() }

func (b *bench) step(p *party, in lease.Input) effects { return b.follow(p, p.rules.Step(in, b.now)) }

func (b *bench) follow(p *party, fx effects) effects {
	p.next = fx.Next
	if fx.Elected {
		if p.lead {
			b.rt.Fatalf("%s leads twice at once", p.rules.self.ID)
		}
		p.lead = true
	}
	if fx.Read || fx.Write != nil {
		if p.request != nil || fx.Read && fx.Write != nil {
			b.rt.Fatalf("two requests at once")
		}
		p.request = &request{write: fx.Write, wins: p.rules.flight.wins}
	}
	if p.rules.leading && p.lead {
		if used, written := p.rules.held.Term, b.terms[leadership(&p.rules.held)]; used > written {
			b.rt.Fatalf("%s uses term %d, and nothing above %d was written", p.rules.self.ID, used, written)
		}
	}
	p.gone = p.gone || fx.Done
	if fx.Done && (p.lead || p.request != nil) {
		b.rt.Fatalf("done while something is under way")
	}
	holders := 0
	for _, p := range b.parties {
		if p.rules.leading && p.rules.holds() && b.entry != nil && p.rules.view.Revision == b.entry.Revision {
			holders++
		}
	}
	if holders > 1 {
		b.rt.Fatalf("%d hold the latest revision", holders)
	}
	return fx
}

// put is the server's side of a write.
func (b *bench) put(w *kv.Write, wins bool) (uint64, error) {
	var last uint64
	if b.entry != nil {
		last = b.entry.Revision
	}
	if w.Revision != last {
		return 0, kv.ErrConflict
	}
	e := kv.Entry{Revision: b.revision + 1, Data: w.Data}
	if w.Data == nil {
		e.Operation = kv.Deleted
	} else {
		b.account(w, wins, e.Revision)
	}
	b.set(e)
	return e.Revision, nil
}

func (b *bench) set(e kv.Entry) {
	b.revision, b.entry, b.written = e.Revision, &e, b.now
	b.log = append(b.log, lease.Input{Kind: lease.EntryHeard, Entry: e})
}

// account checks that terms grow with each leadership, in the order of the writes.
func (b *bench) account(w *kv.Write, wins bool, revision uint64) {
	record, err := decodeLeader("s", w.Data)
	if err != nil {
		b.rt.Fatalf("%v", err)
	}
	term, who := record.Term, leadership(&record)
	if wins {
		term = max(term, revision)
	}
	if who != b.leader && term <= b.top || term < b.terms[who] {
		b.rt.Fatalf("revision %d: %s has term %d after term %d of %s", revision, who, term, b.top, b.leader)
	}
	b.leader, b.terms[who], b.top = who, term, max(b.top, term)
}

// serve lets the server do what a party asked for.
func (b *bench) serve(p *party) {
	r := p.request
	if r == nil || r.answered || !b.up {
		return
	}
	r.answered, r.answer = true, lease.Input{Kind: lease.Answered}
	switch {
	case r.write != nil:
		r.answer.Revision, r.answer.Err = b.put(r.write, r.wins)
	case b.entry != nil:
		r.answer.Entry, r.answer.Found = *b.entry, true
	}
}

// finish gives a party its answer; a lost one is a time-out, and its write may still come.
func (b *bench) finish(p *party, lost bool) {
	r := p.request
	if r == nil || !r.answered && !lost {
		return
	}
	p.request = nil
	answer := r.answer
	if lost {
		if !r.answered && r.write != nil && !b.lossy {
			b.zombies = append(b.zombies, r)
		}
		answer = lease.Input{Kind: lease.Answered, Err: kv.ErrNoAck}
	}
	b.step(p, answer)
}

func (b *bench) feed(p *party) bool {
	if p.fed == len(b.log) {
		return false
	}
	p.fed++
	b.step(p, b.log[p.fed-1])
	return true
}

func (b *bench) wake(p *party) {
	if !p.next.IsZero() && !b.now.Before(p.next) {
		b.step(p, lease.Input{Kind: lease.TimerDue})
	}
}

func (b *bench) expire() {
	if b.up && b.entry != nil && b.entry.Operation == kv.Put && b.now.Sub(b.written) >= lease.BucketTTL(testTTL) {
		b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Expired})
	}
}

// returnLead lets a Lead end whose context has ended.
func (b *bench) returnLead(p *party) {
	if p.lead && (!p.rules.leading || p.rules.stopping) {
		p.lead = false
		b.follow(p, p.rules.leadReturned(b.now))
	}
}

// calm lets d pass in which everything works at once, but for those that are paused.
func (b *bench) calm(d time.Duration) {
	end := b.now.Add(d)
	for {
		b.settle()
		next := end
		for _, p := range b.parties {
			if !p.paused && !p.next.IsZero() && p.next.Before(next) {
				next = p.next
			}
		}
		if !next.Before(end) {
			b.now = end
			b.settle()
			return
		}
		b.now = lease.Later(b.now, next)
		for _, p := range b.parties {
			if !p.paused {
				b.wake(p)
			}
		}
	}
}

func (b *bench) settle() {
	for busy := true; busy; {
		busy = false
		b.expire()
		for _, p := range b.parties {
			if p.paused {
				continue
			}
			if p.request != nil {
				busy = busy || b.up
				b.serve(p)
				b.finish(p, !b.up)
			}
			for b.feed(p) {
				busy = true
			}
			b.returnLead(p)
			busy = busy || p.request != nil && b.up
		}
	}
}

// writing reports whether a write is on its way to the server.
func (b *bench) writing() bool {
	for _, p := range b.parties {
		if p.request != nil && p.request.write != nil && !p.request.answered {
			return true
		}
	}
	return false
}

// leaders are those who believe that they lead.
func (b *bench) leaders() (leaders []*party) {
	for _, p := range b.parties {
		if p.rules.leading {
			leaders = append(leaders, p)
		}
	}
	return leaders
}

func (b *bench) theLeader() *party {
	leaders := b.leaders()
	if len(leaders) != 1 {
		b.rt.Fatalf("%d lead", len(leaders))
	}
	return leaders[0]
}

func TestWhateverHappensOneLeadsAndTermsGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(t, rapid.IntRange(1, 4).Draw(t, "candidates"), rapid.Bool().Draw(t, "lossy"))
		any := func() *party { return b.parties[rapid.IntRange(0, len(b.parties)-1).Draw(t, "party")] }
		awake := func() *party {
			p := any()
			if p.paused {
				t.Skip("paused")
			}
			return p
		}
		var lost uint64
		actions := map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				b.now = b.now.Add(time.Duration(rapid.IntRange(1, 1500).Draw(t, "ms")) * time.Millisecond)
				b.expire()
			},
			"wake":   func(*rapid.T) { b.wake(awake()) },
			"serve":  func(*rapid.T) { b.serve(any()) },
			"finish": func(*rapid.T) { b.finish(awake(), false) },
			"lose":   func(*rapid.T) { b.finish(awake(), true) },
			"feed":   func(*rapid.T) { b.feed(awake()) },
			"calm": func(t *rapid.T) {
				b.calm(time.Duration(rapid.IntRange(0, 5000).Draw(t, "calm ms")) * time.Millisecond)
			},
			"late write": func(*rapid.T) {
				if len(b.zombies) == 0 || !b.up {
					t.Skip("none")
				}
				late := b.zombies[0]
				b.zombies = b.zombies[1:]
				_, _ = b.put(late.write, late.wins) // nobody waits for the answer
			},
			"pause":     func(*rapid.T) { p := any(); p.paused = !p.paused },
			"jetstream": func(*rapid.T) { b.up = !b.up },
			"return":    func(*rapid.T) { b.returnLead(awake()) },
			"give up": func(*rapid.T) {
				if p := awake(); p.lead {
					p.lead = false
					b.follow(p, p.rules.leadReturned(b.now))
				}
			},
			"ask": func(t *rapid.T) {
				if p := awake(); p.rules.leading {
					var u update
					if b.lossy {
						u.term = rapid.Uint64Range(0, 1000).Draw(t, "over")
					}
					b.follow(p, p.rules.renew(u, b.now))
				}
			},
			"delete by hand": func(*rapid.T) {
				if b.entry != nil && b.up {
					b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Deleted})
				}
			},
			"lease.Garbage by hand": func(*rapid.T) {
				if b.up {
					b.set(kv.Entry{Revision: b.revision + 1, Data: []byte("?")})
				}
			},
			"purge": func(*rapid.T) {
				// Terms that are ahead of the bucket's revisions are safe from a write that has overtaken a purge only by luck.
				if b.up && !(b.lossy && b.writing()) {
					b.entry = nil
					b.log = append(b.log, lease.Input{Kind: lease.KeysTrimmed, Revision: b.revision + 1})
				}
			},
			"bucket lost": func(*rapid.T) {
				if !b.lossy {
					t.Skip("not here")
				}
				// Lower, and none that was there before: a revision of the old bucket that is by chance the lease's in the
				// new one is beyond any rule.
				lost++
				b.entry, b.revision = nil, 1<<20-lost*1000
				b.log = append(b.log, lease.Input{Kind: lease.BucketReplaced})
				for _, p := range b.parties {
					if p.request != nil && !p.request.answered {
						p.request.answered, p.request.answer = true, lease.Input{Kind: lease.Answered, Err: kv.ErrNoStream}
					}
				}
			},
		}
		t.Repeat(actions)
		b.up = true
		for _, p := range b.parties {
			p.paused = false
		}
		// A candidate can be at the beginning of its TTL of silence, and the only one, and have resigned.
		b.calm(2*testTTL + 2*testGrace)
		first := b.theLeader()
		b.calm(5 * testTTL)
		if b.theLeader() != first || !first.rules.holds() || first.rules.held != first.rules.mine {
			t.Fatalf("the leader changed without a reason")
		}
		for _, p := range b.parties {
			if p.rules.view.State != lease.Present || p.rules.view.record.ID != first.rules.self.ID {
				t.Fatalf("%s does not know who leads", p.rules.self.ID)
			}
		}
	})
}

func TestSilentLeaderIsReplacedAfterTheTTL(t *testing.T) {
	b := newBench(t, 3, false)
	b.calm(10 * testTTL)
	old := b.theLeader()
	old.paused = true
	renewed := b.written
	b.calm(testTTL - time.Millisecond - b.now.Sub(renewed))
	if b.written != renewed {
		t.Fatalf("replaced after %v", b.written.Sub(renewed))
	}
	b.calm(2 * time.Millisecond)
	if took := b.written.Sub(renewed); took != testTTL {
		t.Errorf("replaced after %v", took)
	}
	var next *party
	for _, p := range b.leaders() {
		if p != old {
			next = p
		}
	}
	if next == nil || next.rules.before.ID != old.rules.self.ID || next.rules.vacancy != VacantExpired || next.rules.held.Term <= old.rules.held.Term {
		t.Fatalf("next %+v", next)
	}
	old.paused = false
	b.calm(0)
	if b.theLeader() != next {
		t.Error("the old leader goes on")
	}
}

func TestLeaderThatCouldNotRenewHasTheGraceToDoSo(t *testing.T) {
	for _, away := range []time.Duration{testTTL / 2, testTTL, 2 * testTTL, 20 * testTTL} {
		b := newBench(t, 3, false)
		b.calm(testTTL)
		leader := b.theLeader()
		term := leader.rules.held.Term
		b.up = false
		b.calm(away)
		// Its last try is still under way, and will fail.
		leader.paused, b.up = true, true
		b.calm(testGrace - time.Millisecond)
		leader.paused = false
		b.calm(testTTL)
		if b.theLeader() != leader {
			t.Errorf("replaced after JetStream was away for %v", away)
		}
		if away < testTTL && leader.rules.held.Term != term {
			t.Errorf("the term is %d and was %d", leader.rules.held.Term, term)
		}
	}
}

func TestLeaseThatVanishedIsWrittenAgainAtOnce(t *testing.T) {
	for name, vanish := range map[string]func(*bench){
		"expired":       func(b *bench) { b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Expired}) },
		"deleted":       func(b *bench) { b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Deleted}) },
		"lease.Garbage": func(b *bench) { b.set(kv.Entry{Revision: b.revision + 1, Data: []byte("{}")}) },
		"purged": func(b *bench) {
			b.entry = nil
			b.log = append(b.log, lease.Input{Kind: lease.KeysTrimmed, Revision: b.revision + 1})
		},
		"lost": func(b *bench) {
			b.entry, b.revision = nil, 0
			b.log = append(b.log, lease.Input{Kind: lease.BucketReplaced})
		},
	} {
		b := newBench(t, 1, false)
		b.calm(testTTL)
		term := b.theLeader().rules.held.Term
		vanish(b)
		b.calm(0)
		if l := b.theLeader(); !l.rules.holds() || b.entry == nil || b.entry.Operation != kv.Put || l.rules.held.Term < term {
			t.Errorf("%s: holds %v, entry %+v, term %d", name, l.rules.holds(), b.entry, l.rules.held.Term)
		}
	}
}

func TestExpiryIsBelievedAfterTheGraceAndDeletionAtOnce(t *testing.T) {
	for operation, want := range map[kv.Operation]time.Duration{kv.Expired: testGrace, kv.Deleted: 0} {
		b := newBench(t, 2, false)
		b.calm(testTTL)
		old := b.theLeader()
		old.paused = true
		at := b.now
		b.set(kv.Entry{Revision: b.revision + 1, Operation: operation})
		b.calm(2 * testGrace)
		if len(b.leaders()) != 2 {
			t.Fatalf("%s: nobody took over", operation)
		}
		for _, p := range b.leaders() {
			if took := p.rules.held.Since.Sub(at); p != old && took != want {
				t.Errorf("%s: taken over after %v, want %v", operation, took, want)
			}
		}
	}
}

func TestLostAcknowledgementIsNoLostElection(t *testing.T) {
	b := newBench(t, 1, false)
	p := b.parties[0]
	b.serve(p)
	b.finish(p, false) // nothing is there
	b.serve(p)
	b.finish(p, true)
	for b.feed(p) {
	}
	if !p.rules.leading || p.rules.held.Term != 1 || p.rules.vacancy != VacantFirst {
		t.Errorf("leading %v, %+v", p.rules.leading, p.rules.held)
	}
	b.calm(testTTL)
	// The same with a renewal, found by the conflict.
	b.calm(p.next.Sub(b.now) - 1)
	b.now = p.next
	b.wake(p)
	b.serve(p)
	b.finish(p, true)
	b.now = p.next
	b.wake(p)
	b.serve(p)
	b.finish(p, false) // a conflict
	b.calm(0)
	if b.theLeader() != p || len(b.terms) != 1 {
		t.Errorf("%v", b.terms)
	}
}

// renewal makes the only candidate write, and leaves that on its way.
func renewal(t *testing.T) (*bench, *party) {
	b := newBench(t, 1, false)
	b.calm(testTTL)
	p := b.theLeader()
	b.now = p.next
	b.wake(p)
	if p.request == nil {
		t.Fatal("no renewal")
	}
	return b, p
}

func TestConflictWithItsOwnRecordIsFoundOutWithoutTheFeed(t *testing.T) {
	b, p := renewal(t)
	b.serve(p)
	b.finish(p, true)
	b.now = p.next
	b.wake(p)
	for range 3 { // the conflict, a read, the renewal
		b.serve(p)
		b.finish(p, false)
	}
	if b.theLeader() != p || p.rules.view.Revision != b.revision || p.request != nil {
		t.Errorf("at %d of %d", p.rules.view.Revision, b.revision)
	}
}

// overtaken lets somebody else write a lease.
func (b *bench) overtaken() {
	b.set(kv.Entry{Revision: b.revision + 1, Data: []byte(`{"store":"s","leader":"x","id":"other","term":1000,"ttl_ms":3000}`)})
}

func TestDeposedLeaderWaitsForItsLeadBeforeItContends(t *testing.T) {
	b := newBench(t, 1, false)
	b.calm(testTTL)
	p := b.theLeader()
	b.overtaken()
	b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Deleted})
	for b.feed(p) {
	}
	if p.rules.leading || p.request != nil {
		t.Fatalf("leading %v, request %+v", p.rules.leading, p.request)
	}
	b.calm(0)
	if l := b.theLeader(); l.rules.held.Term <= 1000 || l.rules.before.ID != "other" || l.rules.vacancy != VacantResigned {
		t.Errorf("%+v after %+v, %s", l.rules.held, l.rules.before, l.rules.vacancy)
	}
}

func TestDeletionFoundAfterALongPauseEndsTheLeadership(t *testing.T) {
	for pause, want := range map[time.Duration]int{testTTL / 2: 1, 2 * testTTL: 2} {
		b := newBench(t, 1, false)
		b.calm(testTTL)
		p := b.theLeader()
		p.paused = true
		b.calm(pause)
		b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Deleted})
		p.paused = false
		b.calm(testTTL)
		if b.theLeader() != p || len(b.terms) != want {
			t.Errorf("after %v: %d leaderships, want %d", pause, len(b.terms), want)
		}
	}
}

func TestRenewalAcknowledgedAfterTheDepositionLeadsNobody(t *testing.T) {
	b, p := renewal(t)
	b.now = b.now.Add(2 * testTTL)
	b.set(kv.Entry{Revision: b.revision + 1, Operation: kv.Deleted})
	p.request.write.Revision = b.revision // as a lease written again over a marker, of which a later one is heard first
	p.request.wins = true
	b.feed(p)
	if p.rules.leading {
		t.Fatal("it still leads")
	}
	b.serve(p)
	b.finish(p, false)
	if p.rules.leading {
		t.Fatal("it leads again by a write from before")
	}
	b.calm(0)
	if b.theLeader() != p || len(b.terms) != 2 {
		t.Errorf("%d leaderships", len(b.terms))
	}
}

func TestGraceBeginsAnewWhereJetStreamWentAwayInIt(t *testing.T) {
	b := newBench(t, 2, false)
	b.calm(testTTL)
	leader := b.theLeader()
	leader.paused = true
	b.calm(testTTL - testGrace/2 - b.now.Sub(b.written)) // it was asked, and half of the grace is over
	b.up = false
	b.calm(testGrace) // not so long that the bucket expires it
	b.up = true
	b.calm(testGrace - time.Millisecond)
	leader.paused = false
	b.calm(testTTL)
	if b.theLeader() != leader {
		t.Error("replaced without the whole grace")
	}
}

func TestAnswerThatIsOlderThanTheFeedIsNotTaken(t *testing.T) {
	b := newBench(t, 1, false)
	p := b.parties[0]
	b.overtaken()
	b.serve(p)
	b.now = b.now.Add(time.Millisecond)
	b.overtaken()
	for b.feed(p) {
	}
	b.finish(p, false)
	if p.rules.view.Revision != b.revision {
		t.Errorf("at %d of %d", p.rules.view.Revision, b.revision)
	}
}

func TestStoppedLeaderRenewsUntilItsWorkIsDone(t *testing.T) {
	b := newBench(t, 2, false)
	b.calm(testTTL)
	old := b.theLeader()
	b.follow(old, old.rules.stop(b.now))
	for end := b.now.Add(2 * testTTL); b.now.Before(end); {
		b.now = b.now.Add(100 * time.Millisecond)
		for _, p := range b.parties {
			b.wake(p)
			b.serve(p)
			b.finish(p, false)
			for b.feed(p) {
			}
		}
	}
	if b.theLeader() != old {
		t.Fatal("replaced while it was at work")
	}
	b.calm(0) // it returns
	if next := b.theLeader(); next == old || next.rules.vacancy != VacantResigned || next.rules.before.ID != old.rules.self.ID || !old.gone {
		t.Errorf("next %+v", next.rules)
	}
}

func TestStoppedLeaderThatNeverReturnsIsReplaced(t *testing.T) {
	b := newBench(t, 2, false)
	b.calm(testTTL)
	old := b.theLeader()
	b.follow(old, old.rules.stop(b.now))
	for end := b.now.Add(old.rules.flushWait + 2*testTTL); b.now.Before(end); {
		b.now = b.now.Add(100 * time.Millisecond)
		for _, p := range b.parties {
			b.wake(p)
			b.serve(p)
			b.finish(p, false)
			for b.feed(p) {
			}
		}
	}
	if b.theLeader() == old || !old.lead {
		t.Error("the store has no leader that works")
	}
}

func TestHigherTermIsTakenOver(t *testing.T) {
	b := newBench(t, 2, false)
	b.calm(testTTL)
	old := b.theLeader()
	b.follow(old, old.rules.renew(update{term: 1 << 40}, b.now))
	b.calm(0)
	if got := old.rules.held.Term; got != 1<<40+1 {
		t.Errorf("raised to %d", got)
	}
	b.follow(old, old.rules.stop(b.now))
	b.calm(0)
	if got := b.theLeader().rules.held.Term; got != 1<<40+2 {
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
