package emitter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/internal/testbed"
	"github.com/exesdb/subproxy/pkg/delivery"
	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// patience is how long a condition is waited for.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// log is a buffer for what an emitter logs.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) says(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// run runs an emitter of the store until the test ends, or it is stopped before.
func run(t *testing.T, js jetstream.JetStream, s Store) (*log, func()) {
	t.Helper()
	return runWith(t, js, Config{Stores: []Store{s}})
}

func runWith(t *testing.T, js jetstream.JetStream, c Config) (*log, func()) {
	t.Helper()
	said := &log{}
	ctx, cancel := context.WithCancel(context.Background())
	c.Candidate, c.LeaseTTL, c.Logger = registration.Owner{Name: "e", ID: nuid.Next()}, time.Second, slog.New(slog.NewTextHandler(said, nil))
	e, err := Open(ctx, js, c)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the emitter ended with %v", err)
			}
			if t.Failed() {
				said.mu.Lock()
				t.Log(said.b.String())
				said.mu.Unlock()
			}
		})
	}
	t.Cleanup(stop)
	return said, stop
}

// holder is a proxy as the contract has it, by hand: it takes what its receiver takes, and says what it is
// told to say.
type holder struct {
	t      *testing.T
	js     jetstream.JetStream
	bucket *kv.Bucket
	record registration.Registration

	mu       sync.Mutex
	receiver delivery.Receiver
	taken    []*nats.Msg
	silent   bool // acknowledges nothing
	seen     int  // messages with events, duplicates too
	asked    int
	epoch    string // that it was asked with last
}

func (h *holder) questions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func hold(t *testing.T, js jetstream.JetStream, s subscription.Subscription, prepare ...func(*holder)) *holder {
	t.Helper()
	bucket, err := kv.Open(t.Context(), js, kv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{t: t, js: js, bucket: bucket, record: registration.Registration{
		Subscription: s, Owner: registration.Owner{Name: "p", ID: nuid.Next()}, Incarnation: 1, Cause: registration.Initial,
	}}
	h.record.DeliverSubject = "exesdb.proxy.deliver." + h.record.Owner.ID + ".1"
	for _, p := range prepare {
		p(h)
	}
	sub, err := js.Conn().Subscribe(h.record.DeliverSubject, h.receive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	h.register()
	return h
}

func (h *holder) register() {
	h.t.Helper()
	data, err := h.record.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.js.Conn().Flush(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.js.Publish(h.t.Context(), h.bucket.Subject(h.record.Key()), data); err != nil {
		h.t.Fatal(err)
	}
}

func (h *holder) receive(m *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(m.Header.Get(name), 10, 64)
		return n
	}
	answer := func(k event.AnswerKind, n uint64) { _ = m.Respond(event.Answer{Kind: k, Number: n}.Encode()) }
	seq, term := number(event.SequenceHeader), number(event.TermHeader)
	if seq == 0 {
		h.asked, h.epoch = h.asked+1, m.Header.Get(event.EpochHeader)
		h.receiver.Answer(term, h.epoch)
		if h.receiver.Last > 0 && !h.silent {
			answer(event.Acked, h.receiver.Last)
		}
		answer(event.Missing, h.receiver.Last)
		return
	}
	h.seen++
	switch h.receiver.Receive(term, seq, number(event.PrevHeader)) {
	case delivery.Forward:
		h.taken = append(h.taken, m)
		fallthrough
	case delivery.Duplicate:
		if !h.silent {
			answer(event.Acked, h.receiver.Last)
		}
	case delivery.Gap:
		answer(event.Missing, h.receiver.Last)
	case delivery.StaleTerm:
		answer(event.StaleTerm, h.receiver.Fence)
	}
}

func (h *holder) sequences() (all []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.taken {
		n, _ := strconv.ParseUint(m.Header.Get(event.SequenceHeader), 10, 64)
		all = append(all, n)
	}
	return all
}

// count is how many it took; cheap enough to look at again and again.
func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.taken)
}

func (h *holder) awaits(want ...uint64) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%s takes %v, has %v", h.record.Name, want, h.sequences()), func() bool { return len(h.sequences()) >= len(want) })
	if got := h.sequences(); !slices.Equal(got, want) {
		h.t.Errorf("%s took %v, want %v", h.record.Name, got, want)
	}
}

func (h *holder) checkpoint() (seq uint64) {
	c, _ := h.savedPlace()
	return c.Sequence
}

func (h *holder) savedPlace() (_ Checkpoint, ok bool) {
	points, err := kv.Open(h.t.Context(), h.js, kv.Config{Kind: kv.Checkpoints})
	if err != nil {
		h.t.Fatal(err)
	}
	e, ok, err := points.GetFromLeader(h.t.Context(), h.record.Key())
	if err != nil || !ok {
		return Checkpoint{}, false
	}
	var c loaded
	c.read(&e)
	return c.point, c.found
}

