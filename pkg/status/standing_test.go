package status

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/exesdb/subproxy/pkg/registration"
)

func TestStandingAlertIsReadUnderItsKeyAndNoOther(t *testing.T) {
	now := time.Now()
	for key, a := range map[string]Alert{
		"alert.proxy.s.billing":      {Scope: "proxy", Store: "s", Name: "billing"},
		"alert.proxy.s.bill=2Eing":   {Scope: "proxy", Store: "s", Name: "bill.ing"},
		"alert.store.s.host-a":       {Scope: "store", Store: "s"},                // one of each instance
		"alert.store.s=2Et.host-a":   {Scope: "store", Store: "s.t", Name: "all"}, // which has no name
		"alert.proxy.=24all.=2A=3E1": {Scope: "proxy", Store: "$all", Name: "*>1"},
	} {
		a.Envelope, a.Level, a.Owner = NewEnvelope(AlertType, now), Critical, registration.Owner{Name: "host-a", ID: "X"}
		s := a.Standing()
		if s.Key() != key {
			t.Errorf("%+v is under %s, want %s", a, s.Key(), key)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		read, err := DecodeStanding(key, data)
		if err != nil || read.Level != Critical || read.Owner != s.Owner || !read.Since.Equal(now) || read.Name != a.Name {
			t.Errorf("%s reads as %+v, %v", key, read, err)
		}
		if _, err := DecodeStanding(key+"x", data); !errors.Is(err, ErrNoStanding) {
			t.Errorf("%s under another key: %v", key, err)
		}
	}
}

func TestWhatIsNoStandingAlertIsRefused(t *testing.T) {
	const key = "alert.proxy.s.billing"
	for _, data := range []string{
		``, `x`, `null`, `[]`, `{}`, `{"scope":1}`,
		`{"scope":"proxy","store":"s","name":"billing","level":"warning"}`,                    // nobody's
		`{"scope":"proxy","store":"s","name":"billing","owner":{"name":"host-a"}}`,            // no run's
		`{"scope":"proxy","name":"billing","owner":{"name":"host-a","id":"X"}}`,               // no store's
		`{"scope":"store","store":"s","name":"billing","owner":{"name":"host-a","id":"X"}}`,   // another's key
		`{"scope":"proxy","store":"other","name":"billing","owner":{"name":"host-a","id":1}}`, // no id
	} {
		if s, err := DecodeStanding(key, []byte(data)); !errors.Is(err, ErrNoStanding) || s != (Standing{}) && s.Key() == key && s.Owner.ID != "" {
			t.Errorf("%s: %+v, %v", data, s, err)
		}
	}
}
