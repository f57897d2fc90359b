//go:build unix

package integration

import (
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go/jetstream"
)

// TestDelivery has real processes deliver a store's events while its parts are killed, stopped, paused and
// deleted, and holds what subscribers got against what the store has.
func TestDelivery(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and waits for leases and elections")
	}
	subproxy := builtSubproxy(t)
	slots := make(chan struct{}, 4) // more at once would only measure how many processors there are
	for _, test := range []struct {
		name  string
		nodes int
		run   func(*deliveryWorld)
	}{
		{"EmitterLeaderKilled", 1, deliveryLeaderKilled},
		{"EmitterLeaderStopped", 1, deliveryLeaderStopped},
		{"PausedEmitterWakesWithAnOldTerm", 1, deliveryZombieEmitter},
		{"InstanceKilled", 1, deliveryInstanceKilled},
		{"InstanceStoppedDeliversNothingTwice", 1, deliveryInstanceStopped},
		{"EverythingStoppedDeliversNothingTwice", 1, deliveryEverythingStopped},
		{"EverythingKilledAtOnce", 1, deliveryEverythingKilled},
		{"InstanceThatHostsTheEmitterKilledAndStopped", 1, deliveryHosted},
		{"LaterInstanceTakesOver", 1, deliveryTakeover},
		{"PausedInstanceWakesSuperseded", 1, deliveryZombieInstance},
		{"SubscriberAwayIsDegraded", 1, deliverySubscriberAway},
		{"RefusedEventIsParkedAndReplayed", 1, deliveryRefused},
		{"SlowSubscriberSlowsNobody", 1, deliverySlowSubscriber},
		{"NewSubscriptionKeepsItsPlace", 1, deliveryNewKeepsItsPlace},
		{"NewSubscriptionOfEmptyStoreKeepsItsPlace", 1, deliveryNewOfEmptyStore},
		{"RegistryPurged", 1, deliveryRegistryPurged},
		{"CheckpointBucketDeletedWhileRunning", 1, deliveryCheckpointsDeleted},
		{"CheckpointBucketDeletedWhileEmittersAreDown", 1, deliveryCheckpointsDeletedWhileDown},
		{"CheckpointDeletedWhileStoppedBeginsAnew", 1, deliveryBeginsAnew},
		{"LeaseDeletedByHand", 1, deliveryLeaseDeleted},
		{"ClusterBucketDeleted", 1, deliveryClusterBucketDeleted},
		{"StoreRecreatedEmpty", 1, deliveryStoreRecreated},
		{"ServerKilled", 1, deliveryServerKilled},
		{"StreamLeaderThenFollowerKilled", 3, deliveryNodesKilled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			test.run(newDeliveryWorld(t, subproxy, test.nodes, deliveryReaders()...))
		})
	}
}

// once is what no fault may make a subscriber see twice; repeats is at least once where the sink is none of
// kind stream.
func (w *deliveryWorld) once(r *reader) harness.Allowed    { return w.rules(r, false) }
func (w *deliveryWorld) repeats(r *reader) harness.Allowed { return w.rules(r, true) }

// flowing begins, and has publishers go on.
func (w *deliveryWorld) flowing() {
	w.Helper()
	w.begin()
	w.publish(2, 5*time.Millisecond)
	w.more(50)
}

func isNot(name string) func(string) bool { return func(leader string) bool { return leader != name } }

func deliveryLeaderKilled(w *deliveryWorld) {
	w.flowing()
	for range 2 {
		leader := w.awaitLeader(anyLeader)
		w.emitters[leader].MustKill()
		w.awaitLeader(isNot(leader))
		w.more(50)
		w.emitter(leader)
		w.more(50)
	}
	w.settle(w.once) // proxies that live drop what they took already
}

func anyLeader(string) bool { return true }

func deliveryLeaderStopped(w *deliveryWorld) {
	w.flowing()
	for range 3 {
		leader := w.awaitLeader(anyLeader)
		w.emitters[leader].MustSignal(syscall.SIGTERM)
		if code := w.emitters[leader].Exit(); code != 0 {
			w.Errorf("exit status %d", code)
		}
		w.awaitLeader(isNot(leader))
		w.more(30)
		w.emitter(leader)
	}
	w.settle(w.once)
}

