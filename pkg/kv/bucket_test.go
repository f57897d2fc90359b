package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

func startNode(t *testing.T) (*natsnode.Node, jetstream.JetStream) {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	// As internal/connect connects: what is published without a connection fails.
	nc, err := nats.Connect(n.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return n, js
}

func open(t *testing.T) (*Bucket, jetstream.JetStream, *natsnode.Node) {
	t.Helper()
	n, js := startNode(t)
	b, err := Open(t.Context(), js, Config{AckWait: 20 * time.Second}) // a busy machine
	if err != nil {
		t.Fatal(err)
	}
	return b, js, n
}

// write writes one record, or deletes it, and fails the test where that fails.
func write(t *testing.T, b *Bucket, w Write) uint64 {
	t.Helper()
	result := b.Put(t.Context(), []Write{w})[0]
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.Revision
}

func TestBucketIsCreatedAsTheContractSays(t *testing.T) {
	_, js := startNode(t)
	b, err := Open(t.Context(), js, Config{Bucket: "other", Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_other")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if cfg.MaxMsgsPerSubject != 1 || !cfg.AllowDirect || !cfg.AllowMsgTTL || cfg.SubjectDeleteMarkerTTL != time.Hour || cfg.Replicas != 1 || cfg.Storage != jetstream.MemoryStorage {
		t.Errorf("settings %+v", cfg)
	}
	if p := cfg.RePublish; p == nil || p.Source != "$KV.other.>" || p.Destination != "exesdb.registry.>" || p.HeadersOnly {
		t.Errorf("republish %+v", p)
	}
	if b.Name() != "other" || b.Stream() != "KV_other" || b.Subject("k") != "$KV.other.k" || b.Key("$KV.other.k") != "k" {
		t.Errorf("named %s, %s", b.Name(), b.Stream())
	}
}

func TestExistingBucketIsOpenedAsItIs(t *testing.T) {
	b, js, _ := open(t)
	write(t, b, Write{Key: "k", Data: []byte("d")})
	again, err := Open(t.Context(), js, Config{Bucket: DefaultBucket, Memory: true})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok, err := again.Get(t.Context(), "k"); err != nil || !ok || string(e.Data) != "d" {
		t.Errorf("got %+v, %v, %v", e, ok, err)
	}
	if created, err := again.Ensure(t.Context(), Config{}); err != nil || created {
		t.Errorf("ensured: %v, %v", created, err)
	}
	if err := js.DeleteKeyValue(t.Context(), DefaultBucket); err != nil {
		t.Fatal(err)
	}
	for { // a server can still be at removing the old store (10049), which whoever ensures tries again
		created, err := again.Ensure(t.Context(), Config{})
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == 10049 && t.Context().Err() == nil {
			continue
		}
		if err != nil || !created {
			t.Errorf("ensured after the deletion: %v, %v", created, err)
		}
		break
	}
	write(t, again, Write{Key: "k", Data: []byte("d")})
}

func TestInstancesThatOpenAtOnceAllFindTheBucket(t *testing.T) {
	_, js := startNode(t)
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := Open(context.Background(), js, Config{})
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestWritesAreConditional(t *testing.T) {
	b, _, _ := open(t)
	first := write(t, b, Write{Key: "a", Data: []byte("1")})
	second := write(t, b, Write{Key: "a", Data: []byte("2"), Revision: first})
	write(t, b, Write{Key: "b", Data: []byte("1")})
	results := b.Put(t.Context(), []Write{
		{Key: "a", Data: []byte("3"), Revision: first},
		{Key: "a", Data: []byte("3")},
		{Key: "b", Data: []byte("3"), Revision: second},
		{Key: "a", Data: []byte("4"), Revision: second},
		{Key: "c", Data: []byte("1"), Revision: 1},
		{Key: "d", Data: []byte("1")},
	})
	for i, want := range []error{ErrConflict, ErrConflict, ErrConflict, nil, ErrConflict, nil} {
		if got := results[i]; !errors.Is(got.Err, want) || (got.Err == nil) != (got.Revision > 0) {
			t.Errorf("%d: got %+v, want %v", i, got, want)
		}
	}
	if e, ok, err := b.Get(t.Context(), "a"); err != nil || !ok || string(e.Data) != "4" || e.Revision != results[3].Revision {
		t.Errorf("a is %+v, %v, %v", e, ok, err)
	}
}

func TestWriteToABucketThatIsGoneSaysSo(t *testing.T) {
	b, js, _ := open(t)
	if err := js.DeleteKeyValue(t.Context(), DefaultBucket); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), []Write{{Key: "a", Data: []byte("1")}})[0].Err; !errors.Is(err, ErrNoStream) {
		t.Errorf("written: %v", err)
	}
	if _, _, err := b.Get(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "no replica of the bucket answers") {
		t.Errorf("read: %v", err)
	}
}

func TestNothingIsWrittenWithoutAConnection(t *testing.T) {
	b, js, n := open(t)
	lost, back := js.Conn().StatusChanged(nats.RECONNECTING), js.Conn().StatusChanged(nats.CONNECTED)
	n.Stop()
	awaitStatus(t, lost)
	began := time.Now()
	if err := b.Put(t.Context(), []Write{{Key: "a", Data: []byte("1")}})[0].Err; !errors.Is(err, ErrDisconnected) {
		t.Errorf("written: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("that took %v", took)
	}
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, back)
	if _, ok, err := b.GetFromLeader(t.Context(), "a"); err != nil || ok {
		t.Errorf("written late: %v, %v", ok, err)
	}
}

func awaitStatus(t *testing.T, status <-chan nats.Status) {
	t.Helper()
	select {
	case <-status:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection's status did not change")
	}
}

func TestCancelledContextWritesNothing(t *testing.T) {
	b, _, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Put(ctx, []Write{{Key: "a", Data: []byte("1")}})[0].Err; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, ok, err := b.GetFromLeader(t.Context(), "a"); err != nil || ok {
		t.Errorf("written: %v, %v", ok, err)
	}
}

func TestReleaseLeavesAMarkerThatRemembersTheIncarnation(t *testing.T) {
	b, js, _ := open(t)
	revision := write(t, b, Write{Key: "k", Data: []byte("d")})
	write(t, b, Write{Key: "k", Revision: revision, Incarnation: 7})
	e, ok, err := b.Get(t.Context(), "k")
	if err != nil || !ok || e.Operation != Deleted || e.Incarnation != 7 {
		t.Errorf("got %+v, %v, %v", e, ok, err)
	}
	stream, err := js.Stream(t.Context(), b.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), b.Subject("k"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Header.Get("Nats-TTL"), (30 * 24 * time.Hour).String(); got != want {
		t.Errorf("the marker is kept for %s, want %s", got, want)
	}
}

func TestDeletionLeavesAMarkerThatExpires(t *testing.T) {
	b, js, _ := open(t)
	revision := write(t, b, Write{Key: "a", Data: []byte("1")})
	marked := write(t, b, Write{Key: "a", Revision: revision})
	e, ok, err := b.Get(t.Context(), "a")
	if err != nil || !ok || e.Operation != Deleted || e.Revision != marked {
		t.Errorf("got %+v, %v, %v", e, ok, err)
	}
	stream, err := js.Stream(t.Context(), b.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), marked)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Header.Get("Nats-TTL"); got != "1h0m0s" || m.Header.Get("KV-Operation") != "DEL" {
		t.Errorf("marker %v", m.Header)
	}
	if listed, err := b.List(t.Context(), "", ""); err != nil || len(listed) != 0 {
		t.Errorf("listed %v, %v", listed, err)
	}
	kv, err := js.KeyValue(t.Context(), b.Name())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(t.Context(), "a"); !errors.Is(err, jetstream.ErrKeyDeleted) && !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("to others it is %v", err)
	}
	write(t, b, Write{Key: "a", Data: []byte("2"), Revision: marked})
}

