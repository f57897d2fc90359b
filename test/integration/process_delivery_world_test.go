//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	deliveryStore  = "greenhouse"
	storeStream    = "EXESDB_greenhouse"
	targetStream   = "TARGET" // where the sinks of kind stream deliver to
	clusterBucket  = "exesdb_cluster"
	pointBucket    = "exesdb_checkpoints"
	leaseKey       = "leader." + deliveryStore
	deliveryTarget = "app." // subjects that events are forwarded to: app.<sink>.<name>
)

// reader is a subscription, and what its subscriber got.
type reader struct {
	name, typ, selector string
	start               int64
	sink                string
	wants               func(*harness.Appended) bool

	mu    sync.Mutex
	got   []harness.Receipt
	sent  []harness.Receipt // what was refused too
	sub   *nats.Subscription
	reply func(*harness.Receipt) string // what a request is answered; nil: +ACK; "" for no answer
	delay time.Duration
}

func (r *reader) subject() string { return deliveryTarget + r.sink + "." + r.name }
func (r *reader) key() string {
	return deliveryStore + "." + r.typ + "." + harness.Token(r.selector) + "." + r.name
}

// deliveryReaders are subscriptions of every type, start and sink.
func deliveryReaders() []*reader {
	grown := func(e *harness.Appended) bool { return e.Type == "grown:v1" }
	return []*reader{
		{name: "all-stream", typ: "by_stream", selector: "$all", sink: "stream", wants: harness.Anything},
		{name: "all-request", typ: "by_stream", selector: "$all", sink: "request", wants: harness.Anything},
		{name: "all-publish", typ: "by_stream", selector: "$all", sink: "publish", wants: harness.Anything},
		{name: "type-stream", typ: "by_event_type", selector: "grown:v1", sink: "stream", wants: grown},
		{name: "type-publish", typ: "by_event_type", selector: "grown:v1", sink: "publish", wants: grown},
		{name: "pattern-request", typ: "by_event_pattern", selector: `{"tenant":"7"}`, sink: "request", wants: func(e *harness.Appended) bool { return e.Tenant == "7" }},
		{name: "payload-stream", typ: "by_event_payload", selector: `{"bed":{"row":3}}`, sink: "stream", wants: func(e *harness.Appended) bool { return e.Row == 3 }},
		{name: "one-request", typ: "by_stream", selector: "plant-2", start: 10, sink: "request", wants: func(e *harness.Appended) bool { return e.Stream == "plant-2" && e.Seq >= 10 }},
		{name: "new-stream", typ: "by_stream", selector: "$all", start: -1, sink: "stream", wants: harness.Anything},
		{name: "new-request", typ: "by_event_type", selector: "grown:v1", start: -1, sink: "request", wants: grown},
	}
}

// deliveryWorld is servers, emitters, proxies, publishers and subscribers: all of them real, all but the
// last two processes.
type deliveryWorld struct {
	*harness.World
	subproxy string
	nodes    []*harness.Server
	dir      string
	point    time.Duration // checkpoint interval
	hosted   bool          // instances host an emitter as well
	readers  []*reader
	special  map[string]*special // by the process's name; who has none is as the world is
	denied   []permission        // what the processes' users may not do now

	emitters map[string]*harness.Run // by name; the run of now
	proxies  map[string]*harness.Run
	runs     []*harness.Run // all that there were
	holes    atomic.Bool    // connections were lost: what goes by core NATS may be missing
	before   uint64         // events that were there before the subscriptions

	publishing sync.WaitGroup
	quit       chan struct{}      // closed to end the publishers
	count      atomic.Int64       // events acknowledged
	appending  sync.RWMutex       // held by each append: who holds it alone sees a store that stands still
	gone       []harness.Appended // events that the store had, and lost by a purge or a limit
}

// special is what a process is configured with besides.
type special struct {
	urls     string
	instance string // more of the section, such as ", weight: 2"
	readers  []*reader
}

