package instance

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/status"
)

// bookBucket is a cluster bucket on a server of its own.
func bookBucket(t *testing.T) *kv.Bucket {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	b, err := kv.Open(t.Context(), js, kv.Config{Kind: kv.Cluster})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// written are a run's alert book, what it published, and the faults that it has.
type written struct {
	*alertBook
	t            rapid.TB
	said         []string // "level name", as published
	unsaid       bool     // publishing fails
	disconnected bool
	unread       []string // what was published as a warning, and was not in the bucket then
}

func newWritten(t rapid.TB, bucket *kv.Bucket, id string) *written {
	w := &written{t: t}
	owner := registration.Owner{Name: "host-a", ID: id}
	w.alertBook = newAlertBook(bucket, owner, func() bool { return !w.disconnected }, w.record, slog.New(slog.DiscardHandler))
	return w
}

func (w *written) record(a status.Alert) error {
	if w.unsaid {
		return nats.ErrDisconnected
	}
	said := string(a.Level) + " " + a.Name
	if a.Level != status.Resolved && !slices.Contains(w.kept(), a.Name) {
		w.unread = append(w.unread, said)
	}
	w.said = append(w.said, said)
	return nil
}

// kept are those of a and b of which the bucket has an alert.
func (w *written) kept() (names []string) {
	for _, name := range []string{"a", "b"} {
		e, there, err := w.bucket.GetFromLeader(context.Background(), "alert.proxy.s."+name)
		if err != nil {
			w.t.Fatal(err)
		}
		if there && e.Operation == kv.Put {
			names = append(names, name)
		}
	}
	return names
}

func (w *written) alert(level status.Level, name string) {
	w.Publish(status.Alert{Envelope: status.NewEnvelope(status.AlertType, time.Now()), Level: level, Scope: "proxy", Store: "s", Name: name, Owner: w.owner})
}

// handled handles until nothing is left to do.
func (w *written) handled() {
	for range 20 {
		if !w.handle(context.Background()) {
			return
		}
	}
	w.t.Fatalf("there is always more to do: %+v", w.alertBook)
}

func (w *written) expect(kept string, said ...string) {
	w.t.Helper()
	if got := strings.Join(w.kept(), " "); got != kept {
		w.t.Errorf("the bucket has %q, want %q", got, kept)
	}
	if fmt.Sprint(w.said) != fmt.Sprint(said) {
		w.t.Errorf("published are %q, want %q", w.said, said)
	}
}

func TestAlertIsWrittenDownBeforeItIsPublishedAndDeletedAfterItIsResolved(t *testing.T) {
	w := newWritten(t, bookBucket(t), "ONE")
	w.alert(status.Warning, "a")
	w.handled()
	w.expect("a", "warning a")
	w.alert(status.Critical, "a")
	w.handled()
	w.expect("a", "warning a", "critical a")
	w.alert(status.Resolved, "a")
	w.handled()
	w.expect("", "warning a", "critical a", "resolved a")
	if len(w.unread) > 0 {
		t.Errorf("published before they were written: %q", w.unread)
	}
	if w.handle(t.Context()); len(w.said) != 3 {
		t.Errorf("with nothing to do: %q", w.said)
	}
}

func TestAlertsThatCannotBePublishedKeepTheirOrder(t *testing.T) {
	w := newWritten(t, bookBucket(t), "ONE")
	w.disconnected = true
	w.alert(status.Warning, "a")
	if !w.handle(t.Context()) || len(w.said) > 0 || len(w.kept()) > 0 {
		t.Errorf("without a connection: %q, the bucket has %q", w.said, w.kept())
	}
	w.disconnected, w.unsaid = false, true
	w.alert(status.Warning, "b")
	if !w.handle(t.Context()) {
		t.Error("what could not be published is not tried again")
	}
	w.expect("a b")
	w.alert(status.Resolved, "a")
	w.unsaid = false
	w.handled()
	w.expect("b", "warning a", "warning b", "resolved a")
}

// Whoever is killed between the two leaves the record; the next run resolves it, and Inherited says that it
// has to.
func TestAlertOfAnotherRunIsInheritedAndEndsWithItsResolved(t *testing.T) {
	bucket := bookBucket(t)
	killed := newWritten(t, bucket, "ONE")
	killed.alert(status.Warning, "a")
	killed.handled()

	next := newWritten(t, bucket, "TWO")
	if next.Inherited("s", "a") {
		t.Error("inherited before it was seen")
	}
	e, there, err := bucket.GetFromLeader(t.Context(), "alert.proxy.s.a")
	if err != nil || !there {
		t.Fatal(there, err)
	}
	if s, others := next.entry(e); !others || s.Owner.ID != "ONE" || !next.Inherited("s", "a") || next.Inherited("s", "b") || len(next.others()) != 1 {
		t.Errorf("the feed shows %+v, another's %t", s, others)
	}
	next.alert(status.Resolved, "a")
	next.handled()
	next.expect("", "resolved a")
	if next.Inherited("s", "a") {
		t.Error("inherited after it was resolved")
	}
	if _, others := next.entry(e); others || next.Inherited("s", "a") {
		t.Error("an older revision is believed")
	}

	// A run that has not heard of the record yet writes over it all the same.
	killed.alert(status.Warning, "b")
	killed.handled()
	next.alert(status.Warning, "b")
	next.handled()
	if e, _, _ := bucket.GetFromLeader(t.Context(), "alert.proxy.s.b"); !strings.Contains(string(e.Data), "TWO") {
		t.Errorf("the record of b is %s", e.Data)
	}
	next.alert(status.Resolved, "b")
	next.handled()
	next.expect("", "resolved a", "warning b", "resolved b")
}

// However writing and publishing fail, in the end each subscription's last word has been published, the
// order of its alerts is kept but for a resolved that comes twice, and the bucket has what stands.
func TestEveryAlertIsFollowedByItsResolved(t *testing.T) {
	bucket := bookBucket(t)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := newWritten(t, bucket, fmt.Sprint("RUN", runs))
		defer func() { // for the next run
			for _, name := range []string{"a", "b"} {
				w.alert(status.Resolved, name)
			}
			w.disconnected, w.unsaid = false, false
			w.handled()
		}()
		want := map[string][]string{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"); rapid.SampledFrom([]string{"raise", "resolve", "handle", "fail to write", "fail to publish", "disconnect", "feed"}).Draw(t, "step") {
			case "raise":
				w.alert(status.Warning, name)
				want[name] = append(want[name], "warning "+name)
			case "resolve":
				w.alert(status.Resolved, name)
				want[name] = append(want[name], "resolved "+name)
			case "handle":
				w.handle(context.Background())
			case "fail to write":
				w.handle(canceled)
			case "fail to publish":
				w.unsaid = true
				w.handle(context.Background())
				w.unsaid = false
			case "disconnect":
				w.disconnected = true
				w.handle(context.Background())
				w.disconnected = false
			case "feed":
				if e, there, err := bucket.GetFromLeader(context.Background(), "alert.proxy.s."+name); err == nil && there {
					w.entry(e)
				}
			}
		}
		w.handled()
		var kept []string
		for _, name := range []string{"a", "b"} {
			if n := len(want[name]); n > 0 && want[name][n-1] == "warning "+name {
				kept = append(kept, name)
			}
			if got := once(w.said, name); !slices.Equal(got, slices.Compact(want[name])) {
				t.Errorf("of %s %q are published, want %q", name, got, want[name])
			}
		}
		if got := w.kept(); !slices.Equal(got, kept) {
			t.Errorf("the bucket has %q, want %q", got, kept)
		}
	})
}

// once is what was said of a subscription, each without its repetitions.
func once(said []string, name string) (all []string) {
	for _, one := range said {
		if strings.HasSuffix(one, " "+name) {
			all = append(all, one)
		}
	}
	return slices.Compact(all)
}
