package natsnode

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// Port is a free TCP port that stays reserved until it is released.
type Port struct {
	Number int
	fd     int
}

// Reserve picks a free port. It is held by a socket that is bound and never listens: the kernel gives such
// a port to nobody who asks for any port, be it to listen or to connect; whoever asks for it by Number,
// with SO_REUSEADDR as Go does, may listen on it; and while nobody does, connecting to it is refused, as it
// is for any server that is down.
func Reserve(host string) (*Port, error) {
	addr, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	var local syscall.Sockaddr
	family := syscall.AF_INET
	if ip := addr.IP.To4(); ip != nil {
		local = &syscall.SockaddrInet4{Addr: [4]byte(ip)}
	} else {
		family = syscall.AF_INET6
		local = &syscall.SockaddrInet6{Addr: [16]byte(addr.IP)}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &Port{fd: fd}
	if err := p.bind(local); err != nil {
		p.Release()
		return nil, fmt.Errorf("reserve a port on %s: %w", host, err)
	}
	return p, nil
}

func (p *Port) bind(local syscall.Sockaddr) error {
	if err := syscall.SetsockoptInt(p.fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(p.fd, local); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(p.fd)
	switch a := bound.(type) {
	case *syscall.SockaddrInet4:
		p.Number = a.Port
	case *syscall.SockaddrInet6:
		p.Number = a.Port
	}
	return os.NewSyscallError("getsockname", err)
}

// Release gives the port back. It can be called again.
func (p *Port) Release() {
	if p.fd >= 0 {
		_ = syscall.Close(p.fd)
		p.fd = -1
	}
}
