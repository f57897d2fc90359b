package registrar

import (
	"testing"

	"github.com/exesdb/subproxy/pkg/registry"
	"github.com/exesdb/subproxy/pkg/subscription"
)

func TestOwnRecordInTheWayIsWrittenAgain(t *testing.T) {
	own := registry.Owner{Name: "a", ID: "a"}
	sub := subscription.Subscription{Store: "s", Type: subscription.ByStream, Selector: "$all", Name: "n"}
	record := registry.Registration{Subscription: sub, Owner: own, Incarnation: 1, Cause: registry.Lost}
	data, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	found := registry.Entry{Key: sub.Key(), Revision: 8, Data: data}
	next, better := resolve(found, true, own, nil, &Attempt{Revision: 7, Incarnation: 1, Known: true, Term: 42})
	if better || next.revision != 8 {
		t.Fatalf("%+v, which is the better claim: %v", next, better)
	}
}
