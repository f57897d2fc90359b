//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/placement"
	"github.com/exesdb/subproxy/test/harness"
)

// TestInstancesChaos runs schedules of faults, each made from a seed, on several instances that share their
// subscriptions: they come, go, are killed, frozen, cut off from NATS and drained, while events go on.
// Subscribers refuse what comes from an older incarnation than they have seen. A seed that failed is run
// again with
//
//	go test -run TestInstancesChaos ./test/integration -chaos.seed=SEED
func TestInstancesChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and waits for sessions to end")
	}
	subproxy := builtSubproxy(t)
	chaosSchedules(t, func(t *testing.T, seed uint64) { instancesRun(t, subproxy, seed) })
}

// instancesWorld is a world of instances, each of which reaches NATS over a relay of its own.
type instancesWorld struct {
	*chaos
	s       *instancesSchedule
	relays  map[string][]*harness.Relay // by instance, one to each server
	frozen  map[string]*harness.Run     // by instance
	older   int                         // runs that another of their name replaced
	reloads map[string]bool             // instances that were to read their configurations again

	mu     sync.Mutex
	claims map[string][]harness.Claim // by key
}

func instancesRun(t *testing.T, subproxy string, seed uint64) {
	readers := instancesReaders()
	s := makeInstancesSchedule(seed, readers)
	t.Cleanup(func() {
		if t.Failed() {
			var lines []string
			for _, one := range s.steps {
				at := "not reached"
				if !one.at.IsZero() {
					at = one.at.UTC().Format("15:04:05.000")
				}
				lines = append(lines, at+"  "+one.String())
			}
			t.Logf("seed %d: %v; run it again with: go test -run TestInstancesChaos ./test/integration -chaos.seed=%d\n%s", seed, s, seed, strings.Join(lines, "\n"))
		}
	})
	began := time.Now()
	w := newInstancesWorld(t, subproxy, s, readers)
	w.flow()
	begun := time.Now()
	for i := range s.steps {
		one := &s.steps[i]
		time.Sleep(one.after)
		one.at = time.Now()
		w.act(one)
	}
	w.restore()
	calm := time.Now()
	w.awaitPlaced()
	placed := time.Now()
	w.more(5)
	w.stopPublishing()
	store := w.store()
	w.awaitRequests(store)
	w.awaitDelivered(store, w.fenced)
	delivered := time.Now()
	w.awaitPlaced()
	w.stopAll()
	stopped := time.Now()
	w.judge(store, w.fenced)
	w.gone()
	stale := 0
	for _, r := range readers {
		w.mu.Lock()
		claims := w.claims[r.key()]
		w.mu.Unlock()
		r.mu.Lock()
		offers := r.sent
		stale += len(r.sent) - len(r.got)
		r.mu.Unlock()
		for _, finding := range harness.JudgeClaims(claims, offers, !w.holes.Load()) {
			t.Errorf("%s: %s", r.name, finding)
		}
	}
	w.nothingParked()
	since := func(later, earlier time.Time) time.Duration { return later.Sub(earlier).Round(time.Millisecond) }
	t.Logf("seed %d: %d nodes, %d instances, %d faults, %d events, %d refused to older incarnations; %s to begin, %s of faults, %s until all was in its place, %s until all was delivered, %s to stop",
		seed, s.nodes, len(s.names), len(s.steps), w.count.Load(), stale, since(begun, began), since(calm, begun), since(placed, calm), since(delivered, placed), since(stopped, delivered))
}

// fenced is what a subscriber may see that refuses older incarnations.
func (w *instancesWorld) fenced(r *reader) harness.Allowed {
	a := w.repeats(r)
	a.Fenced = r.sink == "request" // a stream knows events by their ids, whoever sends them
	return a
}

