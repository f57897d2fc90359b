//go:build unix

package integration

import (
	"strings"
	"syscall"
	"testing"
)

// TestProcesses runs what a user runs: nats-server, subproxy and the nats CLI as processes of their own, with the signals
// and the deaths that processes have.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs and waits for elections")
	}
	p := builtPrograms(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *processPrograms)
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
			test.run(t, p)
		})
	}
}

func processTerminationReleasesEverything(t *testing.T, p *processPrograms) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		node := processNodes(t, p, 1)[0]
		w := attach(t, node.url())
		subscriptions, keys := processMany(500)
		proxy := processServe(t, p, processFile(t, processConfig(node.url(), 1, subscriptions...)))
		processAwait(w, proxy, len(keys), "registered", processAnyStatus)
		processRecords(w, keys, "registered", func(r record) bool { return r.Owner.ID == proxy.id && r.Incarnation == 1 })

		proxy.signal(sig)
		if code := proxy.exit(); code != 0 {
			t.Errorf("%s: exit status %d, want 0", sig, code)
		}
		info := processStream(w)
		for _, key := range keys {
			if r, ok := w.record(key); ok {
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