func by(typ subscription.Type, selector string) subscription.Subscription {
	return subscription.Subscription{Store: "s", Type: typ, Selector: selector, Name: string(typ) + " " + selector}
}

func appendEvents(t *testing.T, js jetstream.JetStream, events ...event.Event) {
	t.Helper()
	for _, e := range events {
		e.Store, e.ID, e.Time = "s", nuid.Next(), time.Now()
		if _, err := Append(t.Context(), js, &e, AnyVersion); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachTypeOfSelectorGetsWhatItPicks(t *testing.T) {
	_, js := startJetStream(t)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	all, stream := hold(t, js, by(subscription.ByStream, "$all")), hold(t, js, by(subscription.ByStream, "g.1"))
	typed := hold(t, js, by(subscription.ByEventType, "renamed:v1"))
	pattern := hold(t, js, by(subscription.ByEventPattern, `{"tenant":"7","type":"renamed:v1"}`))
	payload := hold(t, js, by(subscription.ByEventPayload, `{"area":{"unit":"m2"}}`))
	appendEvents(t, js,
		event.Event{Stream: "g.1", Type: "initialized:v1", Data: []byte(`{"area":{"unit":"m2","size":12}}`)},
		event.Event{Stream: "g.2", Type: "renamed:v1", Header: nats.Header{"ce-tenant": {"7"}}, Data: []byte(`not JSON`)},
		event.Event{Stream: "g.1", Type: "renamed:v1", Header: nats.Header{"ce-tenant": {"8"}}, Data: []byte(`{"area":{}}`)},
		event.Event{Stream: "$all", Type: "renamed:v1"})
	all.awaits(1, 2, 3, 4)
	stream.awaits(1, 3)
	typed.awaits(2, 3, 4)
	pattern.awaits(2)
	payload.awaits(1)
}

func TestStartVersionSaysWhereToBegin(t *testing.T) {
	_, js := startJetStream(t)
	if _, err := OpenStream(t.Context(), js, StreamConfig{Store: "s"}); err != nil {
		t.Fatal(err)
	}
	one := event.Event{Stream: "g", Type: "t"}
	appendEvents(t, js, one, one, one)
	_, stop := run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	from := func(version int64) *holder {
		s := by(subscription.ByStream, "$all")
		s.Name, s.StartVersion = fmt.Sprint("from ", version), version
		return hold(t, js, s)
	}
	zero, new, two, ten := from(0), from(-1), from(2), from(10)
	zero.awaits(1, 2, 3)
	two.awaits(2, 3)
	// Where "new" began is written before anything was acknowledged, so that the next leader begins there
	// too.
	eventually(t, "the place where new ones begin is kept", func() bool { return new.checkpoint() == 3 })
	stop()
	appendEvents(t, js, one)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	zero.awaits(1, 2, 3, 4)
	new.awaits(4)
	two.awaits(2, 3, 4)
	for range 6 {
		appendEvents(t, js, one)
	}
	ten.awaits(10)
}

func TestStreamOfTheUsersOwnLayoutIsServed(t *testing.T) {
	_, js := startJetStream(t)
	// Neither republished nor direct: it is followed by a consumer, and read from its leader.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.*.*"}}); err != nil {
		t.Fatal(err)
	}
	publish := func(subject, kind string) {
		t.Helper()
		m := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte("{}")}
		if kind != "" {
			m.Header.Set("kind", kind)
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	publish("orders.17.created", "")
	publish("orders.18.created", "renamed")
	said, _ := run(t, js, Store{Stream: StreamConfig{Store: "s", Name: "ORDERS"}, Layout: Layout{StreamToken: 2, TypeToken: 3, TypeHeader: "kind"}})
	stream, typed := hold(t, js, by(subscription.ByStream, "17")), hold(t, js, by(subscription.ByEventType, "renamed"))
	publish("orders.17.paid", "renamed")
	stream.awaits(1, 3)
	typed.awaits(2, 3)
	stream.mu.Lock()
	h := stream.taken[0].Header
	stream.mu.Unlock()
	if h.Get("ce-subject") != "17" || h.Get("ce-type") != "created" || h.Get("ce-id") != "s/1" {
		t.Errorf("headers %v", h)
	}
	for _, cost := range []string{"does not republish", "does not allow direct get", "--republish-destination='exesdb.stored.s.>'"} {
		if !said.says(cost) {
			t.Errorf("the start-up log does not say %q", cost)
		}
	}
}

func TestMissingStreamOfTheUsersOwnIsAnError(t *testing.T) {
	ctx, js := startJetStream(t)
	_, err := Open(ctx, js, Config{Stores: []Store{{Stream: StreamConfig{Store: "s", Name: "ORDERS"}}}, Candidate: registration.Owner{Name: "e", ID: "x"}})
	if !errors.Is(err, ErrNoStream) || !strings.Contains(err.Error(), "ORDERS") || !strings.Contains(err.Error(), "stores[].stream.name") {
		t.Errorf("got %v", err)
	}
}

func TestSubscriptionThatDoesNotAcknowledgeHoldsLittleAndNobodyUp(t *testing.T) {
	_, js := startJetStream(t)
	if _, err := OpenStream(t.Context(), js, StreamConfig{Store: "s"}); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	for i := range n {
		e := event.Event{Store: "s", Stream: "g", Type: "t", ID: fmt.Sprint(i), Time: time.Now()}
		if _, err := js.PublishMsgAsync(e.Message(event.Subject("s", "g", "t"))); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	slow := by(subscription.ByStream, "$all")
	slow.Name = "slow"
	blocked := hold(t, js, slow)
	blocked.mu.Lock()
	blocked.silent = true
	blocked.mu.Unlock()
	fast := hold(t, js, by(subscription.ByStream, "$all"))
	eventually(t, "the other has everything", func() bool { return fast.count() == n })
	blocked.mu.Lock()
	seen := blocked.seen
	blocked.silent = false
	blocked.mu.Unlock()
	if seen > 2*firstWindow {
		t.Errorf("%d events were sent to one that acknowledges nothing", seen)
	}
	eventually(t, "it has everything once it acknowledges", func() bool { return blocked.count() == n })
}

func TestSubscriptionThatComesBackGoesOnWhereItWas(t *testing.T) {
	_, js := startJetStream(t)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	one := event.Event{Stream: "g", Type: "t"}
	h := hold(t, js, by(subscription.ByStream, "$all"))
	appendEvents(t, js, one, one)
	h.awaits(1, 2)
	eventually(t, "the checkpoint is written", func() bool { return h.checkpoint() == 2 })
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: h.bucket.Subject(h.record.Key()), Header: nats.Header{"KV-Operation": {"DEL"}}}); err != nil {
		t.Fatal(err)
	}
	appendEvents(t, js, one)
	again := hold(t, js, by(subscription.ByStream, "$all")) // another start: another deliver subject
	// The emitter may hear of the event before it hears of the deletion. Then the one before gets it.
	eventually(t, "the third event is taken", func() bool { return h.count()+again.count() >= 3 })
	if got := append(h.sequences(), again.sequences()...); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("%v, and then %v were taken", h.sequences(), again.sequences())
	}
	// Another selector under the name is another subscription.
	other := by(subscription.ByEventType, "t")
	other.Name = h.record.Name
	hold(t, js, other).awaits(1, 2, 3)
}

