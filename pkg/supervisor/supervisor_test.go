package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/exesdb/subproxy/pkg/breaker"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
	"github.com/exesdb/subproxy/pkg/subscription"
)

var testSettings = proxy.Settings{
	Breaker:         breaker.Settings{MaxFailures: 5, DegradedFailures: 3, Exponential: true, Retry: 3 * time.Second, MaxBackoff: time.Minute},
	InitialInterval: time.Second, NormalInterval: 15 * time.Second, Verify: true, VerificationTimeout: 2 * time.Second, EventDriven: true,
}

var errTest = errors.New("the bucket is away")

// table is a bucket of many keys that can fail or hang, and hands what happens to it to a feed.
type table struct {
	mu       sync.Mutex
	sequence uint64
	entries  map[string]kv.Entry
	writes   int
	fail     error
	failKey  string // only this one fails; empty: all
	hang     bool   // writes wait for the end of their context
	feed     func(kv.Entry)
}

func (b *table) Put(ctx context.Context, writes []kv.Write) []kv.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	results := make([]kv.Result, len(writes))
	if b.hang {
		b.mu.Unlock()
		<-ctx.Done()
		b.mu.Lock()
	}
	for i, w := range writes {
		b.writes++
		switch {
		case b.fail != nil && (b.failKey == "" || b.failKey == w.Key):
			results[i].Err = b.fail
		case ctx.Err() != nil:
			results[i].Err = ctx.Err()
		case b.entries[w.Key].Revision != w.Revision:
			results[i].Err = kv.ErrConflict
		default:
			results[i].Revision = b.put(w.Key, w.Data, w.Incarnation)
		}
	}
	return results
}

// put stores an entry, a deletion where data is nil, and tells the feed.
func (b *table) put(key string, data []byte, released uint64) uint64 {
	b.sequence++
	e := kv.Entry{Key: key, Revision: b.sequence, Data: data}
	if data == nil {
		e.Operation, e.Incarnation = kv.Deleted, released
	}
	b.entries[key] = e
	if b.feed != nil {
		b.feed(e)
	}
	return b.sequence
}

// Patience implements verify.Bucket: there is no way to it.
func (b *table) Patience(work time.Duration) time.Duration { return work }

func (b *table) Get(ctx context.Context, key string) (kv.Entry, bool, error) {
	return b.GetFromLeader(ctx, key)
}

func (b *table) GetLast(ctx context.Context, keys []string, found func(kv.Entry)) error {
	for _, key := range keys {
		if e, ok, _ := b.GetFromLeader(ctx, key); ok {
			found(e)
		}
	}
	return nil
}

func (b *table) GetFromLeader(_ context.Context, key string) (kv.Entry, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	return e, ok, nil
}

func (b *table) set(change func(*table)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

func (b *table) records() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.Operation == kv.Put {
			n++
		}
	}
	return n
}

// rig is a supervisor on a table, in virtual time.
type rig struct {
	*Supervisor
	t       *testing.T
	bucket  *table
	metrics *Metrics

	mu       sync.Mutex
	alerts   []status.Alert
	statuses map[string]int
	given    []status.HandedOver
}

func newRig(t *testing.T, settings proxy.Settings, n int, change ...func(*Options)) *rig {
	r := newRigToBegin(t, settings, n, change...)
	r.Begin(true)
	synctest.Wait()
	return r
}

func newRigToBegin(t *testing.T, settings proxy.Settings, n int, change ...func(*Options)) *rig {
	r := &rig{t: t, bucket: &table{entries: map[string]kv.Entry{}}, metrics: NewMetrics(nil), statuses: map[string]int{}}
	settings.HeartbeatInterval, settings.SummaryInterval = 30*time.Second, 5*time.Second
	o := Options{
		Owner: registration.Owner{Name: "host-a", ID: "id-a"}, Bucket: r.bucket, Settings: settings, Metrics: r.metrics,
		Connected: func() bool { return true }, Publish: r.publish,
	}
	for _, f := range change {
		f(&o)
	}
	r.Supervisor = New(o)
	r.bucket.feed = r.Entry
	r.Apply(testSubscriptions(n))
	return r
}

func testSubscriptions(n int) []subscription.Subscription {
	subs := make([]subscription.Subscription, n)
	for i := range subs {
		subs[i] = subscription.Subscription{Store: "s", Type: subscription.ByEventType, Selector: fmt.Sprintf("type_%d:v1", i%10), Name: fmt.Sprintf("sub_%d", i)}
	}
	return subs
}

