package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/exesdb/subproxy/pkg/subscription"
	"github.com/exesdb/subproxy/test/harness"
)

// other is a valid record of somebody else under greenhouseKey.
const other = `{"store":"greenhouse","type":"by_event_type","selector":"greenhouse_initialized:v1","name":"initialized","start_version":0,
	"owner":{"name":"intruder","id":"INTRUDERINTRUDERINTRUD","host":"h","pid":1},"incarnation":1,
	"deliver_subject":"exesdb.proxy.deliver.INTRUDERINTRUDERINTRUD.1","term":0,"cause":"initial","registered_at":"2026-11-23T07:00:00Z"}`

func TestRecordChangedByHandIsMendedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, r := w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"deleted", func() {
			if err := w.BucketKV().Delete(w.Context(), greenhouseKey); err != nil {
				t.Fatal(err)
			}
		}},
		{"purged", func() {
			if err := w.BucketKV().Purge(w.Context(), greenhouseKey); err != nil {
				t.Fatal(err)
			}
		}},
		{"overwritten with garbage", func() { w.Put(greenhouseKey, "garbage") }},
		{"overwritten with nothing", func() { w.Put(greenhouseKey, "") }},
		{"overwritten with another subscription's record", func() {
			w.Put(greenhouseKey, strings.Replace(other, `"name":"initialized"`, `"name":"else"`, 1))
		}},
		{"overwritten with a record without an owner", func() { w.Put(greenhouseKey, strings.Replace(other, "INTRUDERINTRUDERINTRUD", "", 1)) }},
		{"overwritten with another owner's record of the same incarnation", func() { w.Put(greenhouseKey, other) }},
		{"overwritten with an own record of long ago", func() {
			w.Put(greenhouseKey, strings.ReplaceAll(other, "INTRUDERINTRUDERINTRUD", i.Owner().ID))
		}},
		{"overwritten with a record that expires", func() { w.Put(greenhouseKey, "garbage", "Nats-TTL", "1s") }},
	} {
		step.do()
		r = w.Await(greenhouseKey, step.what+": mended", func(now harness.Record) bool {
			return now.Revision > r.Revision+1 && now.Cause == "lost" && now.Owner.ID == i.Owner().ID
		})
		if r.DeliverSubject == "" || !strings.HasPrefix(r.DeliverSubject, "exesdb.proxy.deliver."+i.Owner().ID+".") {
			t.Errorf("%s: mended with deliver subject %q", step.what, r.DeliverSubject)
		}
		w.AwaitStatus(greenhouseTokens, step.what+": verified again", harness.VerifiedAt(r.Revision))
	}
	if superseded := i.counter(t, "superseded_total"); superseded != 0 {
		t.Errorf("superseded %v times by hand-written records of the same incarnation", superseded)
	}
	if alerts := w.Alerts(); len(alerts) > 0 {
		t.Errorf("mending raised alerts: %+v", alerts)
	}
}

func TestSubscriptionWhoseHolderExpiresIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, first := w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	w.attend("intruder", "INTRUDERINTRUDERINTRUD")
	claim := other
	claim = strings.Replace(claim, `"incarnation":1`, `"incarnation":8`, 1)
	expiring := w.Put(greenhouseKey, claim, "Nats-TTL", "1s")
	s := w.AwaitStatus(greenhouseTokens, "stand by", func(s harness.Status) bool { return s.Health == "standby" })
	if s.Owner.ID != "INTRUDERINTRUDERINTRUD" || s.Registered || s.Verified || s.Incarnation != 8 {
		t.Errorf("standing by with %+v", s)
	}
	r := w.Await(greenhouseKey, "taken over from who expired", func(r harness.Record) bool { return r.Owner.ID == i.Owner().ID && r.Revision > expiring })
	if r.Cause != "takeover" || r.Incarnation != 9 || r.Revision <= expiring+1 || first.Incarnation != 1 {
		t.Errorf("taken over with %+v, want cause takeover, incarnation 9, after the marker %d", r, expiring+1)
	}
	w.AwaitStatus(greenhouseTokens, "verified again", harness.VerifiedAt(r.Revision))
	var reasons []string
	for _, m := range w.Heard("exesdb.registry.") {
		reasons = append(reasons, m.Header.Get("Nats-Marker-Reason"))
	}
	if !slices.Contains(reasons, "MaxAge") {
		t.Errorf("no expiry among the bucket's messages: %q", reasons)
	}
	// What was written does not expire in turn.
	m, err := w.Stream().GetMsg(w.Context(), r.Revision)
	if err != nil || m.Header.Get("Nats-TTL") != "" {
		t.Errorf("the record has TTL %q, error %v", m.Header.Get("Nats-TTL"), err)
	}
}

