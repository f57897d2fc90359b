//go:build unix

package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
)

const processElected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED." + harness.BucketStream

// processLead moves the leadership of the bucket's stream to a server and returns when it is there.
func processLead(w *world, name string) {
	w.Helper()
	w.Eventually("bucket led by "+name, func() bool {
		if info := processStream(w); info.Cluster != nil && info.Cluster.Leader == name {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// Refused while there is no leader, and taken by another where the preferred one lags: it is asked
		// for again.
		_, _ = w.NC.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+harness.BucketStream, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, name))
		return false
	})
}

// processSettle waits until the bucket's revisions stay what they are while the instance is asked for its
// statuses, all of them verified: whatever was caused before has ended.
func processSettle(w *world, p *harness.Instance, n int) (last uint64) {
	w.Helper()
	w.Eventually("writes to end", func() bool {
		before := processLast(w)
		processAwait(w, p, n, "settled", processAnyStatus)
		w.Level()
		last = processLast(w)
		return last == before
	})
	return last
}

func processLeaderKilled(subproxyServer, leader string) func(*testing.T, string) {
	return func(t *testing.T, subproxy string) {
		nodes := harness.StartServers(t, 3)
		byName := map[string]*harness.Server{}
		for _, n := range nodes {
			byName[n.Name] = n
		}
		const observer = "n3" // neither killed nor subproxy's
		w := attach(t, byName[observer].URL(), nats.DontRandomize())
		subscriptions, keys := processMany(500)
		proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, processConfig(byName[subproxyServer].URL(), 3, subscriptions...)))
		processAwait(w, proxy, len(keys), "registered", processAnyStatus)
		processLead(w, leader)
		before := processSettle(w, proxy, len(keys))
		records := processRecords(w, keys, "registered", func(r harness.Record) bool { return r.Owner.ID == proxy.ID })
		writes := len(w.Writes())

		elected := make(chan time.Time, 16)
		sub, err := w.NC.Subscribe(processElected, func(*nats.Msg) {
			select {
			case elected <- time.Now():
			default:
			}
		})
		if err == nil {
			err = w.NC.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		killed := time.Now()
		byName[leader].MustKill()

		statuses := processAwait(w, proxy, len(keys), "registered anew", func(s harness.Status) bool { return s.Revision > before })
		verified := processVerifiedAt(statuses)
		advised := <-elected
		t.Logf("SIGKILL to all verified %s; to the advisory %s; from the advisory to all verified %s",
			verified.Sub(killed).Round(time.Millisecond), advised.Sub(killed).Round(time.Millisecond), verified.Sub(advised).Round(time.Millisecond/10))
		written := map[string]bool{}
		w.Eventually("each registration written for the leader change", func() bool {
			for _, one := range w.Writes()[writes:] {
				if one.Record.Cause == "leader_changed" {
					written[one.Key] = true
				}
			}
			return len(written) == len(keys)
		})
		processSame(w, proxy, keys, records, before)

		byName[leader].Launch()
		w.Eventually("three current replicas", func() bool {
			info := processStream(w)
			if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
				return false
			}
			for _, peer := range info.Cluster.Replicas {
				if !peer.Current || peer.Offline {
					return false
				}
			}
			return true
		})
		processSettle(w, proxy, len(keys))
		processSame(w, proxy, keys, records, before)
	}
}

// processSame checks that every registration was written again and is otherwise what it was.
func processSame(w *world, p *harness.Instance, keys []string, was map[string]harness.Record, since uint64) {
	w.Helper()
	now := processRecords(w, keys, "written again", func(r harness.Record) bool { return r.Revision > since })
	for _, key := range keys {
		want := was[key]
		want.Cause, want.RegisteredAt, want.Revision = now[key].Cause, now[key].RegisteredAt, now[key].Revision
		if now[key] != want {
			w.Errorf("the record is\n%+v, want\n%+v", now[key], want)
		}
	}
	if info := processStream(w); info.State.NumSubjects != uint64(len(keys)) {
		w.Errorf("the bucket holds %d keys, want %d", info.State.NumSubjects, len(keys))
	}
	if failed := p.Log.Entries("another run"); len(failed) > 0 {
		w.Errorf("superseded: %v", failed)
	}
}

