//go:build !linux

package natsnode

import "net"

// Port is a TCP port that was free when it was picked. Other systems than Linux don't let a bound socket
// reserve it.
type Port struct{ Number int }

// Reserve picks a free port.
func Reserve(host string) (*Port, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	return &Port{Number: l.Addr().(*net.TCPAddr).Port}, l.Close()
}

// Release gives the port back, which nobody holds.
func (p *Port) Release() {}
