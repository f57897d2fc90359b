package integration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/exesdb/subproxy/internal/config"
)

// What pkg/subscription's table has for every pair, through a store.
func TestPayloadsAreComparedAsPostgreSQLDoes(t *testing.T) {
	t.Parallel()
	g := newGround(t, nil, allEvents("all"),
		config.Subscription{Name: "exact", Type: "by_event_payload", Selector: `{"v":9007199254740993}`},
		config.Subscription{Name: "huge", Type: "by_event_payload", Selector: `{"v":1e400}`},
		config.Subscription{Name: "zero", Type: "by_event_payload", Selector: `{"v":0}`},
		config.Subscription{Name: "any", Type: "by_event_payload", Selector: `{}`},
	)
	g.start()
	data := []string{
		`{"n":1,"v":9007199254740992}`, `{"n":2,"v":9007199254740993.0}`, `{"n":3,"v":10e399}`, `{"n":4,"v":1e-400}`, `{"n":5,"v":-0.0}`,
		`{"n":6,"v":1}}`, `{"n":7,"t":"\ud800"}`, `{"n":8,"t":"\u0000"}`, "{\"n\":9,\"t\":\"\xff\"}", `{"n":10,"v":1e131072}`, `{"n":11,"v":1,"v":0}`,
	}
	for _, d := range data {
		if _, err := g.js.Publish(g.Context(), "exesdb.events.s.o-1.created", []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
	g.eventually("all has all", func() bool { return len(g.delivered("all")) == len(data) })
	for name, want := range map[string][]int{"exact": {2}, "huge": {3}, "zero": {5, 11}, "any": {1, 2, 3, 4, 5, 11}} {
		g.awaitNumbers(name, want...)
	}
}

// awaitNumbers waits until a subscription has exactly these events, in this order.
func (g *ground) awaitNumbers(name string, want ...int) {
	g.Helper()
	var got []int
	g.eventually(fmt.Sprintf("%s has %v", name, want), func() bool {
		got = g.numbers(g.delivered(name))
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		g.Errorf("%s got %v, wanted %v", name, got, want)
	}
}