func TestEventsGoOnWhereTheHolderBeforeStopped(t *testing.T) {
	_, js := startJetStream(t)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	one := event.Event{Stream: "g", Type: "t"}
	h := hold(t, js, by(subscription.ByStream, "$all"))
	appendEvents(t, js, one, one)
	h.awaits(1, 2)
	h.mu.Lock()
	epoch := h.epoch
	h.silent = true // its last acknowledgement is on its way yet
	h.mu.Unlock()
	appendEvents(t, js, one)
	h.awaits(1, 2, 3)
	next := func(place registration.Position) *holder {
		return hold(t, js, by(subscription.ByStream, "$all"), func(n *holder) {
			n.record.Incarnation, n.record.HandedOver, n.record.Cause = h.record.Incarnation+1, place, registration.Takeover
			n.receiver = delivery.ReceiverAt(place)
			h = n
		})
	}
	second := next(registration.Position{Accepted: 3, Epoch: epoch})
	appendEvents(t, js, one)
	second.awaits(4)
	if second.questions() != 0 {
		t.Error("a proxy was asked of which it was known where it goes on")
	}
	eventually(t, "the checkpoint is written", func() bool { return h.checkpoint() == 4 })

	// Of another history of the store, nothing is known. What the proxy says counts.
	second.mu.Lock()
	second.silent = true // the emitter may hear of the event before it hears of the third
	second.mu.Unlock()
	third := next(registration.Position{Accepted: 2, Epoch: "another"})
	appendEvents(t, js, one)
	third.awaits(5)
	if third.questions() == 0 {
		t.Error("a proxy was not asked that knows of another history of the store")
	}
	eventually(t, "the checkpoint is written", func() bool { return h.checkpoint() == 5 })
}

