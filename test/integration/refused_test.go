package integration

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/test/harness"
)

func TestMissingPermissionIsAStartUpErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]struct {
		permissions server.Permissions
		text        string
	}{
		"write registrations":   {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.exesdb_subscriptions.>"}}}, `publish to \$KV\.exesdb_subscriptions\.`},
		"have a session":        {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.exesdb_cluster.>"}}}, `publish to \$KV\.exesdb_cluster\.member\.`},
		"follow the sessions":   {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"exesdb.cluster.state.>"}}}, `subscribe to exesdb\.cluster\.state\.>`},
		"hear of its name":      {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"exesdb.proxy.superseded.>"}}}, `subscribe to exesdb\.proxy\.superseded\.`},
		"be asked by others":    {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"exesdb.proxy.handover.>"}}}, `subscribe to exesdb\.proxy\.handover\.`},
		"hear leader changes":   {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{harness.LeaderChanged}}}, `subscribe to exesdb\.cluster\.leader_changed`},
		"hear emitter restarts": {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{harness.EmitterRestarted}}}, `subscribe to exesdb\.emitter\.restarted`},
		"follow the registry":   {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"exesdb.registry.>"}}}, `subscribe to exesdb\.registry\.>`},
		"be asked":              {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"exesdb.proxy.control.>"}}}, `subscribe to exesdb\.proxy\.control\.`},
		"hear elections":        {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"$JS.EVENT.>"}}}, `subscribe to \$JS\.EVENT\.ADVISORY\.STREAM\.`},
		"use JetStream":         {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.>"}}}, `publish to \$JS\.API\.`},
		"say its status":        {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"exesdb.proxy.status.>"}}}, `publish to exesdb\.proxy\.status\.`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *server.Options) {
				o.Users = []*server.User{{Username: "admin", Password: "admin"}, {Username: "limited", Password: "limited", Permissions: &denied.permissions}}
				o.NoAuthUser = "admin"
			})
			_, err := tryStart(t, quiet(t, strings.Replace(w.URL, "nats://", "nats://limited:limited@", 1), greenhouse))
			if !errors.Is(err, connect.ErrPermission) || !regexp.MustCompile(denied.text).MatchString(err.Error()) {
				t.Errorf("started with %v, want a permission error that matches %s", err, denied.text)
			}
		})
	}
}