func newInstancesWorld(t *testing.T, subproxy string, s *instancesSchedule, readers []*reader) *instancesWorld {
	for _, r := range readers {
		if r.sink == "request" {
			r.reply, r.delay = fence(s.fences[r.name]), s.delays[r.name]
		}
	}
	w := &instancesWorld{
		chaos: &chaos{deliveryWorld: newDeliveryWorld(t, subproxy, s.nodes, readers...), paused: map[string]bool{}}, s: s,
		relays: map[string][]*harness.Relay{}, frozen: map[string]*harness.Run{}, reloads: map[string]bool{}, claims: map[string][]harness.Claim{},
	}
	w.special = map[string]*special{}
	for _, name := range s.names {
		var urls []string
		for _, node := range w.nodes {
			r := harness.NewRelay(t, node.URL())
			w.relays[name], urls = append(w.relays[name], r), append(urls, r.URL())
		}
		own := &special{urls: strings.Join(urls, ","), instance: fmt.Sprintf(", weight: %d, session_ttl: %s", s.weights[name], sessionTTL)}
		for _, r := range readers {
			if slices.Contains(s.knows[r.name], name) {
				own.readers = append(own.readers, r)
			}
		}
		w.special[name] = own
	}
	sub, err := w.NC.Subscribe("exesdb.registry.>", w.hear)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// fence answers as a subscriber does that takes nothing from an older incarnation after a newer one.
func fence(older string) func(*harness.Receipt) string {
	newest := uint64(0)
	return func(one *harness.Receipt) string {
		if one.Incarnation < newest {
			return older
		}
		newest = one.Incarnation
		return "+ACK"
	}
}

// hear notes the registrations as they are committed.
func (w *instancesWorld) hear(m *nats.Msg) {
	var r harness.Record
	if json.Unmarshal(m.Data, &r) != nil {
		return
	}
	revision, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	key := strings.TrimPrefix(m.Subject, "exesdb.registry.")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims[key] = append(w.claims[key], harness.Claim{Revision: revision, Incarnation: r.Incarnation, Owner: r.Owner.ID})
}

// flow starts emitters and the instances that are there at first, and has publishers go on.
func (w *instancesWorld) flow() {
	w.Helper()
	e := w.emitter("emitter-1")
	w.Eventually("the store's stream", func() bool { return len(e.Log.Entries("emitter runs")) > 0 })
	w.emitter("emitter-2")
	for _, name := range w.s.names[:w.s.first] {
		w.proxy(name)
	}
	w.publish(2, 20*time.Millisecond)
	w.awaitHealthy()
	w.more(10)
}

func (w *instancesWorld) act(s *step) {
	w.Helper()
	name, reader, _ := strings.Cut(s.target, " ")
	switch s.fault {
	case "cut":
		w.relay(name, (*harness.Relay).Cut)
	case "mend":
		w.relay(name, (*harness.Relay).Mend)
	case "stall":
		w.relay(name, (*harness.Relay).Stall)
	case "flow":
		w.relay(name, (*harness.Relay).Flow)
	case "pause":
		w.frozen[name] = w.process(name)[name]
		w.frozen[name].MustSignal(syscall.SIGSTOP)
	case "continue":
		w.frozen[name].MustSignal(syscall.SIGCONT)
		delete(w.frozen, name)
	case "replace":
		w.older++
		w.proxies[fmt.Sprintf("%s before %d", name, w.older)] = w.proxies[name]
		w.proxy(name)
	case "drain", "undo drain":
		request := fmt.Sprintf(`{"instance":%q,"undo":%t}`, name, s.fault != "drain")
		_, _ = w.NC.Request("exesdb.proxy.control.drain", []byte(request), time.Second) // where nobody hears it there is no such fault
	case "leader changed":
		_ = w.NC.Publish(harness.LeaderChanged, fmt.Appendf(nil, `{"store":%q}`, deliveryStore))
	case "reload":
		w.reload(name, w.reader(reader))
	default:
		w.do(s)
	}
}

func (w *instancesWorld) relay(name string, do func(*harness.Relay)) {
	for _, r := range w.relays[name] {
		do(r)
	}
}

// reload adds a subscription to what an instance is configured with, or takes it away.
func (w *instancesWorld) reload(name string, r *reader) {
	own := w.special[name]
	if i := slices.Index(own.readers, r); i >= 0 {
		own.readers = slices.Delete(slices.Clone(own.readers), i, i+1)
	} else {
		own.readers = append(slices.Clone(own.readers), r)
	}
	w.config(name)
	w.reloads[name] = true
	w.hangup(name)
}

// hangup has an instance read its configuration, if it runs so far that it hears: it listens before it says
// anything.
func (w *instancesWorld) hangup(name string) {
	if run := w.proxies[name]; run != nil && len(run.Log.Entries("")) > 0 && !run.HasEnded() {
		_ = run.Signal(syscall.SIGHUP) // it may end meanwhile
	}
}

// restore ends all faults.
func (w *instancesWorld) restore() {
	w.Helper()
	w.mend()
	for _, name := range w.s.names {
		if run := w.proxies[name]; !w.s.absent[name] && (run == nil || run.HasEnded()) {
			w.start(name)
		}
	}
	for key, run := range w.proxies { // what is left of a name that is to have no instance
		if name, _, older := strings.Cut(key, " "); older && w.s.absent[name] && !run.HasEnded() {
			run.MustSignal(syscall.SIGTERM)
			run.Exit()
		}
	}
	if len(w.nodes) > 1 {
		w.awaitReplicas()
	}
	for _, name := range w.s.names {
		if run := w.proxies[name]; w.reloads[name] && run != nil { // it may not have been able to
			w.Eventually(name+" to hear signals", func() bool { return len(run.Log.Entries("")) > 0 || run.HasEnded() })
			w.hangup(name)
		}
		if w.s.undo {
			w.act(&step{fault: "undo drain", target: name})
		}
	}
}

// calmWithin is how long after the last fault everything is in its place: a killed instance's session ends,
// whoever is not the first to try takes its turn, and reconnects are due, on a machine that is busy.
const calmWithin = 20 * time.Second

func (w *instancesWorld) awaitPlaced() {
	w.Helper()
	why := ""
	for deadline := time.Now().Add(calmWithin); ; time.Sleep(20 * time.Millisecond) {
		if why = w.unhealthy(); why == "" {
			why = w.misplaced()
		}
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("not within %s after the last fault: everything in its place: %s", calmWithin, why)
		}
	}
}