func deliveryZombieEmitter(w *deliveryWorld) {
	w.flowing()
	for range 2 {
		leader := w.awaitLeader(anyLeader)
		zombie := w.emitters[leader]
		zombie.MustSignal(syscall.SIGSTOP)
		w.awaitLeader(isNot(leader))
		w.more(100)
		said := len(zombie.Log.Entries("deposed as leader"))
		zombie.MustSignal(syscall.SIGCONT)
		w.Eventually("the zombie to find that it is deposed", func() bool { return len(zombie.Log.Entries("deposed as leader")) > said })
		w.more(30)
	}
	w.settle(w.once)
}

func deliveryInstanceKilled(w *deliveryWorld) {
	w.flowing()
	for range 2 {
		w.proxies["proxy-a"].MustKill()
		w.more(50)
		w.proxy("proxy-a")
		w.awaitHealthy()
		w.more(50)
	}
	w.settle(w.repeats)
}

func deliveryInstanceStopped(w *deliveryWorld) {
	w.flowing()
	for range 3 {
		w.proxies["proxy-a"].MustSignal(syscall.SIGTERM)
		if code := w.proxies["proxy-a"].Exit(); code != 0 {
			w.Errorf("exit status %d", code)
		}
		w.more(50)
		w.proxy("proxy-a")
		w.more(80)
	}
	w.settle(w.once)
}

func deliveryEverythingStopped(w *deliveryWorld) {
	w.flowing()
	for range 2 {
		w.stopAll()
		w.more(50)
		w.emitter("emitter-1")
		w.proxy("proxy-a")
		w.emitter("emitter-2")
		w.more(80)
	}
	w.settle(w.once)
}

func deliveryEverythingKilled(w *deliveryWorld) {
	w.flowing()
	for range 2 {
		for _, r := range w.runs {
			r.MustKill()
		}
		w.more(50)
		w.emitter("emitter-1")
		w.proxy("proxy-a")
		w.emitter("emitter-2")
		w.more(80)
	}
	w.settle(w.repeats)
}

func deliveryHosted(w *deliveryWorld) {
	w.hosted = true
	w.flowing()
	for _, e := range w.emitters {
		e.MustKill()
	}
	w.awaitLeader(func(name string) bool { return name == "proxy-a" })
	w.more(80)
	w.proxies["proxy-a"].MustKill()
	w.more(30)
	w.proxy("proxy-a")
	w.more(80)
	w.proxies["proxy-a"].MustSignal(syscall.SIGTERM)
	w.proxies["proxy-a"].Exit()
	w.proxy("proxy-a")
	w.more(80)
	w.settle(w.repeats)
}

func deliveryTakeover(w *deliveryWorld) {
	w.flowing()
	w.proxy("proxy-b")
	w.awaitHealthy()
	w.more(50)
	w.proxies["proxy-b"].MustSignal(syscall.SIGTERM) // who stood by takes over
	w.proxies["proxy-b"].Exit()
	w.awaitHealthy()
	w.more(50)
	w.proxy("proxy-b")
	w.awaitHealthy()
	w.settle(w.repeats)
}

func deliveryZombieInstance(w *deliveryWorld) {
	w.flowing()
	zombie := w.proxies["proxy-a"]
	zombie.MustSignal(syscall.SIGSTOP)
	w.proxy("proxy-a") // another run under its name
	w.awaitHealthy()
	w.more(100)
	zombie.MustSignal(syscall.SIGCONT)
	w.more(100)
	w.awaitHealthy()
	zombie.MustKill()
	w.settle(w.repeats)
}

