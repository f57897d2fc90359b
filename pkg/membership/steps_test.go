package membership

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/exesdb/subproxy/internal/leasetest"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
)

// sessionOf is a session's entry in the bucket.
func sessionOf(t *testing.T, m Member, revision uint64) lease.Input {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Input{Kind: lease.EntryHeard, Entry: kv.Entry{Key: MemberKey(m.Name), Operation: kv.Put, Data: data, Revision: revision}}
}

func TestEntryOlderThanWhatIsKnownOfAMemberIsIgnored(t *testing.T) {
	now, m := time.Unix(1000, 0), Member{Name: "a", ID: "a1", Weight: 1, TTLMillis: testTTL.Milliseconds()}
	r := newMemberRules(leasetest.Steady)
	r.Step(lease.Input{Kind: lease.FeedLevel}, now)
	r.Step(sessionOf(t, m, 7), now)
	before := m
	before.Draining = true
	for name, old := range map[string]lease.Input{
		"a record": sessionOf(t, before, 6),
		"a marker": {Kind: lease.EntryHeard, Entry: kv.Entry{Key: MemberKey("a"), Operation: kv.Deleted, Revision: 6}},
	} {
		if fx := r.Step(old, now); fx.Changed || !r.members[MemberKey("a")].alive {
			t.Errorf("%s of before changes the view: %+v", name, fx)
		}
	}
}

func TestReadOfAMemberThatFailedIsFollowedByAPause(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newMemberRules(leasetest.Steady)
	r.Step(lease.Input{Kind: lease.FeedLevel}, now)
	r.Step(sessionOf(t, Member{Name: "a", ID: "a1", Weight: 1, TTLMillis: testTTL.Milliseconds()}, 7), now)
	now = now.Add(testTTL)
	if fx := r.Step(lease.Input{Kind: lease.TimerDue}, now); fx.Read != MemberKey("a") {
		t.Fatalf("a member that has not renewed is not read: %+v", fx)
	}
	fx := r.Step(lease.Input{Kind: lease.Answered, Err: kv.ErrNoAck}, now)
	if fx.Read != "" || !fx.Next.After(now) || fx.Failed == nil {
		t.Fatalf("%+v", fx)
	}
	if early := r.Step(lease.Input{Kind: lease.TimerDue}, fx.Next.Add(-1)); early.Read != "" {
		t.Errorf("read within the pause: %+v", early)
	}
	if due := r.Step(lease.Input{Kind: lease.TimerDue}, fx.Next); due.Read == "" {
		t.Errorf("not read after the pause: %+v", due)
	}
}

// A session changes, and the write fails: it is not known whether the bucket has the change, so it is
// written again after a pause, and not only with the next renewal.
func TestChangeOfASessionWhoseWriteFailedIsWrittenAgainAfterAPause(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newSessionRules(Member{Name: "a", ID: "a1", Weight: 1, TTLMillis: testTTL.Milliseconds()}, testTTL, leasetest.Steady)
	if fx := r.Step(lease.Input{Kind: lease.TimerDue}, now); fx.Read == "" {
		t.Fatalf("%+v", fx)
	}
	if fx := r.Step(lease.Input{Kind: lease.Answered}, now); fx.Write == nil {
		t.Fatalf("%+v", fx)
	}
	if fx := r.Step(lease.Input{Kind: lease.Answered, Revision: 1}, now); !fx.Held {
		t.Fatalf("%+v", fx)
	}
	if fx := r.edit(func(m *Member) { m.Draining = true }, now); fx.Write == nil {
		t.Fatalf("%+v", fx)
	}
	fx := r.Step(lease.Input{Kind: lease.Answered, Err: kv.ErrNoAck}, now)
	if fx.Write != nil || fx.Read != "" || !fx.Next.After(now) || !fx.Next.Before(now.Add(testTTL/lease.Renewals)) {
		t.Fatalf("after the failure: %+v", fx)
	}
	fx = r.Step(lease.Input{Kind: lease.TimerDue}, fx.Next)
	if fx.Write == nil {
		t.Fatalf("the change is lost: %+v", fx)
	}
	if m, err := DecodeMember(fx.Write.Key, fx.Write.Data); err != nil || !m.Draining {
		t.Errorf("%+v %v", m, err)
	}
}
