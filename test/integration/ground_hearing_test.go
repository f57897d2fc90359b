package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/exesdb/subproxy/internal/web"
)

// unhear takes the permission to subscribe to subjects; none gives all back.
func (l *limited) unhear(subjects ...string) {
	l.Helper()
	l.permit(&server.Permissions{Subscribe: &server.SubjectPermission{Deny: subjects}})
}

// newDeaf is a limited ground whose permissions to subscribe are taken. Its instance looks at its stores
// twice a second.
func newDeaf(t *testing.T) *limited {
	t.Helper()
	l := newLimited(t)
	l.config.Status.EmitterSilentAfter = 2 * time.Second
	return l
}

// awaitResolved waits until the store's trouble has been an alert, and is none any more.
func (l *limited) awaitResolved(reason string) {
	l.Helper()
	l.Eventually("the alert is resolved", func() bool {
		raised, resolved := false, false
		for _, a := range l.Alerts() {
			raised = raised || a.Level == "warning" && strings.Contains(a.LastError, reason)
			resolved = raised && a.Level == "resolved"
		}
		return resolved
	})
}

func TestDeliverSubjectTakenAwayAndGivenBackLosesNothing(t *testing.T) {
	t.Parallel()
	l := newDeaf(t)
	l.config.Emitter.Enabled = false
	emitter := *l.config
	emitter.NATS.URL = l.URL
	l.emit(&emitter)
	l.start()
	l.metrics.MustRegister(web.NewCollector(l.instance, 100))
	l.append(1, 10)
	l.awaitDelivered("all", 10)
	l.unhear("exesdb.proxy.deliver.>")
	l.append(11, 500)
	const reason = "not permitted to subscribe to exesdb.proxy.deliver."
	l.awaitRefusing("all", reason)
	if l.metric("store_trouble", "store=s") != 1 {
		t.Error("no metric says that the store has trouble")
	}
	if n := l.logged("a permission is missing"); n != 1 {
		t.Errorf("%d lines of the log have the permission", n)
	}
	l.unhear()
	l.append(511, 500)
	l.awaitDelivered("all", 1010)
	l.awaitHealthy("all")
	l.awaitResolved(reason)
	if l.metric("store_trouble", "store=s") != 0 {
		t.Error("a metric says that the store has trouble still")
	}
}

// What else an instance and the emitter that it hosts hear. Events go on meanwhile, or come when the
// permission is back.
func TestSubscriptionTakenAwayIsNamedAndComesBack(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]string{
		"registrations": "exesdb.registry.>", "instances": "exesdb.cluster.state.>", "cluster events": "exesdb.cluster.leader_changed", "control": "exesdb.proxy.control.>",
		"services": "$SRV.>", "progress": "exesdb.emitter.progress.>", "hand-overs": "exesdb.proxy.handover.>", "advisories": "$JS.EVENT.ADVISORY.>",
		"stored events": "exesdb.stored.>", "inboxes": "_INBOX.>", "all": ">",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newDeaf(t)
			l.start()
			l.append(1, 10)
			l.awaitDelivered("all", 10)
			l.Eventually("the first events are in the checkpoint", func() bool { return l.checkpointOf("all") == 10 })
			l.unhear(subject)
			l.append(11, 100)
			reason := "not permitted to subscribe to "
			if subject != ">" {
				reason += strings.TrimSuffix(subject, ">")
			}
			l.awaitRefusing("all", reason)
			l.unhear()
			l.append(111, 100)
			l.awaitDelivered("all", 210)
			l.awaitHealthy("all")
			l.awaitResolved(reason)
			if n := l.logged("a permission is missing"); n > 16 { // one for each part
				t.Errorf("%d lines of the log say that a permission is missing", n)
			}
		})
	}
}

// An emitter apart has no statuses: its progress says it, and the instances say that.
func TestEmitterApartSaysWhatItMayNotHear(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]string{"registrations": "exesdb.registry.>", "leases": "exesdb.cluster.state.>", "stored events": "exesdb.stored.>", "answers": "_INBOX.>"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newDeaf(t)
			emitter := *l.config
			l.config.NATS.URL, l.config.Emitter.Enabled = l.URL, false
			l.emit(&emitter)
			l.start()
			l.append(1, 10)
			l.awaitDelivered("all", 10)
			l.Eventually("the first events are in the checkpoint", func() bool { return l.checkpointOf("all") == 10 })
			l.unhear(subject)
			l.append(11, 100)
			reason := "not permitted to subscribe to " + strings.TrimSuffix(subject, ">")
			l.awaitRefusing("all", reason)
			l.unhear()
			l.append(111, 100)
			l.awaitDelivered("all", 210)
			l.awaitHealthy("all")
			l.awaitResolved(reason)
			l.Eventually("all are in the checkpoint", func() bool { return l.checkpointOf("all") == 210 })
		})
	}
}