func TestEventsAreSentAgainWithTheTermThatIsInForce(t *testing.T) {
	_, js := startJetStream(t)
	run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	one := event.Event{Stream: "g", Type: "t"}
	first := hold(t, js, by(subscription.ByStream, "$all"))
	appendEvents(t, js, one)
	first.awaits(1)
	appendEvents(t, js, one) // the emitter follows the stream by now
	first.awaits(1, 2)
	// The other heard of a later term, such as one from before the bucket was lost; the event is in memory
	// with its headers.
	late := by(subscription.ByEventType, "t")
	late.StartVersion = 2
	second := hold(t, js, late, func(h *holder) { h.receiver.Fence = 1000 })
	second.awaits(2)
	appendEvents(t, js, one)
	first.awaits(1, 2, 3)
	second.awaits(2, 3)
}

func TestStreamMadeAnewIsReadFromItsStart(t *testing.T) {
	_, js := startJetStream(t)
	const events = maxEvents + 500
	cfg := jetstream.StreamConfig{
		Name: StreamName("s"), Subjects: []string{"exesdb.events.s.>"}, AllowDirect: true, Storage: jetstream.MemoryStorage,
		RePublish: &jetstream.RePublish{Source: "exesdb.events.s.>", Destination: "exesdb.stored.s.>"},
	}
	old := cfg
	old.FirstSeq = 3 * events
	if _, err := js.CreateStream(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	said, _ := run(t, js, Store{Stream: StreamConfig{Store: "s"}})
	here := hold(t, js, by(subscription.ByStream, "$all"))
	appendEvents(t, js, event.Event{Stream: "g", Type: "t"})
	here.awaits(3 * events)
	if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for i := range events {
		e := event.Event{Store: "s", Stream: "g", Type: "t", ID: fmt.Sprint(i), Time: time.Now()}
		if _, err := js.PublishMsgAsync(e.Message(event.Subject("s", "g", "t")), jetstream.WithStallWait(patience)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	eventually(t, "it is seen that the stream is another", func() bool { return said.says("sequences begin anew") })
	eventually(t, "the one that was there has all", func() bool { return here.count() == 1+events })
	late := hold(t, js, by(subscription.ByEventType, "t"))
	eventually(t, "one that comes later has all", func() bool { return late.count() == events })
}

func TestEventThatCannotBeSentIsParkedAndTheNextGoesOn(t *testing.T) {
	node, err := natsnode.Start(natsnode.Options{Configure: func(o *server.Options) { o.MaxPayload = 4096 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	nc, err := nats.Connect(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var parked []uint64
	var tries int
	runWith(t, js, Config{
		Stores: []Store{{Stream: StreamConfig{Store: "s"}}},
		Park: func(_ context.Context, r *registration.Registration, e *event.Event, _, _ string) error { // one at a time, and awaited below
			if tries++; tries == 1 {
				return errors.New("the lot is away")
			}
			parked = append(parked, e.Sequence)
			return nil
		},
	})
	h := hold(t, js, by(subscription.ByStream, "$all"))
	for _, size := range []int{10, 4000, 10} { // with the headers that it lacks the second is too large
		if _, err := js.Publish(t.Context(), event.Subject("s", "g", "t"), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	h.awaits(1, 3)
	if !slices.Equal(parked, []uint64{2}) {
		t.Errorf("parked %v", parked)
	}
}

func TestWhatIsAcknowledgedJustBeforeTheEndIsWritten(t *testing.T) {
	_, js := startJetStream(t)
	_, stop := run(t, overLink(t, js, testbed.Link{Delay: 20 * time.Millisecond}), Store{Stream: StreamConfig{Store: "s"}})
	holders := make([]*holder, 20)
	for i := range holders {
		s := by(subscription.ByStream, "$all")
		s.Name = fmt.Sprint(i)
		holders[i] = hold(t, js, s, func(h *holder) { h.silent = true })
	}
	appendEvents(t, js, event.Event{Stream: "g", Type: "t"}, event.Event{Stream: "g", Type: "t"})
	for _, h := range holders {
		h.awaits(1, 2)
	}
	half := len(holders) / 2
	for _, h := range holders[:half] {
		h.mu.Lock()
		if err := h.taken[1].Respond(event.Answer{Kind: event.Acked, Number: 2}.Encode()); err != nil {
			t.Fatal(err)
		}
		h.mu.Unlock()
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	stop()
	for i, h := range holders {
		want := uint64(0) // of the others it is written where they began
		if i < half {
			want = 2
		}
		if got, ok := h.savedPlace(); got.Sequence != want || !ok {
			t.Errorf("of subscription %d it is written that it has all up to %d (%t), want %d", i, got.Sequence, ok, want)
		}
	}
}

// overLink is another client of the server, behind a link.
func overLink(t *testing.T, js jetstream.JetStream, link testbed.Link) jetstream.JetStream {
	t.Helper()
	r, err := testbed.NewRelay(js.Conn().ConnectedUrl(), link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	nc, err := nats.Connect(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	far, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return far
}
