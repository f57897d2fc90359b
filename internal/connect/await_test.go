package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/natsnode"
)

func TestWhatMayPassAtTheStartIsWaitedFor(t *testing.T) {
	on := func(call string, err syscall.Errno) error {
		return &net.OpError{Op: call, Err: os.NewSyscallError(call, err)}
	}
	tried := newDialer(dialTimeout)
	tried.dials = 1
	hopeless := func(err error) bool {
		var e *Error
		return errors.As((&Options{}).explain(nil, fmt.Errorf("connect: %w", err), tried), &e) && e.Hopeless
	}
	for _, err := range []error{
		nats.ErrNoServers, nats.ErrTimeout, io.EOF, &net.DNSError{Name: "nats.test.invalid", IsNotFound: true},
		on("read", syscall.ECONNRESET), // a server that was killed while it greeted
		on("dial", syscall.EHOSTUNREACH), on("dial", syscall.ENETUNREACH), on("dial", syscall.ENETDOWN), on("dial", syscall.EADDRNOTAVAIL),
		errors.New("nats: maximum connections exceeded"), fmt.Errorf("%w: %w", nats.ErrTLS, io.EOF), // a proxy without its server
	} {
		if hopeless(err) {
			t.Errorf("%v is not waited for", err)
		}
	}
	for _, err := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, errors.New("remote error: tls: expired certificate"), nats.ErrSecureConnWanted,
		fmt.Errorf("%w: %w", nats.ErrTLS, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}),
	} {
		if !hopeless(err) {
			t.Errorf("%v is waited for", err)
		}
	}
}

// logged is what a log said.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// TestServersThatComeLateAreWaitedFor has a name that resolves to nothing, and a server that starts later.
func TestServersThatComeLateAreWaitedFor(t *testing.T) {
	t.Parallel()
	node, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	node.Stop()
	var log logged
	type result struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		nc, _, err := Await(t.Context(), Options{URL: "nats://nats.test.invalid:4222," + node.URL(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		done <- result{nc, err}
	}()
	for deadline := time.Now().Add(20 * time.Second); len(log.lines()) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is logged: %q", log.lines())
		}
	}
	if err := node.Restart(); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	r.nc.Close()
	for _, want := range []string{"nats.test.invalid", node.URL() + ": connection refused", "unknown host nats.test.invalid"} {
		if line := log.lines()[0]; !strings.Contains(line, want) {
			t.Errorf("%q does not say %q", line, want)
		}
	}
}

// TestWaitingEndsWhereNoServerCanBeMended has one server that refuses, alone and beside one that is away.
func TestWaitingEndsWhereNoServerCanBeMended(t *testing.T) {
	t.Parallel()
	node, err := natsnode.Start(natsnode.Options{Configure: func(o *server.Options) { o.Users = []*server.User{{Username: "u", Password: "p"}} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Shutdown)
	for urls, waits := range map[string]bool{
		node.URL(): false, node.URL() + "," + node.URL(): false, "nats://[::1": false, node.URL() + ",nats://127.0.0.1:1": true,
	} {
		t.Run(urls, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
			defer cancel()
			_, _, err := Await(ctx, Options{URL: urls})
			if err == nil {
				t.Fatal("connected")
			}
			if waited := ctx.Err() != nil; waited != waits {
				t.Errorf("waited is %v for: %v", waited, err)
			}
			if waits && !(strings.Contains(err.Error(), "authorization violation") && strings.Contains(err.Error(), "connection refused")) {
				t.Errorf("the error does not say what each server says: %v", err)
			}
		})
	}
}

// TestAServerOfSeveralIsFound has servers of which only one is good, and has it found whatever the order.
func TestAServerOfSeveralIsFound(t *testing.T) {
	t.Parallel()
	good, err := natsnode.Start(natsnode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(good.Shutdown)
	for range 5 {
		nc, _, err := Connect(t.Context(), Options{URL: "nats://127.0.0.1:1,nats://nats.test.invalid," + good.URL()})
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	}
}

func TestAnOldServerIsNamed(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{"2.10.29": false, "2.9.1": false, "1.4.1": false, "2.11.0": true, "2.15.2": true, "3.0.0-beta": true, "": true, "dev": true} {
		if isRecent(version) != ok {
			t.Errorf("%s: %v", version, !ok)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		greet(l, `{"server_id":"X","version":"2.10.29","headers":true,"max_payload":1048576,"proto":1}`)
	})
	nc, _, err := Connect(t.Context(), Options{URL: "nats://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	err = CheckServer(nc)
	if err == nil || !strings.Contains(err.Error(), "needs nats-server 2.11: nats://"+l.Addr().String()+" is nats-server 2.10.29") {
		t.Errorf("error %v", err)
	}
	nc.Close()
	_ = l.Close()
	served.Wait()
}

// greet speaks the protocol as far as the first PONG, to one client.
func greet(l net.Listener, info string) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "INFO %s\r\n", info)
	buffer := make([]byte, 4096)
	if _, err := conn.Read(buffer); err == nil { // CONNECT and PING
		_, _ = io.WriteString(conn, "PONG\r\n")
	}
	_, _ = io.Copy(io.Discard, conn)
}
