package delivery

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Whatever endpoints take, fail with, drop and are asked for: no part holds and promises more than it may,
// or more than one event; what is counted is what is there; and once the sinks accept, each endpoint gets
// all its events.
func TestWaitingRoomIsBoundedAndEveryInletHasItsTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.Int64Range(2000, 30000).Draw(t, "budget")
		room := newWaitingRoom(budget)
		now := time.Now()
		const events = 6
		data := make([][]byte, events) // which a hosted emitter shares
		for i := range data {
			data[i] = make([]byte, rapid.IntRange(0, 12000).Draw(t, "size"))
		}
		hosted := rapid.Bool().Draw(t, "hosted")
		accepted := map[*queue]uint64{}
		endpoints := make([]*queue, rapid.IntRange(1, 8).Draw(t, "endpoints"))
		for i := range endpoints {
			endpoints[i] = &queue{room: room}
		}
		arrives := func(f *queue, otherwise refusal) {
			n := int(accepted[f]) + len(f.events)
			if n == events {
				return
			}
			m := &nats.Msg{Data: data[n]}
			if !hosted {
				m.Data = append([]byte(nil), m.Data...)
			}
			q := queued{load: loadOf(m, hosted)}
			q.event.Sequence = uint64(n + 1)
			if room.hold(f, &q, otherwise) {
				f.events = append(f.events, q)
			}
		}
		fails := func(f *queue) {
			if len(f.events) > 0 && !room.retries(f) {
				room.release(f.events...)
				f.events = nil
			}
		}
		accepts := func(f *queue) {
			if len(f.events) > 0 {
				room.release(f.events[0])
				accepted[f], f.events = f.events[0].event.Sequence, f.events[1:]
				room.accepts(f)
			}
		}
		check := func() {
			var used [partCount]int64
			var held, largest int64
			type at struct {
				first *byte
				part  int
			}
			seen, anywhere, promises := map[at]bool{}, map[*byte]bool{}, [partCount]int{}
			waiting := [partCount]int{}
			for _, f := range endpoints {
				switch f.seat.stands {
				case promised:
					used[f.seat.in] += f.seat.need
					largest = max(largest, f.seat.need)
					promises[f.seat.in]++
				case waits:
					waiting[f.seat.in]++
				}
				for _, q := range f.events {
					l := q.load
					used[q.part] += l.own
					held += l.own
					largest = max(largest, l.own+l.data)
					if l.first == nil || !seen[at{l.first, q.part}] {
						used[q.part] += l.data
					}
					if l.first == nil || !anywhere[l.first] {
						held += l.data
					}
					seen[at{l.first, q.part}], anywhere[l.first] = true, true
				}
			}
			for i, h := range room.parts {
				if h.used != used[i] && !hosted { // of shared events a promise reserves all, and the last holder gives back the data
					t.Fatalf("part %d counts %d, and has %d", i, h.used, used[i])
				}
				if h.used > max(h.limit, largest) {
					t.Fatalf("part %d has %d of %d", i, h.used, h.limit)
				}
				if h.waiting != waiting[i] {
					t.Fatalf("part %d has %d waiting, not %d", i, h.waiting, waiting[i])
				}
			}
			if room.held != held {
				t.Fatalf("%d are counted, %d are held", room.held, held)
			}
		}
		one := func(t *rapid.T) *queue { return endpoints[rapid.IntRange(0, len(endpoints)-1).Draw(t, "endpoint")] }
		t.Repeat(map[string]func(*rapid.T){
			"arrives": func(t *rapid.T) {
				arrives(one(t), rapid.SampledFrom([]refusal{queues, pauses}).Draw(t, "otherwise"))
			},
			"fails":   func(t *rapid.T) { fails(one(t)) },
			"accepts": func(t *rapid.T) { accepts(one(t)) },
			"awaits":  func(t *rapid.T) { room.await(one(t)) },
			"turn":    func(*rapid.T) { room.next(now) },
			"time":    func(t *rapid.T) { now = now.Add(promiseFor / 2) },
			"": func(*rapid.T) {
				check()
			},
		})
		// The sinks accept from now on, and emitters send what they are asked for, and ask where they hear
		// nothing.
		for round := 0; ; round++ {
			missing := 0
			for _, f := range endpoints {
				missing += events - int(accepted[f])
			}
			if missing == 0 {
				break
			}
			if round > 20*events*len(endpoints) {
				t.Fatalf("%d events never came", missing)
			}
			now = now.Add(promiseFor)
			for _, f := range endpoints {
				room.await(f)
				accepts(f)
			}
			for f := room.next(now); f != nil; f = room.next(now) {
				arrives(f, queues)
				check()
			}
			for _, f := range endpoints {
				if !room.silent(f) {
					arrives(f, queues)
				}
			}
			check()
		}
		if room.held != 0 || room.parts[fresh].used != 0 || room.parts[retrying].used != 0 || room.parts[small].used != 0 || len(room.holders) > 0 {
			t.Fatalf("something is left: %+v", room)
		}
	})
}