// newDeliveryWorld starts that many servers, and makes what is there before subproxy: the target's stream.
// A client knows no other way to a server than it is given, so that it can be cut off.
func newDeliveryWorld(t testing.TB, subproxy string, nodes int, readers ...*reader) *deliveryWorld {
	t.Helper()
	w := &deliveryWorld{
		World: &harness.World{TB: t}, subproxy: subproxy, dir: t.TempDir(), point: 100 * time.Millisecond, readers: readers,
		emitters: map[string]*harness.Run{}, proxies: map[string]*harness.Run{}, quit: make(chan struct{}),
	}
	w.writePermissions(nodes)
	w.nodes = harness.StartConfiguredServers(t, nodes, w.dir, "--no_advertise")
	urls := make([]string, nodes)
	for i, n := range w.nodes {
		urls[i] = n.URL()
	}
	w.World = harness.Connect(t, strings.Join(urls, ","), nats.ReconnectWait(20*time.Millisecond), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { w.holes.Store(true) }))
	w.Eventually("the target stream created", func() bool {
		return w.try(func(ctx context.Context) error {
			_, err := w.JS.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: targetStream, Subjects: []string{deliveryTarget + "stream.>"}, Replicas: nodes, AllowDirect: true})
			return err
		})
	})
	for _, r := range readers {
		w.join(r)
	}
	t.Cleanup(w.end)
	return w
}

func (w *deliveryWorld) try(do func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return do(ctx) == nil
}

// config writes the configuration of a process of that name.
func (w *deliveryWorld) config(name string) string {
	var b strings.Builder
	own := w.special[name]
	if own == nil {
		own = &special{urls: w.URL, readers: w.readers}
	}
	fmt.Fprintf(&b, `nats: {url: "%s"}
instance: {name: %s%s}
registry: {replicas: %d}
status: {summary_interval: 500ms}
emitter: {enabled: %t, lease_ttl: 1s, checkpoint_interval: %s}
stores:
  - id: %s
    stream: {replicas: %d}
    subscriptions:
`, strings.ReplaceAll(own.urls, "nats://", "nats://"+userOf(name)+":pass@"), name, own.instance, len(w.nodes), w.hosted && strings.HasPrefix(name, "proxy"), w.point, deliveryStore, len(w.nodes))
	for _, r := range own.readers {
		fmt.Fprintf(&b, "      - {name: %s, type: %s, selector: %s, start_version: %d, forward: {sink: %s, subject: %s, timeout: 2s, max_deliver: 3}}\n",
			r.name, r.typ, strconv.Quote(r.selector), r.start, r.sink, r.subject())
	}
	path := filepath.Join(w.dir, name+".yaml")
	harness.WriteFile(w, path+".new", b.String())
	if err := os.Rename(path+".new", path); err != nil { // another run may be reading it
		w.Fatal(err)
	}
	return path
}

func (w *deliveryWorld) start(name, command string) *harness.Run {
	w.Helper()
	r := harness.Start(w, name, w.subproxy, append([]string{command, "--config", w.config(name)}, strings.Fields(*chaosFlags)...)...)
	w.runs = append(w.runs, r)
	return r
}

// emitter starts an emitter of that name; it may take a while to contend.
func (w *deliveryWorld) emitter(name string) *harness.Run {
	w.Helper()
	w.emitters[name] = w.start(name, "emitter")
	return w.emitters[name]
}

// proxy starts an instance of that name.
func (w *deliveryWorld) proxy(name string) *harness.Run {
	w.Helper()
	w.proxies[name] = w.start(name, "run")
	return w.proxies[name]
}

// begin starts two emitters and an instance, appends what the subscriptions with start_version -1 must not
// see, and returns when everything is registered and these have had their first event.
func (w *deliveryWorld) begin() {
	w.Helper()
	e := w.emitter("emitter-1")
	w.Eventually("the store's stream", func() bool { return len(e.Log.Entries("emitter runs")) > 0 })
	for range 20 {
		w.append()
	}
	w.before = 20
	w.emitter("emitter-2")
	w.proxy("proxy-a")
	w.awaitHealthy()
	for _, r := range w.readers {
		if r.start < 0 {
			w.Eventually(r.name+" begun", func() bool {
				w.append()
				return w.received(r) > 0
			})
		}
	}
}

