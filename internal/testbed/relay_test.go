package testbed

import (
	"io"
	"net"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func TestRelayIsAsSlowAsItsLink(t *testing.T) {
	for name, test := range map[string]struct {
		link    Link
		bytes   int
		atLeast time.Duration
	}{
		"delay": {Link{Delay: 50 * time.Millisecond}, 100, 100 * time.Millisecond},
		// Whatever the direction, all but the first chunk waits.
		"rate": {Link{Rate: 1 << 20}, 256 << 10, 200 * time.Millisecond},
		"both": {Link{Delay: 50 * time.Millisecond, Rate: 1 << 20}, 256 << 10, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewRelay(echo(t), test.link)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			c, err := net.Dial("tcp", r.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			at := time.Now()
			go func() { _, _ = c.Write(make([]byte, test.bytes)) }()
			if _, err := io.ReadFull(c, make([]byte, test.bytes)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(at); took < test.atLeast {
				t.Errorf("%d bytes came back after %s, want at least %s", test.bytes, took, test.atLeast)
			}
		})
	}
}