func (r *rig) publish(subject string, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case strings.HasPrefix(subject, status.AlertPrefix):
		var a status.Alert
		if err := json.Unmarshal(data, &a); err != nil {
			r.t.Error(err)
		}
		r.alerts = append(r.alerts, a)
	case strings.HasPrefix(subject, status.StatusPrefix):
		r.statuses[subject]++
	case strings.HasPrefix(subject, status.HandOverPrefix):
		var m status.HandedOver
		if err := json.Unmarshal(data, &m); err != nil {
			r.t.Error(err)
		}
		if m.Type == status.HandedOverType {
			r.given = append(r.given, m)
		}
	}
	return nil
}

// takeGiven is what was left to others since the last time.
func (r *rig) takeGiven() (all []status.Handed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.given {
		all = append(all, m.Subscriptions...)
	}
	r.given = nil
	return all
}

// stop ends the rig, so that the bubble has no goroutine left.
func (r *rig) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r.Stop(ctx)
}

func (r *rig) all() []status.Status {
	statuses, err := r.Statuses(context.Background(), control.Request{})
	if err != nil {
		r.t.Fatal(err)
	}
	return statuses
}

// require fails unless every proxy is as wanted.
func (r *rig) require(n int, want string, ok func(status.Status) bool) {
	r.t.Helper()
	statuses := r.all()
	if len(statuses) != n {
		r.t.Fatalf("%d statuses, want %d", len(statuses), n)
	}
	for _, st := range statuses {
		if !ok(st) {
			r.t.Fatalf("%s is not %s: %+v", st.Name, want, st)
		}
	}
}

func verified(st status.Status) bool { return st.Verified && st.Health == breaker.Healthy }

func bubble(t *testing.T, test func(t *testing.T)) { t.Helper(); synctest.Test(t, test) }

func TestEventRegistersEveryProxyOfItsStoreAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 5000)
		defer r.stop()
		r.require(5000, "verified", verified)
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, Term: 7, Leader: "n2", SeenAt: time.Now()})
		r.Tell("other", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		synctest.Wait()
		r.require(5000, "registered for the leader change", func(st status.Status) bool { return verified(st) && st.LastCause == registration.LeaderChanged })
		if n := testutil.ToFloat64(r.metrics.Ignored.WithLabelValues("store")); n != 1 {
			t.Errorf("%v events of unknown stores, want 1", n)
		}
		record, err := lastOf(r.bucket, testSubscriptions(1)[0].Key())
		if err != nil || record.Term != 7 || record.Cause != registration.LeaderChanged || record.Owner.ID != "id-a" || record.Incarnation != 1 {
			t.Errorf("record %+v, %v", record, err)
		}
	})
}

func lastOf(b *table, key string) (registration.Registration, error) {
	e, _, _ := b.GetFromLeader(context.Background(), key)
	return registration.Decode(e.Key, e.Data)
}

func TestFloodOfEventsCostsAHandfulOfRounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := testSettings
		s.InitialInterval, s.NormalInterval = time.Hour, time.Hour
		r := newRig(t, s, 10)
		defer r.stop()
		before := r.bucket.writes
		for i := range 100_000 {
			r.Tell("s", Cluster{Cause: registration.LeaderChanged, Term: uint64(i + 1), SeenAt: time.Now()})
			if i%1000 == 0 {
				time.Sleep(5 * time.Millisecond) // half a second for all
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if rounds := (r.bucket.writes - before) / 10; rounds < 1 || rounds > 10 {
			t.Errorf("100,000 events in half a second cost %d rounds", rounds)
		}
		record, err := lastOf(r.bucket, testSubscriptions(1)[0].Key())
		if err != nil || record.Term != 100_000 {
			t.Errorf("the last event is not in the record: term %d, %v", record.Term, err)
		}
	})
}

func TestOlderTermIsIgnored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1)
		defer r.stop()
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, Term: 7, SeenAt: time.Now()})
		synctest.Wait()
		before := r.bucket.writes
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, Term: 6, SeenAt: time.Now()})
		synctest.Wait()
		if r.bucket.writes != before {
			t.Error("an event of an older term was acted on")
		}
		if n := testutil.ToFloat64(r.metrics.Ignored.WithLabelValues("term")); n != 1 {
			t.Errorf("%v ignored, want 1", n)
		}
	})
}

func TestTopicNarrowsARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 10)
		defer r.stop()
		r.Tell("s", Cluster{Cause: registration.EmitterRestarted, Topic: "type_3:v1", SeenAt: time.Now()})
		synctest.Wait()
		for _, st := range r.all() {
			if restarted := st.LastCause == registration.EmitterRestarted; restarted != (st.Name == "sub_3") {
				t.Errorf("%s has cause %s", st.Name, st.LastCause)
			}
		}
		r.Tell("s", Cluster{Cause: registration.EmitterRestarted, Topic: "nobody", SeenAt: time.Now()})
		synctest.Wait()
		if n := testutil.ToFloat64(r.metrics.Ignored.WithLabelValues("topic")); n != 1 {
			t.Errorf("%v ignored, want 1", n)
		}
	})
}

func TestStoreThatFailsTogetherIsOneAlertALevel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 1000)
		defer r.stop()
		r.bucket.set(func(b *table) { b.fail = errTest })
		r.Tell("", Cluster{Cause: registration.Reconnected, SeenAt: time.Now()})
		time.Sleep(time.Minute)
		synctest.Wait()
		r.require(1000, "failed", func(st status.Status) bool { return st.Health == breaker.Failed && st.Breaker != breaker.Closed })
		r.bucket.set(func(b *table) { b.fail = nil })
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		time.Sleep(time.Second)
		synctest.Wait()
		r.require(1000, "healthy again", verified)
		var got []string
		for _, a := range r.alerts {
			got = append(got, fmt.Sprintf("%s/%s", a.Scope, a.Level))
		}
		if want := "[store/warning store/critical store/resolved]"; fmt.Sprint(got) != want {
			t.Errorf("alerts %v, want %s", got, want)
		}
	})
}

func TestOneFailingProxyRaisesItsOwnAlerts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 10)
		defer r.stop()
		r.bucket.set(func(b *table) { b.fail, b.failKey = errTest, testSubscriptions(1)[0].Key() })
		time.Sleep(2 * time.Minute)
		r.bucket.set(func(b *table) { b.fail = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		var got []string
		for _, a := range r.alerts {
			got = append(got, fmt.Sprintf("%s/%s/%s", a.Scope, a.Name, a.Level))
		}
		if want := "[proxy/sub_0/warning proxy/sub_0/critical proxy/sub_0/resolved]"; fmt.Sprint(got) != want {
			t.Errorf("alerts %v, want %s", got, want)
		}
	})
}

func TestBatchesThatHangAreGivenUpForAnEvent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 10)
		defer r.stop()
		r.bucket.set(func(b *table) { b.hang = true })
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		time.Sleep(3 * time.Second)
		r.bucket.set(func(b *table) { b.hang = false })
		begun := time.Now()
		r.Tell("s", Cluster{Cause: registration.LeaderChanged, SeenAt: begun})
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		r.require(10, "registered for the second event", verified)
	})
}

func TestLostRegistrationsAreMendedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := testSettings
		s.InitialInterval, s.NormalInterval = time.Hour, time.Hour
		r := newRig(t, s, 20)
		defer r.stop()
		for i, sub := range testSubscriptions(20) {
			r.bucket.set(func(b *table) {
				if i%2 == 0 {
					b.put(sub.Key(), nil, 0)
				} else {
					b.put(sub.Key(), []byte("garbage"), 0)
				}
			})
		}
		synctest.Wait()
		r.require(20, "mended", func(st status.Status) bool { return verified(st) && st.LastCause == registration.Lost })
		if n := r.bucket.records(); n != 20 {
			t.Errorf("%d records, want 20", n)
		}
		r.bucket.set(func(b *table) { b.entries, b.sequence = map[string]kv.Entry{}, 0 })
		r.Void()
		synctest.Wait()
		r.require(20, "written again into the new bucket", verified)
		if n := r.bucket.records(); n != 20 {
			t.Errorf("%d records in the new bucket, want 20", n)
		}
	})
}

func TestLaterRunOfTheSameNameRetiresThisOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 20)
		defer r.stop()
		sub := testSubscriptions(1)[0]
		later := registration.Registration{Subscription: sub, Owner: registration.Owner{Name: "host-a", ID: "id-b"}, Incarnation: 2}
		data, err := later.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r.bucket.set(func(b *table) { b.put(sub.Key(), data, 0) })
		synctest.Wait()
		if !r.Retired() {
			t.Fatal("this run goes on")
		}
		r.require(20, "standing by", func(st status.Status) bool { return st.Health == breaker.Standby && st.Owner.ID == "id-b" })
		before := r.bucket.writes
		r.bucket.set(func(b *table) { b.put(sub.Key(), nil, 0) })
		r.Tell("", Cluster{Cause: registration.LeaderChanged, SeenAt: time.Now()})
		if _, err := r.Reregister(context.Background(), "", ""); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if r.bucket.writes != before {
			t.Errorf("a superseded run wrote %d times", r.bucket.writes-before)
		}
	})
}

func TestApplyTouchesOnlyWhatChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := testSettings
		s.InitialInterval, s.NormalInterval = time.Hour, time.Hour
		r := newRig(t, s, 4)
		defer r.stop()
		subs := testSubscriptions(5)
		before := map[string]uint64{}
		for _, st := range r.all() {
			before[st.Name] = st.Revision
		}
		changed, moved := subs[1], subs[2]
		changed.StartVersion, moved.Selector = 42, "elsewhere"
		r.Apply([]subscription.Subscription{subs[0], changed, moved, subs[4]}) // 3 is removed, 4 is new
		synctest.Wait()
		r.require(4, "verified", verified)
		for _, st := range r.all() {
			if same := st.Revision == before[st.Name]; same != (st.Name == "sub_0") {
				t.Errorf("%s: revision %d, was %d", st.Name, st.Revision, before[st.Name])
			}
		}
		if n := r.bucket.records(); n != 4 {
			t.Errorf("%d records, want 4", n)
		}
		if record, err := lastOf(r.bucket, changed.Key()); err != nil || record.Incarnation != 2 || record.StartVersion != 42 {
			t.Errorf("changed: %+v, %v", record, err)
		}
	})
}

func TestRestartAnswersWithANewVerifiedIncarnation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 3)
		defer r.stop()
		record, _ := lastOf(r.bucket, testSubscriptions(2)[1].Key())
		statuses, err := r.Restart(context.Background(), "s", "sub_1")
		if err != nil || len(statuses) != 1 || !statuses[0].Verified || statuses[0].Incarnation != record.Incarnation+1 {
			t.Fatalf("%+v, %v", statuses, err)
		}
		again, _ := lastOf(r.bucket, testSubscriptions(2)[1].Key())
		if again.DeliverSubject == record.DeliverSubject || again.Incarnation != record.Incarnation+1 || again.Cause != registration.Manual {
			t.Errorf("%+v after %+v", again, record)
		}
		if held, _ := r.Holds(context.Background(), "s", "nobody"); held != 0 {
			t.Errorf("holds %d proxies of an unknown name", held)
		}
	})
}

func TestHeartbeatsRepeatEveryStatusOnceAnInterval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := testSettings
		s.InitialInterval, s.NormalInterval = time.Hour, time.Hour
		for _, n := range []int{3, 700} {
			r := newRig(t, s, n)
			time.Sleep(2 * time.Second)
			r.mu.Lock()
			clear(r.statuses)
			r.mu.Unlock()
			time.Sleep(300 * time.Second) // ten intervals
			r.mu.Lock()
			for subject, beats := range r.statuses {
				if beats < 8 || beats > 13 {
					t.Errorf("of %d: %s repeated %d times in ten intervals", n, subject, beats)
				}
			}
			if len(r.statuses) != n {
				t.Errorf("%d of %d statuses repeated", len(r.statuses), n)
			}
			r.mu.Unlock()
			r.stop()
		}
	})
}

func TestStopReleasesEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 5000)
		r.stop()
		if n := r.bucket.records(); n != 0 {
			t.Errorf("%d records left", n)
		}
	})
}

func TestReleaseOfWhatIsNoLongerConfiguredIsTriedUntilItIsDone(t *testing.T) {
	for name, left := range map[string]int{"some": 9, "the whole store": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, testSettings, 10)
				defer r.stop()
				r.bucket.set(func(b *table) { b.fail = kv.ErrNoAck })
				r.Apply(testSubscriptions(10)[:left])
				time.Sleep(3 * releaseAgain) // virtual
				if n := r.bucket.records(); n != 10 {
					t.Fatalf("%d records where nothing can be deleted", n)
				}
				r.bucket.set(func(b *table) { b.fail = nil })
				time.Sleep(2 * releaseAgain)
				synctest.Wait()
				if n := r.bucket.records(); n != left {
					t.Errorf("%d records left, want %d", n, left)
				}
			})
		})
	}
}

func TestStopGivesUpWhenTheBucketHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, testSettings, 10)
		r.bucket.set(func(b *table) { b.hang = true })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun := time.Now()
		r.Stop(ctx)
		if took := time.Since(begun); took > 2*time.Second || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("stopped after %s, %v", took, ctx.Err())
		}
	})
}
