//go:build !linux

package natsnode

import "net"

// port is a TCP port that was free when it was picked. Other systems than Linux don't let a bound socket reserve it.
type port struct{ number int }

func reserve(host string) (*port, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	return &port{number: l.Addr().(*net.TCPAddr).Port}, l.Close()
}

func (p *port) release() {}
