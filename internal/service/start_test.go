package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/natsnode"
	"github.com/exesdb/subproxy/pkg/registry"
)

func TestWhatMayPassAtTheStartIsWaitedFor(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)} // a server that was killed while it greeted
	for _, err := range []error{nats.ErrNoServers, nats.ErrTimeout, io.EOF, reset} {
		if !isTransient(fmt.Errorf("connect: %w", err)) {
			t.Errorf("%v is not waited for", err)
		}
	}
	for _, err := range []error{nats.ErrAuthorization, errors.New("x509: unknown authority")} {
		if isTransient(err) {
			t.Errorf("%v is waited for", err)
		}
	}
}

func startService(t *testing.T, name string) *Service {
	t.Helper()
	n, err := natsnode.Start(natsnode.Options{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Shutdown)
	c, err := config.Parse("", []byte("stores: [{id: s, subscriptions: [{name: a, selector: x}]}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.NATS.URL, c.Instance.Name = n.URL(), name
	s, err := Start(t.Context(), Options{Config: c, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

func TestRunThatWasSupersededMakesNoBucket(t *testing.T) {
	s := startService(t, "host a")
	s.supervisor.Retire(registry.Owner{Name: s.owner.Name, ID: "LATER"})
	if err := s.js.DeleteKeyValue(t.Context(), s.bucket.Bucket()); err != nil {
		t.Fatal(err)
	}
	s.deleted()
	for s.remaking.Load() { // which it must not begin
		runtime.Gosched()
	}
	if _, err := s.js.KeyValue(t.Context(), s.bucket.Bucket()); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("the bucket was made anew, as the superseded run's configuration has it: %v", err)
	}
}