// received is how many events a subscriber got so far.
func (w *deliveryWorld) received(r *reader) int {
	if r.sink == "stream" {
		n := 0
		w.try(func(ctx context.Context) error {
			s, err := w.JS.Stream(ctx, targetStream)
			if err != nil {
				return err
			}
			info, err := s.Info(ctx, jetstream.WithSubjectFilter(r.subject()))
			if err == nil {
				n = int(info.State.Subjects[r.subject()])
			}
			return err
		})
		return n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// join lets the subscriber of a reader listen; leave ends that.
func (w *deliveryWorld) join(r *reader) {
	w.Helper()
	if r.sink == "stream" {
		return
	}
	sub, err := w.NC.Subscribe(r.subject(), r.receive)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		w.Fatal(err)
	}
	_ = w.NC.Flush() // where it fails the client subscribes again when it is connected
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sub = sub
}

func (w *deliveryWorld) leave(r *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sub != nil {
		_ = r.sub.Unsubscribe()
		r.sub = nil
	}
}

func (r *reader) receive(m *nats.Msg) {
	one := harness.Receipt{ID: m.Header.Get("ce-id")}
	if dot := strings.LastIndexByte(m.Reply, '.'); dot > 0 {
		one.From = m.Reply[:dot] // a connection's requests have inboxes of one prefix
	}
	one.Seq, _ = strconv.ParseUint(m.Header.Get("Exesdb-Seq"), 10, 64)
	one.Incarnation, _ = strconv.ParseUint(m.Header.Get("Exesdb-Incarnation"), 10, 64)
	r.mu.Lock()
	r.sent = append(r.sent, one)
	answer, delay := "+ACK", r.delay
	if r.reply != nil {
		answer = r.reply(&one)
	}
	if answer == "+ACK" || r.sink == "publish" {
		r.got = append(r.got, one)
	}
	r.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay) // what a slow subscriber does
	}
	if answer != "" && m.Reply != "" {
		_ = m.Respond([]byte(answer))
	}
}