func processHangingServerIsLeft(t *testing.T, subproxy string) {
	nodes := harness.StartServers(t, 3)
	w := attach(t, nodes[2].URL())
	subscriptions, keys := processMany(500)
	proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, processConfig(nodes[0].URL(), 3, subscriptions...)))
	processAwait(w, proxy, len(keys), "registered", processAnyStatus)
	processLead(w, nodes[0].Name)
	before := processSettle(w, proxy, len(keys))
	records := processRecords(w, keys, "registered", func(r harness.Record) bool { return r.Owner.ID == proxy.ID })

	nodes[0].MustSignal(syscall.SIGSTOP)
	stopped := time.Now()
	statuses := processAwait(w, proxy, len(keys), "registered anew", func(s harness.Status) bool { return s.Revision > before })
	t.Logf("SIGSTOP of subproxy's server to all verified %s", processVerifiedAt(statuses).Sub(stopped).Round(time.Millisecond))
	if lines := proxy.Log.Entries("reconnected to NATS"); len(lines) == 0 || lines[0]["server"] == nodes[0].Name {
		t.Errorf("reconnected: %v", lines)
	}

	// The other servers go on sending it their share of the bucket's reads for minutes: what the bucket
	// holds is read after.
	nodes[0].MustSignal(syscall.SIGCONT)
	w.Eventually("the server back in the cluster", func() bool {
		info := processStream(w)
		for _, peer := range info.Cluster.Replicas {
			if peer.Name == nodes[0].Name && peer.Current && !peer.Offline {
				return true
			}
		}
		return false
	})
	processSettle(w, proxy, len(keys))
	processSame(w, proxy, keys, records, before)
}

func processQuorumComesBack(t *testing.T, subproxy string) {
	nodes := harness.StartServers(t, 3)
	w := attach(t, nodes[0].URL())
	subscriptions, keys := processMany(500)
	proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, processConfig(nodes[0].URL(), 3, subscriptions...)))
	processAwait(w, proxy, len(keys), "registered", processAnyStatus)
	processLead(w, nodes[0].Name) // which goes on taking writes for a while and acknowledges none
	before := processSettle(w, proxy, len(keys))
	records := processRecords(w, keys, "registered", func(r harness.Record) bool { return r.Owner.ID == proxy.ID })

	for _, n := range nodes[1:] {
		n.MustSignal(syscall.SIGSTOP)
	}
	w.Publish(harness.LeaderChanged, "")
	w.Eventually("an alert for the store", func() bool {
		for _, a := range w.Alerts() {
			if a.Scope == "store" && a.Level == "warning" && a.Affected > len(keys)/2 {
				return true
			}
		}
		return false
	})
	for _, n := range nodes[1:] {
		n.MustSignal(syscall.SIGCONT)
	}
	continued := time.Now()
	statuses := processAwait(w, proxy, len(keys), "registered anew", func(s harness.Status) bool {
		return s.Revision > before && s.LastSuccess.After(continued)
	})
	t.Logf("quorum back to all verified %s", processVerifiedAt(statuses).Sub(continued).Round(time.Millisecond))
	w.Eventually("the alert taken back", func() bool {
		alerts := w.Alerts()
		return alerts[len(alerts)-1].Level == "resolved"
	})
	processSettle(w, proxy, len(keys))
	processSame(w, proxy, keys, records, before)
}

func processEmptyServerIsFilledAgain(t *testing.T, subproxy string) {
	node := harness.StartServers(t, 1)[0]
	w := attach(t, node.URL())
	subscriptions, keys := processMany(500)
	proxy := harness.Serve(t, subproxy, harness.ConfigFile(t, processConfig(node.URL(), 1, subscriptions...)))
	processAwait(w, proxy, len(keys), "registered", processAnyStatus)

	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		processSettle(w, proxy, len(keys))
		node.MustSignal(end)
		node.Exit()
		if err := os.RemoveAll(node.Dir); err != nil {
			t.Fatal(err)
		}
		emptied := time.Now()
		node.Launch()
		statuses := processAwait(w, proxy, len(keys), "registered anew", func(s harness.Status) bool {
			return s.LastSuccess != nil && s.LastSuccess.After(emptied)
		})
		t.Logf("%s, emptied, started to all verified %s", end, processVerifiedAt(statuses).Sub(emptied).Round(time.Millisecond))
		processRecords(w, keys, "written again", func(r harness.Record) bool {
			return r.Owner.ID == proxy.ID && r.RegisteredAt.After(emptied)
		})
	}
	if said := proxy.Log.String(); !strings.Contains(said, "created anew") {
		t.Error("subproxy did not say that the bucket is created anew")
	}
}