func TestManyRecordsAreReadInPages(t *testing.T) {
	b, _, _ := open(t)
	const n = 2300
	writes := make([]Write, n)
	for i := range writes {
		writes[i] = Write{Key: fmt.Sprintf("s%d.by_stream.=24all.n%d", i%2, i), Data: fmt.Append(nil, i)}
	}
	for i, result := range b.Put(t.Context(), writes) {
		if result.Err != nil {
			t.Fatalf("%d: %v", i, result.Err)
		}
	}
	for _, c := range []struct {
		store, name string
		want        int
	}{{"", "", n}, {"s0", "", n / 2}, {"", "n7", 1}, {"s1", "n7", 1}, {"s0", "n7", 0}, {"none", "", 0}, {"s*", "", 0}} {
		entries, err := b.List(t.Context(), c.store, c.name)
		if err != nil || len(entries) != c.want {
			t.Errorf("%q, %q: %d entries, %v", c.store, c.name, len(entries), err)
		}
		if !slices.IsSortedFunc(entries, func(a, b Entry) int { return int(a.Revision) - int(b.Revision) }) {
			t.Errorf("%q, %q: not in revision order", c.store, c.name)
		}
	}
	var keys []string
	for _, w := range writes[:MaxGetLast-1] {
		keys = append(keys, w.Key)
	}
	found := map[string]string{}
	err := b.GetLast(t.Context(), append(keys, "s0.by_stream.none.none"), func(e Entry) { found[e.Key] = string(e.Data) })
	if err != nil || len(found) != len(keys) {
		t.Fatalf("%d of %d found, %v", len(found), len(keys), err)
	}
	for i, key := range keys {
		if found[key] != fmt.Sprint(i) {
			t.Fatalf("%s is %s", key, found[key])
		}
	}
	found = map[string]string{}
	if err := b.GetLast(t.Context(), []string{"none.by_stream.a.b"}, func(e Entry) { found[e.Key] = "" }); err != nil || len(found) > 0 {
		t.Errorf("of a key that is not there: %v, %v", found, err)
	}
}

