package bench

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

func TestHoldingsCountMovesGapsAndWhatIsAstray(t *testing.T) {
	a, again, b := registration.Owner{Name: "a", ID: "1"}, registration.Owner{Name: "a", ID: "2"}, registration.Owner{Name: "b", ID: "3"}
	ms := func(n int) time.Time { return time.UnixMilli(int64(n)) }
	h := newOwnership(nil, "s")
	h.want(map[string]string{"x": "a", "y": "b"})
	off := func(want int) {
		t.Helper()
		if n, _ := h.off(); n != want {
			t.Errorf("%d are astray, want %d", n, want)
		}
	}
	off(2)
	h.hold("x", a, ms(0))
	h.hold("y", a, ms(0))
	off(1)
	h.hold("x", a, ms(1)) // registered again
	h.free("y", ms(10))
	h.free("y", ms(11)) // its marker went, too
	off(1)
	h.hold("y", b, ms(15))
	off(0)
	if m := h.collect(); m.moves != 3 || !slices.Equal(m.gaps, []time.Duration{5 * time.Millisecond}) || !m.last.Equal(ms(15)) {
		t.Errorf("%+v", m)
	}

	h.free("x", ms(20))
	off(1)
	if h.ownerName("x") != "" || h.ownerName("y") != "b" {
		t.Errorf("x is held by %q, y by %q", h.ownerName("x"), h.ownerName("y"))
	}
	h.hold("x", again, ms(50)) // restarted
	h.hold("y", again, ms(60)) // b was killed
	off(1)
	h.want(map[string]string{"x": "a", "y": "a"})
	off(0)
	if m := h.collect(); m.moves != 2 || !slices.Equal(m.gaps, []time.Duration{30 * time.Millisecond}) {
		t.Errorf("%+v", m)
	}

	h.keyOf["ex"] = "x"
	data, err := json.Marshal(status.HandedOver{
		Envelope: status.NewEnvelope(status.HandedOverType, ms(70)), From: again, Subscriptions: []status.Handed{{Name: "ex"}, {Name: "another's"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.give(&nats.Msg{Data: data})
	h.give(&nats.Msg{Data: []byte("no JSON")})
	off(0)
	h.hold("x", b, ms(77))
	h.hold("x", b, ms(78))
	if m := h.collect(); m.moves != 1 || !slices.Equal(m.gaps, []time.Duration{7 * time.Millisecond}) {
		t.Errorf("%+v", m)
	}
}