// A small event is taken while large ones wait for their turns, as long as small ones have room; what is
// behind that waits as well.
func TestSmallEventsWaitForNoLineOfLargeOnes(t *testing.T) {
	room := newWaitingRoom(1 << 20)
	takes := func(f *queue, size int) bool {
		q := queued{load: loadOf(&nats.Msg{Data: make([]byte, size)}, true)}
		return room.hold(f, &q, queues)
	}
	if !takes(&queue{}, 300<<10) || takes(&queue{}, 300<<10) {
		t.Fatal("there is room for one large event, and no more")
	}
	taken := 0
	for takes(&queue{}, 10<<10) {
		taken++
	}
	if want := (1 << 20) / 8 / (11 << 10); taken != want {
		t.Errorf("%d small events are taken, and not %d", taken, want)
	}
	if n := room.bytes(); n > 1<<20 {
		t.Errorf("%d bytes are held", n)
	}
}

// absent is a stage with many proxies whose subscriber is not there at first, and what it got.
type absent struct {
	*stage
	all     []*Endpoint
	there   atomic.Bool
	mu      sync.Mutex
	got     map[string][]uint64
	most    atomic.Int64 // bytes that were queued
	sampled chan struct{}
}

func newAbsent(t *testing.T, n int, budget int64) *absent {
	a := &absent{got: map[string][]uint64{}, sampled: make(chan struct{})}
	a.stage = newStage(t, sink.Request, budget, func(_ context.Context, e *sink.Event) error {
		if !a.there.Load() {
			return errors.New("nobody is there")
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.got[e.Subscription] = append(a.got[e.Subscription], e.Sequence)
		return nil
	})
	for i, s := range testSubscriptions(n) {
		a.all = append(a.all, a.endpoints.Open(Start{Subscription: &s, Number: uint64(i + 1)}))
	}
	ended := make(chan struct{})
	go func() {
		defer close(a.sampled)
		for {
			a.most.Store(max(a.most.Load(), a.Queued()))
			select {
			case <-time.After(time.Millisecond):
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(ended)
		<-a.sampled
		a.Stop()
	})
	return a
}

// emit sends each endpoint so many events, and what it is asked for, as an emitter does.
func (a *absent) emit(t *testing.T, events int, send func(endpoint int, m *nats.Msg, h event.Handoff)) {
	t.Helper()
	prefix := a.Conn.NewInbox()
	after := func(endpoint int, last uint64) {
		for seq := last + 1; seq <= uint64(events); seq++ {
			m := &nats.Msg{Subject: a.Prefix() + strconv.Itoa(endpoint+1), Reply: prefix + "." + strconv.Itoa(endpoint), Header: nats.Header{
				event.SequenceHeader: {strconv.FormatUint(seq, 10)}, event.PrevHeader: {strconv.FormatUint(seq-1, 10)},
			}}
			send(endpoint, m, event.Handoff{Message: m, Sequence: seq, Prev: seq - 1, Shared: true})
		}
	}
	if _, err := a.Conn.Subscribe(prefix+".*", func(m *nats.Msg) {
		answer, _ := event.ParseAnswer(m.Data)
		if endpoint, err := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]); err == nil && answer.Kind == event.Missing {
			after(endpoint, answer.Number)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i := range a.all {
		after(i, 0)
	}
}

func (a *absent) awaitAll(t *testing.T, events int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		a.mu.Lock()
		missing := 0
		for _, s := range testSubscriptions(len(a.all)) {
			got := a.got[s.Name]
			for i, seq := range got {
				if seq != uint64(i+1) {
					t.Fatalf("%s got %v", s.Name, got)
				}
			}
			missing += events - len(got)
		}
		a.mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events did not come", missing)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitAttempts waits until so many attempts have failed.
func (a *absent) awaitAttempts(t *testing.T, n uint64) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for errs := uint64(0); errs < n; {
		errs = 0
		for _, in := range a.all {
			errs += in.Counts().Errors
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d attempts", errs)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestEventsThatWaitAreBoundedByTheBudget(t *testing.T) {
	const endpoints, events, size, budget = 50, 3, 200 << 10, 1 << 20
	t.Run("from the wire", func(t *testing.T) {
		a := newAbsent(t, endpoints, budget)
		data := make([]byte, size)
		a.emit(t, events, func(_ int, m *nats.Msg, _ event.Handoff) {
			m.Data = data
			if err := a.Conn.PublishMsg(m); err != nil {
				t.Error(err)
			}
		})
		a.awaitAttempts(t, 100)
		for _, in := range a.all {
			if c := in.Counts(); c.Delivered > 0 {
				t.Errorf("delivered to nobody: %+v", c)
			}
		}
		a.there.Store(true)
		a.awaitAll(t, events)
		if n := a.most.Load(); n > budget || n < size {
			t.Errorf("%d bytes were queued, of %d", n, budget)
		}
	})
	t.Run("from an emitter beside", func(t *testing.T) {
		a := newAbsent(t, endpoints, budget)
		data := make([]byte, size)
		a.emit(t, 1, func(_ int, m *nats.Msg, h event.Handoff) {
			m.Data = data
			a.Offer(h)
		})
		a.awaitAttempts(t, 3*endpoints)
		if n := a.most.Load(); n > size+endpoints*2048 {
			t.Errorf("%d bytes are counted, of one event that all share", n)
		}
		for _, in := range a.all {
			if c := in.Counts(); c.InHand != 1 {
				t.Errorf("it is not kept: %+v", c)
			}
		}
		a.there.Store(true)
		a.awaitAll(t, 1)
	})
}

// TestDroppedEventsAreFreed: an endpoint that has no room for an event keeps nothing of it.
func TestDroppedEventsAreFreed(t *testing.T) {
	const endpoints, size, budget = 50, 200 << 10, 1 << 20
	a := newAbsent(t, endpoints, budget)
	hangs := sinkFunc(func(ctx context.Context, _ *sink.Event) error {
		select {
		case <-ctx.Done():
		case <-t.Context().Done():
		}
		return context.Canceled
	})
	a.Options.Sink = func(subscription.Subscription) (sink.Sink, sink.Config) {
		return hangs, sink.Config{Kind: sink.Request}
	}
	a.Refresh()
	var mu sync.Mutex
	var sent []weak.Pointer[byte]
	a.emit(t, 1, func(_ int, m *nats.Msg, h event.Handoff) {
		m.Data = make([]byte, size)
		mu.Lock()
		sent = append(sent, weak.Make(&m.Data[0]))
		mu.Unlock()
		a.Offer(h)
	})
	const most = budget / size
	alive := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range sent {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		n := alive()
		if n <= most {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events of %d are in memory, which has room for %d", n, endpoints, budget/size)
		}
	}
}

// absentSink finds out without an event that nobody is there.
type absentSink struct {
	sinkFunc
	there *atomic.Bool
}

func (s absentSink) Ready(context.Context) error {
	if s.there.Load() {
		return nil
	}
	return sink.ErrNotSent
}

// TestSubscribersWhoAreAwayDoNotStandInLine: where there is no room for an event, it is asked for once
// somebody listens, and not before. So it is sent to each endpoint at most twice, and an endpoint whose
// subscriber is there never waits for those of the others.
func TestSubscribersWhoAreAwayDoNotStandInLine(t *testing.T) {
	const endpoints, size, budget = 50, 200 << 10, 1 << 20
	a := newAbsent(t, endpoints, budget)
	var sent atomic.Int64
	of := a.Options.Sink
	a.Options.Sink = func(s subscription.Subscription) (sink.Sink, sink.Config) {
		to, c := of(s)
		return absentSink{to.(sinkFunc), &a.there}, c
	}
	a.Refresh()
	a.emit(t, 1, func(_ int, m *nats.Msg, h event.Handoff) {
		sent.Add(1)
		m.Data = make([]byte, size)
		a.Offer(h)
	})
	a.awaitAttempts(t, 5*endpoints)
	if n := sent.Load(); n > endpoints+budget/size {
		t.Errorf("%d events were sent to %d subscriptions, and nobody is there", n, endpoints)
	}
	a.memory.mu.Lock()
	if n := a.memory.parts[fresh].waiting; n > 0 {
		t.Errorf("%d stand in line", n)
	}
	a.memory.mu.Unlock()
	a.there.Store(true)
	a.awaitAll(t, 1)
	if n := sent.Load(); n > 2*endpoints {
		t.Errorf("%d events were sent to %d subscriptions", n, endpoints)
	}
}

// TestRefusedEventIsParkedThoughMemoryIsShort: attempts count over the times that the event is dropped and
// sent again.
func TestRefusedEventIsParkedThoughMemoryIsShort(t *testing.T) {
	const endpoints, size, budget = 10, 400 << 10, 1 << 20
	a := newAbsent(t, endpoints, budget)
	var parked atomic.Int64
	a.Park = func(_ context.Context, _ *sink.Event, _ sink.Config, _ string, attempts int) error {
		if attempts != 3 {
			t.Errorf("parked after %d attempts", attempts)
		}
		parked.Add(1)
		return nil
	}
	a.Options.Sink = func(subscription.Subscription) (sink.Sink, sink.Config) {
		refuses := sinkFunc(func(context.Context, *sink.Event) error { return &sink.RefusedError{Reason: "no"} })
		return refuses, sink.Config{Kind: sink.Request, MaxDeliver: 3}
	}
	a.Refresh()
	a.emit(t, 1, func(_ int, m *nats.Msg, _ event.Handoff) {
		m.Data = make([]byte, size)
		if err := a.Conn.PublishMsg(m); err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for parked.Load() < endpoints {
		if time.Now().After(deadline) {
			t.Fatalf("%d are parked", parked.Load())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
