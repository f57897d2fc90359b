package emitter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// catchingUp is a leader with its passes, windows and tail, a stream that it reads when the test says so,
// and a proxy for each of its subscriptions. Only NATS is not there.
type catchingUp struct {
	reader  // what is not asked for here
	t       *rapid.T
	leader  *leader
	stream  []feed.Message          // what is stored, the sequence less one is the index; without subject: gone
	removed map[uint64]feed.Message // from its beginning, by a limit
	heard   int                     // how much of it the feed has shown
	reads   map[context.Context]chan read
	proxies map[string]*proxyEnd // by deliver subject
	order   []*proxyEnd
}

type read struct {
	page []feed.Message
	err  error
}

// proxyEnd is a proxy of the same process. What is on its way to it is lost while it is deaf.
type proxyEnd struct {
	sub      *sub
	receiver delivery.Receiver
	incoming []event.Handoff
	took     []uint64
	acked    uint64
	first    uint64 // that was sent to it
	runs     int
	allowed  bool      // to go over a gap at which it held
	told     event.Gap // all that it was said to have lost
	gone     bool      // the hand-over fails: it can't be reached
	deaf     bool
}

func newCatchingUp(t *rapid.T) *catchingUp {
	w := &catchingUp{t: t, reads: map[context.Context]chan read{}, removed: map[uint64]feed.Message{}, proxies: map[string]*proxyEnd{}}
	never := time.Now().Add(1000 * time.Hour)
	w.leader = newLeader(outside{store: "s", lease: steadyLease{}, local: w, metrics: NewMetrics(nil), log: slog.New(slog.DiscardHandler)})
	w.leader.subs.outbox.term, w.leader.reader, w.leader.catchUp.tail, w.leader.subs.sessions.replies = newTerm(7), w, newSegment(0), "r"
	w.leader.checkpoints.wroteAt, w.leader.sweptAt, w.leader.reporter.told.at = never, never, never
	return w
}

// steadyLease is a lease that nobody disputes.
type steadyLease struct{ leadership }

func (steadyLease) Term() uint64 { return 7 }

func (w *catchingUp) Prefix() string { return "near." }

func (w *catchingUp) Offer(h event.Handoff) bool {
	p := w.proxies[h.Message.Subject]
	if p.gone {
		return false
	}
	if p.first == 0 {
		p.first = h.Sequence
	}
	if !p.deaf {
		p.incoming = append(p.incoming, h)
	}
	return true
}