func TestOneRecordIsReadFromAnyReplicaAndFromTheLeader(t *testing.T) {
	b, _, _ := open(t)
	revision := write(t, b, Write{Key: "a", Data: []byte("1")})
	e, ok, err := b.Get(t.Context(), "a")
	e2, ok2, err2 := b.GetFromLeader(t.Context(), "a")
	for _, c := range []struct {
		e   Entry
		ok  bool
		err error
	}{{e, ok, err}, {e2, ok2, err2}} {
		if c.err != nil || !c.ok || c.e.Key != "a" || c.e.Revision != revision || string(c.e.Data) != "1" || c.e.Operation != Put || c.e.Time.IsZero() {
			t.Errorf("got %+v", c)
		}
	}
	if _, ok, err := b.Get(t.Context(), "b"); ok || err != nil {
		t.Errorf("nothing is %v, %v", ok, err)
	}
	if _, ok, err := b.GetFromLeader(t.Context(), "b"); ok || err != nil {
		t.Errorf("nothing is %v, %v from the leader", ok, err)
	}
}

func TestBucketThatIsNotThereIsReadAsEmpty(t *testing.T) {
	_, js := startNode(t)
	b, err := OpenExisting(t.Context(), js, "none")
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := b.List(t.Context(), "", ""); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v", entries, err)
	}
	if _, err := js.Stream(t.Context(), "KV_none"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("it was created: %v", err)
	}
}

func TestExistingBucketIsReadWhateverItsSettings(t *testing.T) {
	_, js := startNode(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", History: 9})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "s.by_stream.x.n", []byte("1")); err != nil {
		t.Fatal(err)
	}
	b, err := OpenExisting(t.Context(), js, "b")
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := b.List(t.Context(), "s", "n"); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v", entries, err)
	}
}