func (r *reader) set(change func(*reader)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (w *deliveryWorld) reader(name string) *reader {
	for _, r := range w.readers {
		if r.name == name {
			return r
		}
	}
	w.Fatalf("no reader %s", name)
	return nil
}

// append appends one event, and tries until it is acknowledged.
func (w *deliveryWorld) append() {
	w.Helper()
	if err := w.appendBy(w.JS); err != nil {
		w.Fatal(err)
	}
}

// appendBy appends one event under one message id, however often it takes.
func (w *deliveryWorld) appendBy(js jetstream.JetStream) error {
	id, n := nuid.Next(), rand.IntN(1000)
	types := []string{"grown:v1", "watered:v1", "wilted:v1"}
	stream, typ := fmt.Sprintf("plant-%d", n%4), types[n%len(types)]
	m := &nats.Msg{
		Subject: "exesdb.events." + deliveryStore + "." + stream + "." + harness.Token(typ),
		Header:  nats.Header{"ce-id": {id}, "ce-type": {typ}, "ce-subject": {stream}, "ce-tenant": {fmt.Sprint(n % 9)}, "Nats-Msg-Id": {id}, "traceparent": {"00-" + id}},
		Data:    fmt.Appendf(nil, `{"bed":{"row":%d,"of":7},"n":%d}`, n%5, n),
	}
	for deadline := time.Now().Add(harness.Patience); ; time.Sleep(20 * time.Millisecond) {
		w.appending.RLock()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err := js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		cancel()
		w.appending.RUnlock()
		if err == nil {
			w.count.Add(1)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("an append is not acknowledged within %s: %w", harness.Patience, err)
		}
	}
}

// publish has publishers go on through everything, until stopPublishing.
func (w *deliveryWorld) publish(publishers int, pause time.Duration) {
	w.Helper()
	for range publishers {
		_, js := w.Connect()
		w.publishing.Go(func() {
			for {
				select {
				case <-w.quit:
					return
				case <-time.After(time.Duration(rand.Int64N(int64(2*pause) + 1))):
				}
				if err := w.appendBy(js); err != nil {
					w.GiveUp(err)
					return
				}
			}
		})
	}
}

func (w *deliveryWorld) stopPublishing() {
	w.Helper()
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.publishing.Wait()
	w.Check()
}

// more returns once that many more events are acknowledged than now.
func (w *deliveryWorld) more(n int64) {
	w.Helper()
	target := w.count.Load() + n
	w.Eventually(fmt.Sprintf("%d more events", n), func() bool { return w.count.Load() >= target })
}

// end ends what may still run, for a test that failed.
func (w *deliveryWorld) end() {
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	for _, r := range w.runs {
		r.MustKill()
	}
	w.publishing.Wait()
}

// drop deletes a key, purged purges a stream: once, as somebody does by hand. They report whether it was
// done.
func (w *deliveryWorld) drop(bucket, key string) bool {
	return w.try(func(ctx context.Context) error {
		kv, err := w.JS.KeyValue(ctx, bucket)
		if err != nil {
			return err
		}
		return kv.Delete(ctx, key)
	})
}

func (w *deliveryWorld) purged(stream string) bool {
	return w.try(func(ctx context.Context) error {
		s, err := w.JS.Stream(ctx, stream)
		if err != nil {
			return err
		}
		return s.Purge(ctx)
	})
}

// leads is the name of the emitter that the lease names.
func (w *deliveryWorld) leads() string {
	var lease struct {
		Leader string `json:"leader"`
	}
	w.try(func(ctx context.Context) error {
		kv, err := w.JS.KeyValue(ctx, clusterBucket)
		if err != nil {
			return err
		}
		entry, err := kv.Get(ctx, leaseKey)
		if err != nil {
			return err
		}
		return json.Unmarshal(entry.Value(), &lease)
	})
	return lease.Leader
}

func (w *deliveryWorld) awaitLeader(as func(string) bool) (name string) {
	w.Helper()
	w.Eventually("a leader of the emitters", func() bool {
		name = w.leads()
		return name != "" && as(name)
	})
	return name
}

// statuses are those that all instances answer.
func (w *deliveryWorld) statuses() (all []harness.Status, owners map[string]string) {
	owners = map[string]string{}
	for _, a := range w.Answers() {
		owners[a.Instance.ID] = a.Instance.Name
		all = append(all, a.Proxies...)
	}
	return all, owners
}

// awaitHealthy waits until each subscription has one holder among the instances that answer, healthy and
// verified, and whom the bucket names.
func (w *deliveryWorld) awaitHealthy() {
	w.Helper()
	var why string
	defer func() {
		if w.Failed() {
			w.Log("not healthy: " + why)
		}
	}()
	w.Eventually("every subscription healthy with one holder", func() bool {
		why = w.unhealthy()
		return why == ""
	})
}

// unhealthy says what keeps awaitHealthy waiting.
func (w *deliveryWorld) unhealthy() string {
	all, owners := w.statuses()
	holders := map[string]harness.Status{}
	for _, s := range all {
		if s.Health == "standby" {
			continue
		}
		if other, twice := holders[s.Name]; twice {
			return fmt.Sprintf("%s is held by %s and by %s", s.Name, other.ReportedBy.Name, s.ReportedBy.Name)
		}
		// What was purged before a subscription had it is told for an hour.
		told := len(w.gone) > 0 && s.Health == "degraded" && s.Gap != nil
		if s.Health != "healthy" && !told || !s.Verified || !s.Registered || s.SinkState == "refusing" {
			return fmt.Sprintf("%s is %s, verified %t, sink %s: %s", s.Name, s.Health, s.Verified, s.SinkState, s.LastError)
		}
		holders[s.Name] = s
	}
	for _, r := range w.readers {
		s, ok := holders[r.name]
		if !ok {
			return r.name + " has no holder"
		}
		record, ok := w.Record(r.key())
		if !ok || record.Owner.ID != s.Owner.ID || owners[record.Owner.ID] == "" {
			return fmt.Sprintf("%s: the bucket names %s, the instance %s", r.name, record.Owner.ID, s.Owner.ID)
		}
	}
	return ""
}

// checkpoint is the sequence in a reader's checkpoint.
func (w *deliveryWorld) checkpoint(r *reader) (seq uint64, ok bool) {
	var point struct {
		Seq uint64 `json:"seq"`
	}
	data, _ := w.LeaderGet("KV_"+pointBucket, "$KV."+pointBucket+"."+r.key())
	return point.Seq, data != nil && json.Unmarshal(data, &point) == nil
}

// read reads a stream from its beginning to what its leader says is its end.
func (w *deliveryWorld) read(stream string) (messages []*jetstream.RawStreamMsg) {
	w.Helper()
	var err error
	defer func() {
		if w.Failed() {
			w.Logf("stream %s: %d messages read: %v", stream, len(messages), err)
		}
	}()
	w.Eventually("stream "+stream+" read", func() bool {
		return w.try(func(ctx context.Context) error {
			var s jetstream.Stream
			if s, err = w.JS.Stream(ctx, stream); err != nil {
				return err
			}
			messages = messages[:0]
			want, last := int(s.CachedInfo().State.Msgs), uint64(0)
			for len(messages) < want {
				var page func(func(*jetstream.RawStreamMsg, error) bool)
				if page, err = jetstreamext.GetBatch(ctx, w.JS, stream, 1000, jetstreamext.GetBatchSeq(last+1)); err != nil {
					return err
				}
				had := len(messages)
				for m, failed := range page {
					if failed != nil {
						err = failed
						break
					}
					messages, last = append(messages, m), m.Sequence
				}
				if len(messages) == had {
					return errors.New("less than the leader says")
				}
			}
			return nil
		})
	})
	return messages
}

// store is what the store's stream holds, and what it held: the truth.
func (w *deliveryWorld) store() (all []harness.Appended) {
	w.Helper()
	return append(slices.Clone(w.gone), w.stored()...)
}

// stored is what the store's stream holds now.
func (w *deliveryWorld) stored() (all []harness.Appended) {
	w.Helper()
	for _, m := range w.read(storeStream) {
		if m.Header.Get("Nats-Marker-Reason") != "" {
			continue // no event
		}
		e := harness.Appended{Seq: m.Sequence, ID: m.Header.Get("ce-id"), Stream: m.Header.Get("ce-subject"), Type: m.Header.Get("ce-type"), Tenant: m.Header.Get("ce-tenant")}
		var data struct{ Bed struct{ Row int } }
		if json.Unmarshal(m.Data, &data) == nil {
			e.Row = data.Bed.Row
		}
		all = append(all, e)
	}
	return all
}

// receipts is what each reader got; those of sinks of kind stream are read back.
func (w *deliveryWorld) receipts() map[string][]harness.Receipt {
	w.Helper()
	all := map[string][]harness.Receipt{}
	for _, m := range w.read(targetStream) {
		one := harness.Receipt{ID: m.Header.Get("ce-id")}
		one.Seq, _ = strconv.ParseUint(m.Header.Get("Exesdb-Seq"), 10, 64)
		one.Incarnation, _ = strconv.ParseUint(m.Header.Get("Exesdb-Incarnation"), 10, 64)
		name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		all[name] = append(all[name], one)
		if trace := m.Header.Get("traceparent"); trace != "00-"+one.ID {
			w.Errorf("%s: event %d came with traceparent %q", name, one.Seq, trace)
		}
	}
	for _, r := range w.readers {
		if r.sink != "stream" {
			r.mu.Lock()
			all[r.name] = slices.Clone(r.got)
			r.mu.Unlock()
		}
	}
	return all
}

// rules is what a reader may see, where repeats are what a kill or a lost answer may cause.
func (w *deliveryWorld) rules(r *reader, repeats bool) harness.Allowed {
	a := harness.Allowed{Fresh: r.start < 0, Repeats: repeats && r.sink != "stream", Holes: r.sink == "publish" && w.holes.Load()}
	if r.start < 0 {
		a.After = w.before
	}
	if len(w.gone) > 0 {
		a.Parked = map[uint64]bool{} // who had not had it when it went need not get it
		for _, e := range w.gone {
			a.Parked[e.Seq] = true
		}
	}
	return a
}

// verdicts judges every reader by what there is now.
func (w *deliveryWorld) verdicts(store []harness.Appended, rules func(*reader) harness.Allowed) (verdicts map[string]*harness.Verdict, ok bool) {
	w.Helper()
	verdicts, ok = map[string]*harness.Verdict{}, true
	receipts := w.receipts()
	for _, r := range w.readers {
		v := harness.Judge(r.wants, store, receipts[r.name], rules(r))
		verdicts[r.name], ok = v, ok && v.Ok()
	}
	return verdicts, ok
}

// settle ends the publishers, waits until every subscription has had every event, stops everything in good
// order, and holds what each subscriber got against what the store has.
func (w *deliveryWorld) settle(rules func(*reader) harness.Allowed) {
	w.Helper()
	w.stopPublishing()
	store := w.store()
	w.awaitDelivered(store, rules)
	w.awaitHealthy()
	w.stopAll()
	w.judge(store, rules)
}

func (w *deliveryWorld) judge(store []harness.Appended, rules func(*reader) harness.Allowed) {
	w.Helper()
	verdicts, _ := w.verdicts(store, rules)
	for _, r := range w.readers {
		v := verdicts[r.name]
		if !v.Ok() {
			w.Errorf("%s (%s): %v", r.name, r.sink, v)
		} else {
			w.Logf("%s (%s): %v", r.name, r.sink, v)
		}
	}
}

// awaitDelivered waits until nothing is missing.
func (w *deliveryWorld) awaitDelivered(store []harness.Appended, rules func(*reader) harness.Allowed) {
	w.Helper()
	var verdicts map[string]*harness.Verdict
	deadline := time.Now().Add(harness.Patience)
	for {
		missing := 0
		verdicts, _ = w.verdicts(store, rules)
		for _, r := range w.readers {
			if v := verdicts[r.name]; !rules(r).Holes {
				missing += v.Lost
				if rules(r).Fresh && len(v.Findings) == 0 && v.Wanted == 0 {
					missing++
				}
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, r := range w.readers {
				w.Logf("%s (%s): %v", r.name, r.sink, verdicts[r.name])
			}
			w.Fatalf("%d events are not delivered within %s after everything came back", missing, harness.Patience)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// stopAll ends all subproxy processes in good order: instances first, so that what they acknowledge is
// still written.
func (w *deliveryWorld) stopAll() {
	w.Helper()
	for _, group := range []map[string]*harness.Run{w.proxies, w.emitters} {
		for _, r := range group {
			if !r.HasEnded() {
				r.MustSignal(syscall.SIGTERM)
				_ = r.Signal(syscall.SIGCONT) // it may have ended
			}
		}
		for name, r := range group {
			if code := r.Exit(); code != 0 && code != -1 {
				w.Errorf("%s: exit status %d", name, code)
			}
		}
	}
	w.sane()
}

// sane looks for what must not stand in any log.
func (w *deliveryWorld) sane() {
	w.Helper()
	for _, r := range w.runs {
		said := r.Log.String()
		for _, bad := range []string{"panic:", "DATA RACE", "fatal error:"} {
			if i := strings.Index(said, bad); i >= 0 {
				w.Errorf("%s said:\n%s", r.Name, said[i:min(len(said), i+4000)])
			}
		}
	}
}

// logged counts lines of all runs of emitters or instances whose message begins so.
func (w *deliveryWorld) logged(message string) (n int) {
	for _, r := range w.runs {
		n += len(r.Log.Entries(message))
	}
	return n
}

// awaitReplicas waits until all streams have a leader and all replicas are current.
func (w *deliveryWorld) awaitReplicas() {
	w.Helper()
	for _, stream := range []string{harness.BucketStream, "KV_" + clusterBucket, "KV_" + pointBucket, storeStream, targetStream} {
		w.Eventually("all replicas of "+stream+" current", func() bool { return w.replicated(stream) })
	}
}

func (w *deliveryWorld) replicated(stream string) bool {
	return w.try(func(ctx context.Context) error {
		s, err := w.JS.Stream(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c := s.CachedInfo().Cluster
		if c == nil || len(w.nodes) == 1 {
			return nil
		}
		if c.Leader == "" || len(c.Replicas) != len(w.nodes)-1 {
			return errors.New("no leader")
		}
		for _, peer := range c.Replicas {
			if !peer.Current || peer.Offline {
				return errors.New("not current")
			}
		}
		return nil
	})
}

// leaderOf is the node that leads a stream.
func (w *deliveryWorld) leaderOf(stream string) (leads *harness.Server, follows []*harness.Server) {
	w.Helper()
	name := ""
	w.Eventually("a leader of "+stream, func() bool {
		return w.try(func(ctx context.Context) error {
			s, err := w.JS.Stream(ctx, stream)
			if err != nil {
				return err
			}
			if c := s.CachedInfo().Cluster; c != nil {
				name = c.Leader
			}
			if name == "" {
				return errors.New("none")
			}
			return nil
		})
	})
	for _, n := range w.nodes {
		if n.Name == name {
			leads = n
		} else {
			follows = append(follows, n)
		}
	}
	return leads, follows
}