func (w *catchingUp) Read(ctx context.Context, _ uint64, _, _ int) ([]feed.Message, error) {
	answer := make(chan read)
	w.leader.inbox.call(func() { w.reads[ctx] = answer })
	select {
	case r := <-answer:
		return r.page, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *catchingUp) AheadReader() *feed.AheadReader { return nil }

func (w *catchingUp) BulkReader(*slog.Logger) *feed.BulkReader { panic("no pass is so long here") }

func (w *catchingUp) First(context.Context) (uint64, error) {
	for i := range w.stream {
		if w.stream[i].Subject != "" {
			return uint64(i + 1), nil
		}
	}
	return uint64(len(w.stream) + 1), nil
}

func (w *catchingUp) Last(context.Context) (uint64, error) { return uint64(len(w.stream)), nil }

// turn lets the leader do all there is to do.
func (w *catchingUp) turn() {
	for range 2 { // what it began to read, and is then told
		w.leader.turn(w.t.Context())
		synctest.Wait()
	}
	w.check()
}

// data are shared: a big event counts as much as it is long, and costs nothing. The tail holds 64 of the
// middle ones.
var data = make([]byte, 1<<20)

func (w *catchingUp) append(typ string, size int) {
	sequence := uint64(len(w.stream) + 1)
	m := feed.Message{Subject: event.Subject("s", "g", typ), Sequence: sequence, Header: nats.Header{}, Data: data[:size]}
	if typ == "marker" {
		m.Header["Nats-Marker-Reason"] = []string{"MaxAge"}
	}
	w.stream = append(w.stream, m)
}

// stored are up to n messages from a sequence on, as they come: each time with headers of their own.
func (w *catchingUp) stored(from uint64, n int) (page []feed.Message) {
	for i := from - 1; i < uint64(len(w.stream)) && len(page) < n; i++ {
		if m := w.stream[i]; m.Subject != "" {
			h := nats.Header{"Nats-Msg-Id": {"m"}}
			for k, v := range m.Header {
				h[k] = v
			}
			m.Header = h
			page = append(page, m)
		}
	}
	return page
}

// hear lets the feed show the next n messages.
func (w *catchingUp) hear(n int) {
	page := w.stored(uint64(w.heard+1), n)
	for _, m := range page {
		w.leader.inbox.stream <- streamItem{kind: isMessage, message: m}
		w.heard = int(m.Sequence)
	}
	w.turn()
}

// subscribe registers a subscription, whose proxy took nothing yet.
func (w *catchingUp) subscribe(typ subscription.Type, selector string, start int64, onGap subscription.OnGap) {
	s := subscription.Subscription{Store: "s", Type: typ, Selector: selector, Name: fmt.Sprint("n", len(w.order)), StartVersion: start, OnGap: onGap}
	p := &proxyEnd{}
	w.order = append(w.order, p)
	w.register(p, s, registration.Initial)
	p.sub = w.leader.subs.byKey[s.Key()]
	w.leader.checkpoints.unread = nil
	w.leader.loaded([]loaded{{sub: p.sub}}, w.leader.history.resets)
	w.turn()
}

func (w *catchingUp) register(p *proxyEnd, s subscription.Subscription, cause registration.Cause) {
	p.runs++
	subject := fmt.Sprintf("near.%s.%d", s.Name, p.runs)
	w.proxies[subject] = p
	w.leader.subs.entry(&record{registration.Registration{
		Subscription: s, Owner: registration.Owner{Name: "p", ID: "p"}, Incarnation: uint64(p.runs), DeliverSubject: subject, Cause: cause,
	}, uint64(p.runs)}, time.Now())
}

// restart is an operator's. What the proxy took and did not accept it gets once more.
func (w *catchingUp) restart(p *proxyEnd) {
	p.listen()
	p.allowed = p.allowed || p.sub.loss.holds
	p.receiver, p.incoming = delivery.Receiver{}, nil
	p.took = slices.DeleteFunc(p.took, func(sequence uint64) bool { return sequence > p.acked })
	w.register(p, p.sub.registration.Subscription, registration.Manual)
	w.turn()
}

// answer is what a proxy says in the session that it was reached in.
func (w *catchingUp) answer(reply string, a event.Answer) {
	w.leader.inbox.answer(&nats.Msg{Subject: reply, Data: a.Encode()})
}

// take lets a proxy receive up to n of what is on its way to it, and accept what it took.
func (w *catchingUp) take(p *proxyEnd, n int, accept bool) {
	for ; n > 0 && len(p.incoming) > 0; n-- {
		h := p.incoming[0]
		p.incoming = p.incoming[1:]
		if h.Sequence == 0 {
			p.receiver.Answer(h.Term, "e")
			if p.acked > 0 {
				w.answer(h.Message.Reply, event.Answer{Kind: event.Acked, Number: p.acked})
			}
			w.answer(h.Message.Reply, event.Answer{Kind: event.Missing, Number: p.receiver.Last})
			continue
		}
		switch p.receiver.Receive(h.Term, h.Sequence, h.Prev) {
		case delivery.Forward:
			p.took = append(p.took, h.Sequence)
		case delivery.Gap:
			w.answer(h.Message.Reply, event.Answer{Kind: event.Missing, Number: p.receiver.Last})
		default:
		}
	}
	if accept && p.receiver.Last > p.acked {
		p.acked = p.receiver.Last
		w.answer(fmt.Sprintf("r.%d.%d", p.sub.id, p.sub.number), event.Answer{Kind: event.Acked, Number: p.acked})
	}
	w.turn()
}

// page answers the read of a pass, if there is one.
func (w *catchingUp) page(place, n int, err error) {
	passes := slices.DeleteFunc(slices.Clone(w.leader.catchUp.passes), func(t *segment) bool { return w.reads[t.ctx] == nil })
	if len(passes) == 0 {
		return
	}
	t := passes[place%len(passes)]
	r := read{w.stored(t.high+1, n), err}
	switch {
	case len(r.page) == 0 && err == nil:
		r.err = feed.ErrNothing
	case errors.Is(err, feed.ErrNothing) && t.nothing == believeNothing-1:
		r.err = nil // a leader that was deposed does not say so for ever
	case err != nil:
		r.page = nil
	}
	answer := w.reads[t.ctx]
	delete(w.reads, t.ctx)
	answer <- r
	synctest.Wait()
	w.turn()
}

// pass lets time pass.
func (w *catchingUp) pass(d time.Duration) {
	time.Sleep(d)
	w.leader.tick(w.t.Context(), time.Now())
	w.turn()
}

func (w *catchingUp) wants(p *proxyEnd, m *feed.Message) bool {
	r := p.sub.registration
	typ := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	return m.Subject != "" && m.Header["Nats-Marker-Reason"] == nil && int64(m.Sequence) >= r.StartVersion && (r.Type == subscription.ByStream || typ == r.Selector)
}

// trimmed is the feed's word where the stream begins.
func (w *catchingUp) trimmed(first int) {
	if uint64(first) > w.leader.catchUp.first {
		w.leader.inbox.setFirst(uint64(first))
	}
	if first > w.heard+1 {
		w.heard = first - 1
		w.leader.inbox.stream <- streamItem{kind: isTrimmed, sequence: uint64(first)}
	}
	w.turn()
}

// listen keeps what is said to be lost, all of it together.
func (p *proxyEnd) listen() {
	if g := p.sub.loss.gap; g != nil {
		if p.told.From == 0 || g.From < p.told.From {
			p.told.From = g.From
		}
		p.told.To = max(p.told.To, g.To)
	}
}

// check holds the invariant: where a subscription runs and has room, it is served, or somebody reads for
// it, or will.
func (w *catchingUp) check() {
	l := w.leader
	for _, p := range w.order {
		s := p.sub
		p.listen()
		attached := s.segment != nil
		switch {
		case attached && s.segment != l.catchUp.tail && !l.catchUp.goesOn(s.segment):
			w.t.Fatalf("%s is attached to a pass that was ended", s.name)
		case attached && l.catchUp.waits(s):
			w.t.Fatalf("%s is attached and waits", s.name)
		case s.phase != running && (attached || l.catchUp.waits(s)):
			w.t.Fatalf("%s is in phase %d, and is attached or waits", s.name, s.phase)
		case s.phase == running && !attached && !l.catchUp.waits(s) && s.hasHalfWindow() && s.loss.stopped == nil:
			w.t.Fatalf("%s has room at %d of %d, and nobody has it", s.name, s.pos, len(w.stream))
		case s.loss.stopped != nil && (attached || s.registration.OnGap != subscription.Pause):
			w.t.Fatalf("%s is stopped at a gap, and is attached or should go on", s.name)
		case s.loss.stopped != nil && s.loss.stopped.judged && l.reporter.obstacles.waiting[s.name] == "":
			w.t.Fatalf("%s holds, and nobody is told why", s.name)
		case s.loss.stopped != nil && !s.loss.stopped.judged && !l.catchUp.gaps.asking && len(l.catchUp.gaps.open) == 0:
			w.t.Fatalf("%s waits until a gap is judged, and nobody judges it", s.name)
		case s.phase == running && !s.sender.Idle() || s.phase == asking && !s.deferred || s.phase == paused:
			if _, attended := l.subs.sessions.attended[s]; !attended {
				w.t.Fatalf("%s is in phase %d with %d in flight, and nobody attends to it", s.name, s.phase, s.sender.InFlight())
			}
		}
		if attached {
			if _, known := s.segment.attached[s]; !known {
				w.t.Fatalf("%s is attached to a segment that does not know it", s.name)
			}
		}
	}
	if len(l.catchUp.waiting) > 0 && len(l.catchUp.passes) == 0 {
		w.t.Fatalf("%d wait, and there is no pass", len(l.catchUp.waiting))
	}
	for _, t := range append(slices.Clone(l.catchUp.passes), l.catchUp.tail) {
		for s := range t.attached {
			if s.segment != t {
				w.t.Fatalf("a segment counts %s as attached, which is not", s.name)
			}
		}
		rests := func() bool {
			return t.ctx != nil && len(t.attached) > 0 && !t.reading && time.Now().After(t.retryAt) && !l.catchUp.tail.has(t.high)
		}
		if rests() { // one got on after the pass had its turn
			if l.turn(w.t.Context()); rests() {
				w.t.Fatalf("%d are attached to a pass that does not read", len(t.attached))
			}
		}
	}
}

// settle lets everything go on undisturbed, and reports whether all have everything.
func (w *catchingUp) settle() bool {
	for _, p := range w.order {
		p.gone, p.deaf = false, false
	}
	for range 200 + len(w.stream) {
		w.hear(20)
		if len(w.stored(uint64(w.heard+1), 1)) == 0 { // the feed is level, and looks where the stream begins
			first, _ := w.First(w.t.Context())
			w.trimmed(int(first))
		}
		for _, p := range w.order {
			w.take(p, len(p.incoming), true)
			if h := p.sub.loss.stopped; h != nil && h.judged {
				w.restart(p)
			}
		}
		for i := range maxPasses {
			w.page(i, 20, nil)
		}
		w.pass(200 * time.Millisecond)
		level := w.heard == len(w.stream) || len(w.stored(uint64(w.heard+1), 1)) == 0
		for _, p := range w.order {
			level = level && p.sub.phase == running && p.sub.segment == w.leader.catchUp.tail && p.sub.sender.Idle() && len(p.incoming) == 0
		}
		if level {
			return true
		}
	}
	return false
}

func (w *catchingUp) verify() {
	for _, p := range w.order {
		at := 0
		s := p.sub
		for i := range w.stream {
			switch m := &w.stream[i]; {
			case at < len(p.took) && p.took[at] == uint64(i+1):
				at++
			case w.wants(p, m):
				w.t.Fatalf("%s lacks %d of %v", s.name, i+1, p.took)
			default:
				was, removed := w.removed[m.Sequence]
				if lost := removed && w.wants(p, &was) && p.first > 0 && m.Sequence > p.first; !lost {
					continue
				}
				if m.Sequence < p.told.From || m.Sequence > p.told.To {
					w.t.Fatalf("%s has lost %d, and was told of %+v", s.name, m.Sequence, p.told)
				}
				if s.registration.OnGap == subscription.Pause && !p.allowed {
					w.t.Fatalf("%s has lost %d, and did not hold there", s.name, m.Sequence)
				}
			}
		}
		if at != len(p.took) {
			w.t.Fatalf("%s took %v, which is not in order", p.sub.name, p.took)
		}
	}
}

// TestNobodyWaitsWhereNobodyReads drives the real leader's passes, windows, arrivals, acknowledgements and
// pages in any order.
func TestNobodyWaitsWhereNobodyReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ testing.TB }{t}, func(t *rapid.T) { // which would ask a *testing.T for its deadline
			w := newCatchingUp(t)
			defer func() {
				for _, pass := range w.leader.catchUp.passes {
					pass.end()
				}
				w.leader.work.Wait()
			}()
			some := func(most int, label string) int { return rapid.IntRange(1, most).Draw(t, label) }
			any := func() *proxyEnd {
				if len(w.order) == 0 {
					t.Skip("nobody is there")
				}
				return rapid.SampledFrom(w.order).Draw(t, "who")
			}
			t.Repeat(map[string]func(*rapid.T){
				"append": func(t *rapid.T) {
					typ := rapid.SampledFrom([]string{"a", "a", "b", "marker"}).Draw(t, "type")
					size := rapid.SampledFrom([]int{0, 1 << 19, 1 << 20}).Draw(t, "size")
					for range some(60, "events") {
						w.append(typ, size)
					}
				},
				"hear": func(t *rapid.T) { w.hear(some(100, "messages")) },
				"subscribe": func(t *rapid.T) {
					if len(w.order) == 6 {
						t.Skip("enough")
					}
					start := int64(rapid.SampledFrom([]int{0, 0, len(w.stream) / 2}).Draw(t, "start"))
					selector := rapid.SampledFrom([]string{"$all", "a", "b"}).Draw(t, "selector")
					typ := subscription.ByEventType
					if selector == "$all" {
						typ = subscription.ByStream
					}
					w.subscribe(typ, selector, start, rapid.SampledFrom([]subscription.OnGap{"", subscription.Pause}).Draw(t, "on gap"))
				},
				"restart": func(t *rapid.T) { w.restart(any()) },
				"take":    func(t *rapid.T) { w.take(any(), some(60, "messages"), false) },
				"accept":  func(t *rapid.T) { w.take(any(), some(60, "messages"), true) },
				"page": func(t *rapid.T) {
					w.page(some(maxPasses, "pass"), some(40, "messages"), nil)
				},
				"fail": func(t *rapid.T) {
					w.page(some(maxPasses, "pass"), 1, rapid.SampledFrom([]error{errors.New("no answer"), feed.ErrNothing}).Draw(t, "error"))
				},
				"lose": func(t *rapid.T) { p := any(); p.deaf = !p.deaf },
				"cut":  func(t *rapid.T) { p := any(); p.gone = !p.gone },
				"miss": func(t *rapid.T) { // an event that is gone, and the proxy's word of it
					p := any()
					if p.sub.phase == running {
						w.answer(fmt.Sprintf("r.%d.%d", p.sub.id, p.sub.number), event.Answer{Kind: event.Missing, Number: p.receiver.Last})
						w.turn()
					}
				},
				"delete": func(t *rapid.T) {
					if len(w.stream) == 0 {
						t.Skip("nothing is stored")
					}
					w.stream[some(len(w.stream), "which")-1].Subject = ""
				},
				"retain": func(t *rapid.T) {
					if len(w.stream) == 0 {
						t.Skip("nothing is stored")
					}
					first := some(len(w.stream)+1, "first")
					for i := range first - 1 {
						if m := &w.stream[i]; m.Subject != "" {
							w.removed[m.Sequence] = *m
							m.Subject = ""
						}
					}
					if rapid.Bool().Draw(t, "told") { // the feed tells once it is level
						w.trimmed(first)
					}
				},
				"wait": func(t *rapid.T) {
					w.pass(time.Duration(rapid.SampledFrom([]int{10, 100, 300, 1100}).Draw(t, "milliseconds")) * time.Millisecond)
				},
			})
			if !w.settle() {
				for _, p := range w.order {
					s := p.sub
					t.Logf("%s: phase %d at %d of %d; acked %d, sent %d, in flight %d, window %d, attached %t, waits %t; its proxy took %d and accepted %d",
						s.name, s.phase, s.pos, len(w.stream), s.sender.Acked, s.sender.Sent, s.sender.InFlight(), s.window, s.segment != nil, w.leader.catchUp.waits(s), p.receiver.Last, p.acked)
				}
				for _, pass := range w.leader.catchUp.passes {
					t.Logf("a pass (%t) from %d to %d, %d attached, reading %t, %d ahead, %d times nothing", w.reads[pass.ctx] != nil, pass.low, pass.high, len(pass.attached), pass.reading, pass.ahead(), pass.nothing)
				}
				t.Fatalf("not all is delivered: heard %d, tail from %d to %d, %d passes", w.heard, w.leader.catchUp.tail.low, w.leader.catchUp.tail.high, len(w.leader.catchUp.passes))
			}
			w.verify()
		})
	})
}
