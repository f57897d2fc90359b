package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// sessionExamples are the contract's examples that TestContractExamplesOfSessions holds to the code.
var sessionExamples = []string{"member", "drain_request", "drain_response", "reset_term_request", "reset_term_response", "handover", "handed_over", "superseded"}

// attend gives an instance that does not run a session, for a while.
func (w *world) attend(name, id string) {
	w.Helper()
	kv, err := w.JS.KeyValue(w.Context(), "exesdb_cluster")
	if err != nil {
		w.Fatal(err)
	}
	if _, err := kv.Put(w.Context(), membership.MemberKey(name), fmt.Appendf(nil, `{"name":%q,"id":%q,"ttl_ms":3600000}`, name, id)); err != nil {
		w.Fatal(err)
	}
}

func TestContractExamplesOfSessions(t *testing.T) {
	t.Parallel()
	page := examples(t)
	w := newWorld(t)
	bucket, err := kv.Open(t.Context(), w.JS, kv.Config{Kind: kv.Cluster})
	if err != nil {
		t.Fatal(err)
	}
	follower, err := lease.NewFollower(w.JS, bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	owner := registration.Owner{Name: "host-a", ID: "WqEm0C2sVpLQ1g3XKd0Zkb", Host: "host-a", PID: 4711}
	session, err := membership.OpenSession(membership.SessionConfig{Owner: owner, Follower: follower, Version: "0.1.0", Stores: membership.NewStores([]string{"greenhouse_tycoon"})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close(context.Background()) })
	<-session.Opened()
	e, ok, err := bucket.GetFromLeader(t.Context(), "member.host-a")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	same(t, "member", page["member"], string(e.Data))
	// The example's values are those of this instance.
	var got, want membership.Member
	if err := json.Unmarshal(e.Data, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(page["member"]), &want); err != nil {
		t.Fatal(err)
	}
	if got.Since = want.Since; got != want {
		t.Errorf("%+v, the page has %+v", got, want)
	}
	for name, sent := range map[string]any{
		"handover": status.HandOver{
			Envelope: status.NewEnvelope(status.HandOverType, time.Now()), Store: "greenhouse_tycoon", Names: []string{"greenhouse_initialized_to_pubsub_v1"}, To: owner,
		},
		"handed_over": status.HandedOver{
			Envelope: status.NewEnvelope(status.HandedOverType, time.Now()), Store: "greenhouse_tycoon", From: owner,
			Subscriptions: []status.Handed{{
				Name: "greenhouse_initialized_to_pubsub_v1", Revision: 17, Incarnation: 3, Position: registration.Position{Accepted: 120, Epoch: "1763881200000000000"},
			}},
		},
		"superseded":    status.Superseded{Envelope: status.NewEnvelope(status.SupersededType, time.Now()), Owner: owner, By: owner},
		"drain_request": control.DrainRequest{Instance: "host-a", Undo: true},
		"drain_response": control.DrainAnswer{
			Envelope: status.NewEnvelope(control.DrainAnswerType, time.Now()), Instance: control.Instance{Owner: owner, Version: "0.1.0"}, Draining: true,
		},
		"reset_term_request": control.ResetTermRequest{Store: "greenhouse_tycoon", Term: 43},
		"reset_term_response": control.ResetTermAnswer{
			Envelope: status.NewEnvelope(control.ResetTermAnswerType, time.Now()), Instance: control.Instance{Owner: owner, Version: "0.1.0"},
			Store: "greenhouse_tycoon", Before: 1000000, Term: 43, Affected: 1, Verified: 1,
		},
	} {
		data, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		same(t, name, page[name], string(data))
	}
}