// session is what the contract says is in a session.
type session struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Weight   int    `json:"weight"`
	Draining bool   `json:"draining"`
}

// runsOf are the processes of an instance's name that there are, by their ids; empty where one has not said
// its id yet.
func (w *instancesWorld) runsOf(name string) map[string]bool {
	ids := map[string]bool{}
	for key, run := range w.proxies {
		if other, _, _ := strings.Cut(key, " "); other != name || run.HasEnded() {
			continue
		}
		id := ""
		for _, line := range run.Log.Entries("connected to NATS") {
			id, _ = line["id"].(string)
		}
		ids[id] = true
	}
	return ids
}

// misplaced says what is not as the rule of sharing has it; empty: nothing.
func (w *instancesWorld) misplaced() string {
	answers := w.Answers()
	superseded := map[string]bool{} // by id
	for _, a := range answers {
		superseded[a.Instance.ID] = a.Instance.Superseded
	}
	members := map[string]session{}
	for _, name := range w.s.names {
		var s session
		data, _ := w.LeaderGet("KV_"+clusterBucket, "$KV."+clusterBucket+".member."+name)
		if len(data) > 0 && json.Unmarshal(data, &s) != nil {
			return name + "'s session can't be read"
		}
		runs := w.runsOf(name)
		switch {
		case len(runs) == 0 && s.ID != "":
			return name + " is gone and has a session"
		case len(runs) > 0 && !runs[s.ID]:
			return fmt.Sprintf("%s's session is %q's", name, s.ID)
		}
		for id := range runs {
			if was, answered := superseded[id]; !answered || was != (id != s.ID) {
				return fmt.Sprintf("%s: run %q is superseded: %t, answers: %t, and the session is that of %s", name, id, was, answered, s.ID)
			}
			members[name] = s
		}
	}
	reported := map[string]map[string]harness.Status{} // by subscription and instance, of those that have sessions
	for _, a := range answers {
		if superseded[a.Instance.ID] {
			continue
		}
		for _, s := range a.Proxies {
			if reported[s.Name] == nil {
				reported[s.Name] = map[string]harness.Status{}
			}
			reported[s.Name][a.Instance.Name] = s
		}
	}
	for _, r := range w.readers {
		var knowing []string
		for name := range members {
			if slices.Contains(w.special[name].readers, r) {
				knowing = append(knowing, name)
			}
		}
		slices.Sort(knowing)
		by := slices.Sorted(maps.Keys(reported[r.name]))
		if !slices.Equal(knowing, by) {
			return fmt.Sprintf("%s is reported by %v, and known to %v", r.name, by, knowing)
		}
		should := shouldHold(r.key(), knowing, members)
		for name, s := range reported[r.name] {
			holds := s.Health != "standby"
			if holds && !slices.Contains(should, name) {
				return fmt.Sprintf("%s is held by %s, and %v should", r.name, name, should)
			}
			if !holds && s.Owner.Name == name {
				return fmt.Sprintf("%s says that it stands by for itself", name)
			}
		}
	}
	return ""
}