func TestDeletedBucketIsCreatedAnewAndFilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	i := w.start(quiet(t, w.URL, many("s", n)))
	w.awaitVerified("s", n, 1)
	for range 2 {
		before := w.Stream().CachedInfo().Created
		if err := w.JS.DeleteKeyValue(w.Context(), harness.Bucket); err != nil {
			t.Fatal(err)
		}
		w.awaitOwned(i.Owner().ID, n)
		if created := w.Stream().CachedInfo().Created; !created.After(before) {
			t.Errorf("the bucket was created at %s, the one before at %s", created, before)
		}
		for _, s := range w.Statuses("s") {
			if s.LastCause != "lost" && s.LastCause != "leader_changed" {
				t.Errorf("%s: registered again for cause %q", s.Name, s.LastCause)
			}
		}
	}
	config := w.Stream().CachedInfo().Config
	if config.RePublish == nil || !config.AllowDirect || !config.AllowMsgTTL || config.MaxMsgsPerSubject != 1 {
		t.Errorf("the new bucket is %+v", config)
	}
	// The feed follows the new bucket: what is deleted there is mended as before.
	key := "s.by_event_type.type_7=3Av1.s00007"
	r := w.Await(key, "there", func(harness.Record) bool { return true })
	if err := w.BucketKV().Delete(w.Context(), key); err != nil {
		t.Fatal(err)
	}
	w.Await(key, "mended in the new bucket", harness.After(r.Revision, "lost"))
}

// A server need not tell that it deleted a stream; here nobody listens to whether it does. What registers
// then is the timer, which is far off.
func TestDeletionOfTheBucketThatNobodyTellsOfIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	c := quiet(t, w.URL, many("s", n))
	c.SubscriptionProxy.EnableClusterEventSubscriptions = false
	w.start(c)
	w.awaitVerified("s", n, 1)
	if err := w.JS.DeleteKeyValue(w.Context(), harness.Bucket); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the bucket there again", func() bool {
		_, err := w.JS.KeyValue(w.Context(), harness.Bucket)
		return err == nil
	})
}

func TestPurgedBucketIsFilledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	i := w.start(quiet(t, w.URL, many("s", n)))
	w.awaitVerified("s", n, 1)
	if err := w.Stream().Purge(w.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitOwned(i.Owner().ID, n)
	for _, s := range w.Statuses("s") {
		if s.LastCause != "lost" {
			t.Errorf("%s: registered again for cause %q", s.Name, s.LastCause)
		}
	}
}

// awaitVerified waits until the store's n subscriptions say that they are verified, each at the revision or
// above.
func (w *world) awaitVerified(id string, n int, revision uint64) []harness.Status {
	w.Helper()
	var all []harness.Status
	w.Eventually("all subscriptions of "+id+" verified", func() bool {
		all = w.Statuses(id)
		verified := 0
		for _, s := range all {
			if harness.VerifiedAt(revision)(s) {
				verified++
			}
		}
		return len(all) == n && verified == n
	})
	return all
}

// awaitOwned waits until the bucket holds n records of the owner and those are verified at these very
// revisions.
func (w *world) awaitOwned(id string, n int) map[string]harness.Record {
	w.Helper()
	var found map[string]harness.Record
	w.Eventually("the bucket to hold all records of "+id, func() bool {
		found = w.Records()
		for _, r := range found {
			if r.Owner.ID != id {
				return false
			}
		}
		return len(found) == n
	})
	w.Eventually("the owner to say that it verified them", func() bool {
		verified := map[string]bool{}
		for _, a := range w.Ask("status", "", harness.CompletedBy(id)) {
			for _, s := range a.Proxies {
				key := subscription.Subscription{Store: s.Store, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name}.Key()
				verified[key] = a.Instance.ID == id && harness.VerifiedAt(found[key].Revision)(s) || verified[key]
			}
		}
		for key := range found {
			if !verified[key] {
				return false
			}
		}
		return true
	})
	return found
}
