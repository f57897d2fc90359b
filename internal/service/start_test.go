package service

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
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