// shouldHold are the instances of which one should hold a subscription that these know: the one that it
// suits best; any, where all of them drain and others do not.
func shouldHold(key string, knowing []string, members map[string]session) []string {
	drained := true
	for _, m := range members {
		drained = drained && m.Draining
	}
	var shares []placement.Member
	for _, name := range knowing {
		if m := members[name]; drained || !m.Draining {
			shares = append(shares, placement.Member{Name: name, Weight: m.Weight})
		}
	}
	if len(shares) == 0 {
		return knowing
	}
	return []string{placement.NewRendezvous(shares).Assign(key)}
}

// awaitRequests waits, at little cost, until subscribers of requests have had as many events as there are
// for them, which leaves little to awaitDelivered.
func (w *instancesWorld) awaitRequests(store []harness.Appended) {
	w.Helper()
	for _, r := range w.readers {
		wanted := 0
		for i := range store {
			if r.wants(&store[i]) {
				wanted++
			}
		}
		had, counted := map[uint64]bool{}, 0
		for deadline := time.Now().Add(harness.Patience); r.sink == "request" && len(had) < wanted && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			r.mu.Lock()
			for ; counted < len(r.got); counted++ {
				had[r.got[counted].Seq] = true
			}
			r.mu.Unlock()
		}
	}
}

// gone looks whether instances that were stopped in good order left anything.
func (w *instancesWorld) gone() {
	w.Helper()
	for _, r := range w.readers {
		if left, ok := w.Record(r.key()); ok {
			w.Errorf("%s is left registered: %+v", r.name, left)
		}
	}
	for _, name := range w.s.names {
		if data, _ := w.LeaderGet("KV_"+clusterBucket, "$KV."+clusterBucket+".member."+name); len(data) > 0 {
			w.Errorf("%s left its session: %s", name, data)
		}
	}
}

// nothingParked looks whether an instance parked what was refused to it because it is superseded.
func (w *instancesWorld) nothingParked() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	stream, err := w.JS.Stream(ctx, "EXESDB_PARKED")
	if err != nil || stream.CachedInfo().State.Msgs == 0 {
		return
	}
	for _, m := range w.read("EXESDB_PARKED") {
		w.Errorf("event %s of incarnation %s was parked on %s: %s", m.Header.Get("Exesdb-Seq"), m.Header.Get("Exesdb-Incarnation"), m.Subject, m.Header.Get("Exesdb-Parked-Reason"))
	}
}
