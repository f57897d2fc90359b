package integration

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// bucketKV is the bucket as a person with the nats command has it.
func (w *world) bucketKV() jetstream.KeyValue {
	w.Helper()
	kv, err := w.js.KeyValue(w.Context(), bucket)
	if err != nil {
		w.Fatal(err)
	}
	return kv
}

func (w *world) stream() jetstream.Stream {
	w.Helper()
	s, err := w.js.Stream(w.Context(), bucketStream)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// put writes by hand and returns the revision.
func (w *world) put(key, value string, headers ...string) uint64 {
	w.Helper()
	m := nats.NewMsg("$KV." + bucket + "." + key)
	m.Data = []byte(value)
	for n := 0; n < len(headers); n += 2 {
		m.Header.Set(headers[n], headers[n+1])
	}
	ack, err := w.js.PublishMsg(w.Context(), m)
	if err != nil {
		w.Fatal(err)
	}
	return ack.Sequence
}

// other is a valid record of somebody else under greenhouseKey.
const other = `{"store":"greenhouse","type":"by_event_type","selector":"greenhouse_initialized:v1","name":"initialized","start_version":0,
	"owner":{"name":"intruder","id":"INTRUDERINTRUDERINTRUD","host":"h","pid":1},"incarnation":1,
	"deliver_subject":"exesdb.proxy.deliver.INTRUDERINTRUDERINTRUD.1","term":0,"cause":"initial","registered_at":"2026-11-23T07:00:00Z"}`

func TestRecordChangedByHandIsMendedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, r := w.settled(quiet(t, w.url, greenhouse), greenhouseKey, greenhouseTokens)
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"deleted", func() {
			if err := w.bucketKV().Delete(w.Context(), greenhouseKey); err != nil {
				t.Fatal(err)
			}
		}},
		{"purged", func() {
			if err := w.bucketKV().Purge(w.Context(), greenhouseKey); err != nil {
				t.Fatal(err)
			}
		}},
		{"overwritten with garbage", func() { w.put(greenhouseKey, "garbage") }},
		{"overwritten with nothing", func() { w.put(greenhouseKey, "") }},
		{"overwritten with another subscription's record", func() {
			w.put(greenhouseKey, strings.Replace(other, `"name":"initialized"`, `"name":"else"`, 1))
		}},
		{"overwritten with a record without an owner", func() { w.put(greenhouseKey, strings.Replace(other, "INTRUDERINTRUDERINTRUD", "", 1)) }},
		{"overwritten with another owner's record of the same incarnation", func() { w.put(greenhouseKey, other) }},
		{"overwritten with an own record of long ago", func() {
			w.put(greenhouseKey, strings.ReplaceAll(other, "INTRUDERINTRUDERINTRUD", i.Owner().ID))
		}},
		{"overwritten with a record that expires", func() { w.put(greenhouseKey, "garbage", "Nats-TTL", "1s") }},
	} {
		step.do()
		r = w.await(greenhouseKey, step.what+": mended", func(now record) bool {
			return now.revision > r.revision+1 && now.Cause == "lost" && now.Owner.ID == i.Owner().ID
		})
		if r.DeliverSubject == "" || !strings.HasPrefix(r.DeliverSubject, "exesdb.proxy.deliver."+i.Owner().ID+".") {
			t.Errorf("%s: mended with deliver subject %q", step.what, r.DeliverSubject)
		}
		w.awaitStatus(greenhouseTokens, step.what+": verified again", verifiedAt(r.revision))
	}
	if superseded := i.counter(t, "superseded_total"); superseded != 0 {
		t.Errorf("superseded %v times by hand-written records of the same incarnation", superseded)
	}
	if alerts := w.alerts(); len(alerts) > 0 {
		t.Errorf("mending raised alerts: %+v", alerts)
	}
}

func TestSubscriptionWhoseHolderExpiresIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	i, first := w.settled(quiet(t, w.url, greenhouse), greenhouseKey, greenhouseTokens)
	w.attend("intruder", "INTRUDERINTRUDERINTRUD")
	claim := other
	claim = strings.Replace(claim, `"incarnation":1`, `"incarnation":8`, 1)
	expiring := w.put(greenhouseKey, claim, "Nats-TTL", "1s")
	s := w.awaitStatus(greenhouseTokens, "stand by", func(s proxyStatus) bool { return s.Health == "standby" })
	if s.Owner.ID != "INTRUDERINTRUDERINTRUD" || s.Registered || s.Verified || s.Incarnation != 8 {
		t.Errorf("standing by with %+v", s)
	}
	r := w.await(greenhouseKey, "taken over from who expired", func(r record) bool { return r.Owner.ID == i.Owner().ID && r.revision > expiring })
	if r.Cause != "takeover" || r.Incarnation != 9 || r.revision <= expiring+1 || first.Incarnation != 1 {
		t.Errorf("taken over with %+v, want cause takeover, incarnation 9, after the marker %d", r, expiring+1)
	}
	w.awaitStatus(greenhouseTokens, "verified again", verifiedAt(r.revision))
	var reasons []string
	for _, m := range w.heard("exesdb.registry.") {
		reasons = append(reasons, m.Header.Get("Nats-Marker-Reason"))
	}
	if !slices.Contains(reasons, "MaxAge") {
		t.Errorf("no expiry among the bucket's messages: %q", reasons)
	}
	// What was written does not expire in turn.
	m, err := w.stream().GetMsg(w.Context(), r.revision)
	if err != nil || m.Header.Get("Nats-TTL") != "" {
		t.Errorf("the record has TTL %q, error %v", m.Header.Get("Nats-TTL"), err)
	}
}

