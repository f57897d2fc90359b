//go:build unix

package integration

import (
	"strings"
	"syscall"
	"testing"

	"github.com/exesdb/subproxy/test/harness"
)

// TestProcesses runs what a user runs: nats-server, subproxy and the nats CLI as processes of their own,
// with the signals and the deaths that processes have.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and waits for elections")
	}
	subproxy := builtSubproxy(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, string)
	}{
		{"LeaderKilledRegistersAnew", processLeaderKilled("n1", "n2")},
		{"LeaderKilledThatServesSubproxyRegistersAnew", processLeaderKilled("n1", "n1")},
		{"HangingServerIsLeft", processHangingServerIsLeft},
		{"QuorumComesBack", processQuorumComesBack},
		{"EmptyServerIsFilledAgain", processEmptyServerIsFilledAgain},
		{"RestartTakesOver", processRestartTakesOver},
		{"SupersededRunNeverWritesAgain", processSupersededRunNeverWritesAgain},
		{"HangupReloads", processHangupReloads},
		{"SeenWithNATSCLI", processSeenWithNATSCLI},
		{"CommandsSayHowTheyEnded", processCommandsSayHowTheyEnded},
		{"PermissionsAsDocumentedAreEnough", processPermissions},
		{"TerminationReleasesEverything", processTerminationReleasesEverything},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, subproxy)
		})
	}
}

func processTerminationReleasesEverything(t *testing.T, subproxy string) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		node := harness.StartServers(t, 1)[0]
		w := attach(t, node.URL())
		subscriptions, keys := processMany(500)
		proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, processConfig(node.URL(), 1, subscriptions...)))
		processAwait(w, proxy, len(keys), "registered", processAnyStatus)
		processRecords(w, keys, "registered", func(r harness.Record) bool { return r.Owner.ID == proxy.ID && r.Incarnation == 1 })

		proxy.MustSignal(sig)
		if code := proxy.Exit(); code != 0 {
			t.Errorf("%s: exit status %d, want 0", sig, code)
		}
		info := processStream(w)
		for _, key := range keys {
			if r, ok := w.Record(key); ok {
				t.Fatalf("%s: still registered after the end: %+v", sig, r)
			}
		}
		if want := 2 * uint64(len(keys)); info.State.LastSeq != want {
			t.Errorf("%s: the bucket's last revision is %d, want %d: each written once and released once", sig, info.State.LastSeq, want)
		}
		if said := proxy.Log.String(); !strings.Contains(said, `"msg":"stopped"`) || strings.Contains(said, "could not be released") {
			t.Errorf("%s: subproxy said:\n%s", sig, said)
		}
	}
}
