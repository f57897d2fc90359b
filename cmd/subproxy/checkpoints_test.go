package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestOrphanedCheckpointsAreListedAndDropped(t *testing.T) {
	url, _, js := startParked(t)
	if out, err := execute(t, "checkpoints", "list", "-s", url, "--json"); err != nil || strings.TrimSpace(out) != "[]" {
		t.Fatalf("without a bucket: %q, %v", out, err)
	}
	points, err := kv.Open(t.Context(), js, kv.Config{Kind: kv.Checkpoints})
	if err != nil {
		t.Fatal(err)
	}
	records, err := kv.Open(t.Context(), js, kv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	held := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "a"}
	old := subscription.Subscription{Store: "s", Type: subscription.ByEventType, Selector: "t:v1", Name: "a"}
	other := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "o", Name: "b"}
	for _, s := range []subscription.Subscription{held, old, other} {
		if r := points.Put(t.Context(), []kv.Write{{Key: s.Key(), Data: []byte(`{"seq":1000,"term":1,"epoch":"1"}`)}}); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	data, err := json.Marshal(registration.Registration{Subscription: held, Incarnation: 1, DeliverSubject: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if r := records.Put(t.Context(), []kv.Write{{Key: held.Key(), Data: data}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	list := func(args ...string) (keys []string) {
		t.Helper()
		out, err := execute(t, append([]string{"checkpoints", "list", "-s", url, "--json"}, args...)...)
		var rows []checkpointRow
		if err != nil || json.Unmarshal([]byte(out), &rows) != nil {
			t.Fatalf("%s, %v", out, err)
		}
		for _, r := range rows {
			if keys = append(keys, r.Key); r.Sequence != 1000 || r.Registered != (r.Key == held.Key()) {
				t.Errorf("%+v", r)
			}
		}
		return keys
	}
	if got := strings.Join(list("s"), " "); got != old.Key()+" "+held.Key()+" "+other.Key() {
		t.Errorf("listed: %s", got)
	}
	if got := strings.Join(list("s", "a", "--orphans"), " "); got != old.Key() {
		t.Errorf("orphans of a: %s", got)
	}
	if out, err := execute(t, "checkpoints", "list", "-s", url); err != nil || !strings.Contains(out, "t:v1") || !strings.Contains(out, "1000") {
		t.Errorf("%s, %v", out, err)
	}
	out, err := execute(t, "checkpoints", "drop", "-s", url, held.Key(), "s.by_stream.x.none")
	if err == nil || !strings.Contains(out, "a subscription is registered") || !strings.Contains(out, "there is no checkpoint") {
		t.Errorf("drop what is in use: %s, %v", out, err)
	}
	if out, err := execute(t, "checkpoints", "drop", "-s", url, "--orphans", "s", "a"); err != nil || !strings.Contains(out, old.Key()+"\tdropped, at 1000") {
		t.Errorf("%s, %v", out, err)
	}
	if got := strings.Join(list(), " "); got != held.Key()+" "+other.Key() {
		t.Errorf("left: %s", got)
	}
	if _, err := execute(t, "checkpoints", "drop", "-s", url); err == nil {
		t.Error("drop without a key is taken")
	}
}