func TestDeletedBucketIsCreatedAnewAndFilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	i := w.start(quiet(t, w.url, many("s", n)))
	w.awaitVerified("s", n, 1)
	for range 2 {
		before := w.stream().CachedInfo().Created
		if err := w.js.DeleteKeyValue(w.Context(), bucket); err != nil {
			t.Fatal(err)
		}
		w.awaitOwned(i.Owner().ID, n)
		if created := w.stream().CachedInfo().Created; !created.After(before) {
			t.Errorf("the bucket was created at %s, the one before at %s", created, before)
		}
		for _, s := range w.statuses("s") {
			if s.LastCause != "lost" && s.LastCause != "leader_changed" {
				t.Errorf("%s: registered again for cause %q", s.Name, s.LastCause)
			}
		}
	}
	config := w.stream().CachedInfo().Config
	if config.RePublish == nil || !config.AllowDirect || !config.AllowMsgTTL || config.MaxMsgsPerSubject != 1 {
		t.Errorf("the new bucket is %+v", config)
	}
	// The feed follows the new bucket: what is deleted there is mended as before.
	key := "s.by_event_type.type_7=3Av1.s00007"
	r := w.await(key, "there", func(record) bool { return true })
	if err := w.bucketKV().Delete(w.Context(), key); err != nil {
		t.Fatal(err)
	}
	w.await(key, "mended in the new bucket", after(r.revision, "lost"))
}

// A server need not tell that it deleted a stream; here nobody listens to whether it does. What registers then is the timer, which is far off.
func TestDeletionOfTheBucketThatNobodyTellsOfIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	c := quiet(t, w.url, many("s", n))
	c.SubscriptionProxy.EnableClusterEventSubscriptions = false
	w.start(c)
	w.awaitVerified("s", n, 1)
	if err := w.js.DeleteKeyValue(w.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	w.eventually("the bucket there again", func() bool {
		_, err := w.js.KeyValue(w.Context(), bucket)
		return err == nil
	})
}

func TestPurgedBucketIsFilledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 50
	i := w.start(quiet(t, w.url, many("s", n)))
	w.awaitVerified("s", n, 1)
	if err := w.stream().Purge(w.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitOwned(i.Owner().ID, n)
	for _, s := range w.statuses("s") {
		if s.LastCause != "lost" {
			t.Errorf("%s: registered again for cause %q", s.Name, s.LastCause)
		}
	}
}

// statuses are those of a store's subscriptions, as one instance answers.
func (w *world) statuses(id string) (all []proxyStatus) {
	w.Helper()
	for _, part := range w.ask("status", `{"store":"`+id+`"}`, func(a []answer) bool { return len(a) > 0 && len(a) == a[0].Parts }) {
		all = append(all, part.Proxies...)
	}
	return all
}

// awaitVerified waits until the store's n subscriptions say that they are verified, each at the revision or above.
func (w *world) awaitVerified(id string, n int, revision uint64) []proxyStatus {
	w.Helper()
	var all []proxyStatus
	w.eventually("all subscriptions of "+id+" verified", func() bool {
		all = w.statuses(id)
		verified := 0
		for _, s := range all {
			if verifiedAt(revision)(s) {
				verified++
			}
		}
		return len(all) == n && verified == n
	})
	return all
}

// awaitOwned waits until the bucket holds n records of the owner and those are verified at these very revisions.
func (w *world) awaitOwned(id string, n int) map[string]record {
	w.Helper()
	var found map[string]record
	w.eventually("the bucket to hold all records of "+id, func() bool {
		found = w.records()
		for _, r := range found {
			if r.Owner.ID != id {
				return false
			}
		}
		return len(found) == n
	})
	w.eventually("the owner to say that it verified them", func() bool {
		verified := map[string]bool{}
		for _, a := range w.ask("status", "", completedBy(id)) {
			for _, s := range a.Proxies {
				key := subscription.Subscription{Store: s.Store, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name}.Key()
				verified[key] = a.Instance.ID == id && verifiedAt(found[key].revision)(s) || verified[key]
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

// completedBy waits for all parts of an instance's answer.
func completedBy(id string) func([]answer) bool {
	return func(answers []answer) bool {
		parts := 0
		for _, a := range answers {
			if a.Instance.ID == id {
				if parts++; parts == a.Parts {
					return true
				}
			}
		}
		return false
	}
}

// records is everything that the bucket holds, read from the stream.
func (w *world) records() map[string]record {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
	defer cancel()
	found := map[string]record{}
	kv, err := w.js.KeyValue(ctx, bucket)
	if err != nil {
		return found
	}
	watch, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return found
	}
	defer func() { _ = watch.Stop() }()
	for {
		select {
		case entry, open := <-watch.Updates():
			if !open || entry == nil {
				return found
			}
			r := decode[record](w, entry.Value())
			r.revision = entry.Revision()
			found[entry.Key()] = r
		case <-ctx.Done():
			return found
		}
	}
}
