package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/lease"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/registration"
)

// hold opens the session of an instance, for as long as the test runs.
func hold(t *testing.T, js jetstream.JetStream, name string) *membership.Session {
	t.Helper()
	bucket, err := kv.Open(t.Context(), js, kv.Config{Kind: kv.Cluster})
	if err != nil {
		t.Fatal(err)
	}
	follower, err := lease.NewFollower(js, bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := membership.OpenSession(membership.SessionConfig{Owner: registration.Owner{Name: name, ID: name + "-id", Host: "h", PID: 7}, Follower: follower, Version: "1.2.3", Weight: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	<-s.Opened()
	return s
}

func subproxy(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestMembersAreListedWithWhatTheyHold(t *testing.T) {
	url, _, js := startParked(t)
	if out, err := subproxy(t, "members", "-s", url, "--json"); err != nil || out != "[]\n" {
		t.Errorf("without a bucket: %q, %v", out, err)
	}
	hold(t, js, "a")
	bucket, err := kv.Open(t.Context(), js, kv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var writes []kv.Write
	for _, e := range []kv.Entry{entry(t, sub("s", "1"), 0, "a"), entry(t, sub("s", "2"), 0, "a"), entry(t, sub("s", "3"), 0, "gone")} {
		writes = append(writes, kv.Write{Key: e.Key, Data: e.Data})
	}
	for _, r := range bucket.Put(t.Context(), append(writes, kv.Write{Key: "no.thing.at.all", Data: []byte("?")})) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	out, err := subproxy(t, "members", "-s", url, "--json")
	var rows []memberRow
	if err := errors.Join(err, json.Unmarshal([]byte(out), &rows)); err != nil || len(rows) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	if a := rows[0]; a.Name != "a" || a.ID != "a-id" || a.Host != "h" || a.PID != 7 || a.Version != "1.2.3" || a.Weight != 3 || !a.Alive || a.RenewedAt == nil || a.Held != 2 {
		t.Errorf("%+v", a)
	}
	if gone := rows[1]; gone.Name != "gone" || gone.Alive || gone.RenewedAt != nil || gone.Held != 1 {
		t.Errorf("%+v", gone)
	}
	if out, err := subproxy(t, "members", "-s", url); err != nil || !strings.Contains(out, "1.2.3") || !strings.Contains(out, "gone-id") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMemberThatDoesNotRenewIsShownAsSuch(t *testing.T) {
	now := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	for since, alive := range map[time.Duration]bool{0: true, 3500 * time.Millisecond: true, 4500 * time.Millisecond: false} {
		m := membership.StoredMember{Member: membership.Member{Name: "a", ID: "1", TTLMillis: 3000}, RenewedAt: now.Add(-since)}
		if rows := joinMembers([]membership.StoredMember{m}, nil, now); rows[0].Alive != alive {
			t.Errorf("after %v: %+v", since, rows[0])
		}
	}
}

func TestDrainAsksTheInstance(t *testing.T) {
	url, nc, js := startParked(t)
	s := hold(t, js, "a")
	// A stand-in for the instance's control service.
	_, err := nc.Subscribe(control.Prefix+string(control.Drain), func(m *nats.Msg) {
		var r control.DrainRequest
		if err := json.Unmarshal(m.Data, &r); err != nil || r.Instance != "a" {
			t.Errorf("asked %s", m.Data)
		}
		if err := s.SetDraining(t.Context(), !r.Undo); err != nil {
			t.Error(err)
		}
		data, _ := json.Marshal(control.DrainAnswer{Instance: control.Instance{Owner: registration.Owner{Name: "a"}}, Draining: !r.Undo})
		if err := m.Respond(data); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(err, nc.Flush()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args     []string
		says     string
		draining bool
	}{
		{[]string{"drain", "a", "-s", url}, "a drains\n", true},
		{[]string{"drain", "a", "--undo", "-s", url}, "a takes its share again\n", false},
	} {
		out, err := subproxy(t, c.args...)
		if m, _ := s.Member(); err != nil || out != c.says || m.Draining != c.draining {
			t.Errorf("%v: %q, %v, draining %t", c.args, out, err, m.Draining)
		}
	}
	if _, err := subproxy(t, "drain", "b", "-s", url); !errors.Is(err, control.ErrNoInstance) || !strings.Contains(err.Error(), "there are: a") {
		t.Error(err)
	}
}