func deliverySubscriberAway(w *deliveryWorld) {
	w.flowing()
	away, other := w.reader("all-request"), w.reader("pattern-request")
	w.leave(away)
	w.Eventually("degraded with the reason", func() bool {
		all, _ := w.statuses()
		for _, s := range all {
			if s.Name == away.name && s.Health == "degraded" && strings.Contains(s.LastError, "no subscriber listens") && s.Lag != nil && *s.Lag > 0 {
				return true
			}
		}
		return false
	})
	had := w.received(other)
	w.more(100)
	w.Eventually("another subscription goes on", func() bool { return w.received(other) > had })
	w.join(away)
	w.awaitHealthy()
	w.settle(w.repeats) // an event that was answered as the subscriber left may come again
}

func deliveryRefused(w *deliveryWorld) {
	r := w.reader("all-request")
	var refused uint64
	asked := 0
	r.set(func(r *reader) {
		r.reply = func(one *harness.Receipt) string {
			if refused == 0 && one.Seq > 60 {
				refused = one.Seq
			}
			if one.Seq == refused {
				asked++
				return "-NAK not this one"
			}
			return "+ACK"
		}
	})
	w.flowing()
	w.Eventually("an event parked", func() bool { return w.logged("events were refused and are parked") > 0 })
	w.more(50)
	w.stopPublishing()
	store := w.store()
	parked := func(which *reader) harness.Allowed {
		a := w.once(which)
		if which == r {
			a.Parked = map[uint64]bool{refused: true}
		}
		return a
	}
	w.awaitDelivered(store, parked)
	w.awaitHealthy()
	if asked != 3 {
		w.Errorf("asked %d times, max_deliver is 3", asked)
	}
	if out := w.cli("parked", "list"); !strings.Contains(out, "not this one") {
		w.Errorf("parked list says\n%s", out)
	}
	r.set(func(r *reader) { r.reply = nil })
	if out := w.cli("parked", "replay", "--all", deliveryStore, r.name); !strings.Contains(out, "accepted") {
		w.Errorf("parked replay says\n%s", out)
	}
	r.mu.Lock()
	n := len(r.got)
	if last := r.got[n-1]; last.Seq != refused {
		w.Errorf("the last event is %d, want the parked one, %d", last.Seq, refused)
	}
	r.got = r.got[:n-1]
	r.mu.Unlock()
	w.stopAll()
	w.judge(store, parked)
}