// nats-server 2.15 has every mirror answer direct gets for its origin, also one that has only a part of it.
func TestMirrorOfTheBucketIsNotTakenForIt(t *testing.T) {
	b, js, _ := open(t)
	const n = 30
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("%s.by_stream.=24all.%d", []string{"s", "other"}[i%2], i))
		write(t, b, Write{Key: keys[i], Data: []byte(`{}`)})
	}
	for name, filter := range map[string]string{"HALF": b.Subject("s.>"), "LAST": b.Subject(keys[n-1])} {
		m, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Mirror: &jetstream.StreamSource{Name: b.Stream(), FilterSubject: filter}})
		if err != nil {
			t.Fatal(err)
		}
		if !m.CachedInfo().Config.MirrorDirect {
			t.Skip("a server that does not have mirrors answer for their origin by itself")
		}
	}
	answered := map[string]bool{}
	for len(answered) < 3 { // LAST has no such message, and so says no name
		m, err := js.Conn().RequestWithContext(t.Context(), "$JS.API.DIRECT.GET."+b.Stream(), []byte(`{"seq":1}`))
		if err != nil {
			t.Fatal(err)
		}
		answered[m.Header.Get("Nats-Stream")] = true
	}
	count := map[int]int{}
	for range 20 {
		for store, want := range map[string]int{"": n, "s": n / 2, "other": n / 2} {
			if got, err := b.List(t.Context(), store, ""); err != nil || len(got) != want {
				t.Fatalf("%d of %d, %v", len(got), want, err)
			}
		}
		found := map[string]uint64{}
		if err := b.GetLast(t.Context(), keys[:n-1], func(e Entry) { found[e.Key] = e.Revision }); err != nil {
			t.Fatal(err)
		}
		count[len(found)]++
		all := map[string]uint64{}
		if err := b.GetLastFromLeader(t.Context(), keys, func(e Entry) { all[e.Key] = e.Revision }); err != nil || len(all) != n || all[keys[4]] != 5 {
			t.Fatalf("%v, %v", all, err)
		}
		if e, ok, err := b.Get(t.Context(), keys[5]); err != nil || ok && e.Revision != 6 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if count[0]+count[n-1] != 20 || count[n-1] == 0 { // nothing is LAST's word, and then the leader is asked
		t.Errorf("%v", count)
	}
}

// Somebody deletes a key by hand, with a header that makes the marker look like an answer of the server.
func TestMarkerWithAHeaderStatusIsRead(t *testing.T) {
	b, js, _ := open(t)
	for i, status := range []string{"500", "503", "204", "404", "408", "100", "open"} {
		key := fmt.Sprintf("s.by_stream.=24all.%d", i)
		m := nats.NewMsg(b.Subject(key))
		m.Header["KV-Operation"], m.Header["Status"] = []string{"DEL"}, []string{status}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		revision := uint64(i + 1)
		for name, get := range map[string]func(context.Context, string) (Entry, bool, error){"replica": b.Get, "leader": b.GetFromLeader} {
			if e, ok, err := get(t.Context(), key); err != nil || !ok || e.Revision != revision || e.Operation != Deleted {
				t.Errorf("%s, %s: %+v, %v, %v", status, name, e, ok, err)
			}
		}
		found := 0
		if err := b.GetLast(t.Context(), []string{key, "s.by_stream.=24all.none"}, func(e Entry) {
			if found++; e.Revision != revision || e.Operation != Deleted {
				t.Errorf("%s: %+v", status, e)
			}
		}); err != nil || found != 1 {
			t.Errorf("%s: found %d, %v", status, found, err)
		}
	}
	write(t, b, Write{Key: "s.by_stream.=24all.last", Data: []byte(`{}`)})
	if got, err := b.List(t.Context(), "s", ""); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Registrations are written again and again while somebody lists them: each is listed once, as it is now.
func TestListShowsARecordOnceThoughItIsWrittenMeanwhile(t *testing.T) {
	b, _, _ := open(t)
	const n = 50
	revisions := map[string]uint64{}
	key := func(i int) string { return fmt.Sprintf("s.by_stream.=24all.%d", i%n) }
	for i := range n {
		revisions[key(i)] = write(t, b, Write{Key: key(i), Data: []byte(`{}`)})
	}
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			result := b.Put(t.Context(), []Write{{Key: key(i), Data: []byte(`{}`), Revision: revisions[key(i)]}})[0]
			if result.Err != nil {
				t.Error(result.Err)
				return
			}
			revisions[key(i)] = result.Revision
		}
	}()
	for range 100 {
		got, err := b.List(t.Context(), "", "")
		if err != nil || len(got) != n || !slices.IsSortedFunc(got, func(a, b Entry) int { return int(a.Revision) - int(b.Revision) }) {
			t.Errorf("%d of %d, %v", len(got), n, err)
			break
		}
	}
	close(stop)
	<-ended
}
