package instance

import (
	"errors"
	"runtime"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/proxy"
	"github.com/exesdb/subproxy/pkg/registration"
	"github.com/exesdb/subproxy/pkg/sink"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// begin begins an instance without subscriptions, on a server of its own.
func begin(t *testing.T) *Instance {
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
	i, err := Open(t.Context(), Options{
		JetStream: js, Owner: registration.Owner{Name: "host-a", ID: "A"}, Settings: proxy.DefaultSettings(),
		Sink: func(subscription.Subscription) (sink.Sink, sink.Config) { return nil, sink.Config{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	if err := errors.Join(i.Start(t.Context(), Events{}, nil), i.Begin(t.Context())); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestRunThatWasSupersededMakesNoBucket(t *testing.T) {
	i := begin(t)
	i.supervisor.Retire(registration.Owner{Name: i.o.Owner.Name, ID: "LATER"})
	if err := i.o.JetStream.DeleteKeyValue(t.Context(), i.records.bucket.Name()); err != nil {
		t.Fatal(err)
	}
	i.records.deleted()
	for i.records.remaking.Load() { // which it must not begin
		runtime.Gosched()
	}
	if _, err := i.o.JetStream.KeyValue(t.Context(), i.records.bucket.Name()); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("the bucket was made anew, as the superseded run's configuration has it: %v", err)
	}
}