// cli runs a command of subproxy's.
func (w *deliveryWorld) cli(args ...string) string {
	w.Helper()
	cmd := exec.Command(w.subproxy, append(args, "--nats", w.URL)...)
	cmd.Env = harness.Env(w)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Errorf("subproxy %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func deliverySlowSubscriber(w *deliveryWorld) {
	slow, quick := w.reader("all-request"), w.reader("all-stream")
	slow.set(func(r *reader) { r.delay = 60 * time.Millisecond })
	w.flowing()
	w.more(300)
	w.Eventually("others to be level while one is slow", func() bool {
		n, behind := w.received(quick), w.received(slow)
		return n > 300 && behind < n/2
	})
	w.stopPublishing()
	store := w.store()
	w.Eventually("others to have all while one is slow", func() bool { return w.received(quick) == len(store) })
	if behind := w.received(slow); behind >= len(store) {
		w.Errorf("the slow one is not slow: it has %d", behind)
	}
	slow.set(func(r *reader) { r.delay = 0 })
	w.settle(w.once)
}

// deliveryNewKeepsItsPlace: once a subscription that wants new events only has had one, its place is kept,
// whoever dies.
func deliveryNewKeepsItsPlace(w *deliveryWorld) {
	w.point = 5 * time.Second // nothing is written for as long as that
	w.begin()
	for _, r := range w.runs {
		r.MustKill()
	}
	for range 50 {
		w.append() // these must not be lost
	}
	w.emitter("emitter-1")
	w.proxy("proxy-a")
	w.settle(w.repeats)
}

// deliveryNewOfEmptyStore is the same for a store without any event: the first ones are new ones.
func deliveryNewOfEmptyStore(w *deliveryWorld) {
	leader := w.emitter("emitter-1")
	w.proxy("proxy-a")
	w.awaitHealthy()
	w.awaitLeader(anyLeader)
	fresh := w.reader("new-request")
	fresh.set(func(r *reader) { r.reply = func(*harness.Receipt) string { return "" } }) // asked, and does not answer
	asked := make(chan struct{}, 1000)
	fresh.set(func(r *reader) {
		r.reply = func(*harness.Receipt) string {
			select {
			case asked <- struct{}{}:
			default:
			}
			return ""
		}
	})
	w.Eventually("an event shown to the subscriber", func() bool {
		w.append()
		return len(asked) > 0
	})
	leader.MustKill()
	w.proxies["proxy-a"].MustKill()
	fresh.set(func(r *reader) { r.reply = nil })
	for range 20 {
		w.append()
	}
	w.emitter("emitter-1")
	w.proxy("proxy-a")
	w.settle(w.repeats)
	store := w.store()
	for i := range store {
		if fresh.wants(&store[i]) {
			if first := fresh.got[0].Seq; first != store[i].Seq {
				w.Errorf("the first event that came is %d, want %d", first, store[i].Seq)
			}
			break
		}
	}
}

// byHand does to a stream what an operator might.
func (w *deliveryWorld) byHand(what string, do func(ctx context.Context, js jetstream.JetStream) error) {
	w.Helper()
	var err error
	w.Eventually(what, func() bool {
		return w.try(func(ctx context.Context) error {
			err = do(ctx, w.JS)
			return err
		})
	})
}

func (w *deliveryWorld) deleteStream(name string) {
	w.Helper()
	w.byHand("stream "+name+" deleted", func(ctx context.Context, js jetstream.JetStream) error { return js.DeleteStream(ctx, name) })
}

func (w *deliveryWorld) purge(name string) {
	w.Helper()
	w.Eventually("stream "+name+" purged", func() bool { return w.purged(name) })
}

func (w *deliveryWorld) deleteKey(bucket, key string) {
	w.Helper()
	w.Eventually("key "+key+" deleted", func() bool { return w.drop(bucket, key) })
}

func deliveryRegistryPurged(w *deliveryWorld) {
	w.flowing()
	w.purge(harness.BucketStream)
	w.more(50)
	w.awaitHealthy()
	w.deleteStream(harness.BucketStream)
	w.more(50)
	w.awaitHealthy()
	w.settle(w.once)
}

func deliveryCheckpointsDeleted(w *deliveryWorld) {
	w.flowing()
	idle := w.reader("payload-stream")
	w.Eventually("a checkpoint", func() bool { _, ok := w.checkpoint(idle); return ok })
	w.deleteStream("KV_" + pointBucket)
	w.more(50)
	w.Eventually("the bucket said to be gone", func() bool { return w.logged("a bucket was gone and is created anew") > 0 })
	w.stopPublishing()
	for _, r := range w.readers {
		w.Eventually("the checkpoint of "+r.name+" written again", func() bool { _, ok := w.checkpoint(r); return ok })
	}
	store := w.store()
	w.awaitDelivered(store, w.once)
	for _, r := range w.runs { // now the bucket is all there is
		r.MustSignal(syscall.SIGTERM)
	}
	for _, r := range w.runs {
		r.Exit()
	}
	w.append()
	w.emitter("emitter-1")
	w.proxy("proxy-a")
	w.settle(w.once)
}

func deliveryCheckpointsDeletedWhileDown(w *deliveryWorld) {
	w.flowing()
	for _, e := range w.emitters {
		e.MustSignal(syscall.SIGTERM)
	}
	for _, e := range w.emitters {
		e.Exit()
	}
	w.deleteStream("KV_" + pointBucket)
	w.more(30)
	e := w.emitter("emitter-1")
	w.more(30)
	w.Eventually("the loss said loudly", func() bool { return len(e.Log.Entries("checkpoints are missing that there were")) > 0 })
	w.settle(w.once)
}

func deliveryBeginsAnew(w *deliveryWorld) {
	w.flowing()
	anew := w.reader("all-request")
	w.stopPublishing()
	store := w.store()
	w.awaitDelivered(store, w.once)
	w.proxies["proxy-a"].MustSignal(syscall.SIGTERM)
	w.proxies["proxy-a"].Exit()
	w.Eventually("the last checkpoint", func() bool { seq, _ := w.checkpoint(anew); return seq == store[len(store)-1].Seq })
	w.deleteKey(pointBucket, anew.key())
	had := w.received(anew)
	w.proxy("proxy-a")
	w.Eventually("everything delivered again", func() bool { return w.received(anew) == had+len(store) })
	w.awaitHealthy()
	w.stopAll()
	w.judge(store, func(r *reader) harness.Allowed { return w.rules(r, r == anew) })
}

func deliveryLeaseDeleted(w *deliveryWorld) {
	w.flowing()
	for range 3 {
		w.deleteKey(clusterBucket, leaseKey)
		w.awaitLeader(anyLeader)
		w.more(30)
	}
	w.purge("KV_" + clusterBucket)
	w.more(30)
	w.awaitLeader(anyLeader)
	w.settle(w.once)
}

func deliveryClusterBucketDeleted(w *deliveryWorld) {
	w.flowing()
	w.deleteStream("KV_" + clusterBucket)
	w.more(50)
	w.awaitLeader(anyLeader)
	leader := w.awaitLeader(anyLeader)
	w.more(50)
	w.emitters[leader].MustKill() // the other one leads with a term of a bucket that knows nothing
	w.awaitLeader(isNot(leader))
	w.more(50)
	w.settle(w.once)
}

// deliveryStoreRecreated: the events of the new stream have sequences that the old one's had.
func deliveryStoreRecreated(w *deliveryWorld) {
	w.flowing()
	w.stopPublishing()
	store := w.store()
	w.awaitDelivered(store, w.once)
	var config jetstream.StreamConfig
	w.byHand("the store's configuration", func(ctx context.Context, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, storeStream)
		if err == nil {
			config = s.CachedInfo().Config
		}
		return err
	})
	first := map[string]int{}
	for name, got := range w.receipts() {
		first[name] = len(got)
	}
	w.deleteStream(storeStream)
	w.byHand("the store created", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, config)
		return err
	})
	w.quit = make(chan struct{})
	w.publish(2, 5*time.Millisecond)
	w.more(100)
	w.stopPublishing()
	w.Eventually("the second store's events delivered", func() bool {
		second := w.store()
		receipts := w.receipts()
		for _, r := range w.readers {
			if may := w.onceMore(r); !may.Holes && harness.Judge(r.wants, second, receipts[r.name][first[r.name]:], may).Lost > 0 {
				return false
			}
		}
		return true
	})
	second := w.store()
	w.awaitHealthy()
	w.stopAll()
	for name, got := range w.receipts() {
		r := w.reader(name)
		if v := harness.Judge(r.wants, second, got[first[name]:], w.onceMore(r)); !v.Ok() {
			w.Errorf("%s: %v", name, v)
		}
	}
}

// onceMore is for events of a store that is created again: all of them are new.
func (w *deliveryWorld) onceMore(r *reader) harness.Allowed {
	if r.start > 0 {
		return harness.Allowed{}
	}
	return harness.Allowed{Holes: w.once(r).Holes}
}

func deliveryServerKilled(w *deliveryWorld) {
	w.flowing()
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		w.nodes[0].MustSignal(end)
		w.nodes[0].Exit()
		w.nodes[0].Launch()
		w.more(50)
	}
	w.settle(w.repeats)
}

func deliveryNodesKilled(w *deliveryWorld) {
	w.flowing()
	for _, victim := range []string{"leader", "follower"} {
		w.awaitReplicas()
		node, follows := w.leaderOf(storeStream)
		if victim == "follower" {
			node = follows[0]
		}
		w.holes.Store(true) // the proxy may be connected to it, and what it had just sent by core NATS is gone
		node.MustKill()
		w.more(100)
		node.Launch()
		w.more(30)
	}
	w.awaitReplicas()
	w.settle(w.repeats)
}
