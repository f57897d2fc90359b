package registrar

import (
	"testing"

	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestOwnRecordInTheWayIsWrittenAgain(t *testing.T) {
	own := registration.Owner{Name: "a", ID: "a"}
	sub := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}
	record := registration.Registration{Subscription: sub, Owner: own, Incarnation: 1, Cause: registration.Lost}
	data, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	found := kv.Entry{Key: sub.Key(), Revision: 8, Data: data}
	next, better := resolve(found, true, own, nil, &Attempt{Revision: 7, Incarnation: 1, Known: true, Term: 42})
	if better || next.revision != 8 {
		t.Fatalf("%+v, which is the better claim: %v", next, better)
	}
}
