//go:build unix

package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
)

// TestAlertOfAProcessThatWasKilledIsResolved kills a process between an alert and its end. Whoever comes
// next tells the end: the next run of the same name, or another instance, which has the subscription then.
func TestAlertOfAProcessThatWasKilledIsResolved(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	subproxy := builtSubproxy(t)
	for title, next := range map[string]string{"the next run": "host-a", "another instance": "host-b"} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := func(name string) string {
				return harness.ConfigFile(t, fmt.Sprintf(`nats: {url: "%s"}
instance: {name: %s, session_ttl: 1s}
http: {addr: "127.0.0.1:0"}
emitter: {enabled: true, lease_ttl: 1s}
stores:
  - id: s
    subscriptions:
      - {name: billing, type: by_stream, selector: $all, forward: {sink: request, subject: app.billing, timeout: 1s, max_deliver: 1000}}
`, w.URL, name))
			}
			first := harness.Serve(t, subproxy, config("host-a"))
			if _, err := w.JS.Publish(t.Context(), "exesdb.events.s.o-1.created", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			levels := func() (all []string) {
				for _, a := range w.Alerts() {
					all = append(all, a.Level+" "+a.Scope+" "+a.Name)
				}
				return all
			}
			w.Eventually("nobody takes the event, which is an alert", func() bool { return strings.Contains(strings.Join(levels(), ","), "warning proxy billing") })
			first.MustKill()
			if _, err := w.NC.Subscribe("app.billing", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
				t.Fatal(err)
			}
			before := len(levels())
			harness.Serve(t, subproxy, config(next))
			w.Eventually("the alert is resolved", func() bool {
				all := levels()
				return strings.Contains(strings.Join(all[before:], ","), "resolved proxy billing")
			})
			w.Eventually("no alert stands", func() bool {
				return !w.stands("exesdb.cluster.state.alert.proxy.s.billing")
			})
		})
	}
}

// stands reports whether what was heard last on the subject of a record is a record, and no marker.
func (w *world) stands(subject string) bool {
	w.Level()
	return len(w.Latest(subject)) > 0
}