func TestBucketThatLacksASettingIsAStartUpErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	good := jetstream.StreamConfig{
		Name: harness.BucketStream, Subjects: []string{"$KV." + harness.Bucket + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true,
		DenyDelete: true, AllowDirect: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour,
		RePublish: &jetstream.RePublish{Source: "$KV." + harness.Bucket + ".>", Destination: "exesdb.registry.>"},
	}
	for name, lacking := range map[string]struct {
		change        func(*jetstream.StreamConfig)
		setting, mend string
	}{
		"history":             {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, "max_msgs_per_subject", "--max-msgs-per-subject=1"},
		"direct get":          {func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "allow_direct", "--allow-direct"},
		"message TTL":         {func(c *jetstream.StreamConfig) { c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = false, 0 }, "allow_msg_ttl", "--allow-msg-ttl"},
		"markers":             {func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = 0 }, "subject_delete_marker_ttl", "--subject-del-markers-ttl=1h"},
		"republish":           {func(c *jetstream.StreamConfig) { c.RePublish = nil }, "republish", "--republish-destination='exesdb.registry.>'"},
		"republish of data":   {func(c *jetstream.StreamConfig) { c.RePublish.HeadersOnly = true }, "republish", "--republish-destination='exesdb.registry.>'"},
		"republish elsewhere": {func(c *jetstream.StreamConfig) { c.RePublish.Destination = "else.>" }, "republish", "--republish-destination='exesdb.registry.>'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := good
			republish := *good.RePublish
			c.RePublish = &republish
			lacking.change(&c)
			if _, err := w.JS.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			_, err := tryStart(t, quiet(t, w.URL, greenhouse))
			var missing *kv.MissingSettingError
			if !errors.As(err, &missing) {
				t.Fatalf("started with %v, want a MissingSettingError", err)
			}
			if missing.Bucket != harness.Bucket || !strings.Contains(missing.Setting, lacking.setting) {
				t.Errorf("the error is about %s of %s, want %s of %s", missing.Setting, missing.Bucket, lacking.setting, harness.Bucket)
			}
			for _, text := range []string{lacking.setting, "nats stream edit " + harness.BucketStream, lacking.mend} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
			if s, err := w.JS.Stream(t.Context(), harness.BucketStream); err != nil || s.CachedInfo().State.LastSeq != 0 {
				t.Errorf("the bucket was written to: %+v, %v", s.CachedInfo().State, err)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		if _, err := w.JS.CreateStream(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		w.settled(quiet(t, w.URL, greenhouse), greenhouseKey, greenhouseTokens)
	})
}

func TestWithoutVerificationTheStatusSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quiet(t, w.URL, greenhouse)
	c.SubscriptionProxy.EnableRegistrationVerification = false
	w.start(c)
	first := w.Await(greenhouseKey, "registered first", func(harness.Record) bool { return true })
	unverified := func(revision uint64) func(harness.Status) bool {
		return func(s harness.Status) bool {
			return s.Registered && !s.Verified && s.Verification == "off" && s.Health == "healthy" && s.Revision >= revision
		}
	}
	w.AwaitStatus(greenhouseTokens, "registered, unverified", unverified(first.Revision))
	w.Publish(harness.LeaderChanged, "")
	r := w.Await(greenhouseKey, "registered after the leader change", harness.After(first.Revision, "leader_changed"))
	w.AwaitStatus(greenhouseTokens, "registered again, unverified", unverified(r.Revision))
	if a := w.AskOne("reregister", ""); a.Affected != 1 || a.Verified != 1 {
		t.Errorf("reregister: %+v, want the registration to count", a)
	}
}

func TestWithoutClusterEventsOnlyTheTimerActs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quiet(t, w.URL, greenhouse, store("slow", byType("x", "a")))
	c.SubscriptionProxy.EnableClusterEventSubscriptions = false
	i := w.start(c)
	w.awaitVerified("slow", 1, 1)
	w.awaitVerified("greenhouse", 1, 1)
	before := w.Stream().CachedInfo().State.LastSeq
	w.Publish(harness.LeaderChanged, "")
	w.Publish(harness.EmitterRestarted, "")
	if err := w.BucketKV().Delete(t.Context(), greenhouseKey); err != nil {
		t.Fatal(err)
	}
	w.AwaitStatus(greenhouseTokens, "the deletion seen, and left to the timer", func(s harness.Status) bool { return !s.Registered && !s.Verified })
	if last := w.Stream().CachedInfo().State.LastSeq; last != before+1 {
		t.Errorf("the bucket is at revision %d, want %d: something else than the timer wrote", last, before+1)
	}
	if n := i.counter(t, "cluster_events_received_total"); n != 0 {
		t.Errorf("%v cluster events received", n)
	}
	// Now the timer: a reload sets it, for what is registered from then on.
	c = quiet(t, w.URL, greenhouse, store("slow", byType("x", "a")))
	c.SubscriptionProxy.EnableClusterEventSubscriptions = false
	c.SubscriptionProxy.InitialReregisterInterval, c.SubscriptionProxy.NormalReregisterInterval = 20*time.Millisecond, 50*time.Millisecond
	if err := i.Reload(c); err != nil {
		t.Fatal(err)
	}
	w.AskOne("reregister", "")
	r := w.Await(greenhouseKey, "registered by the timer", func(r harness.Record) bool { return r.Cause == "timer" })
	w.Await(greenhouseKey, "registered by the timer again", harness.After(r.Revision, "timer"))
}
