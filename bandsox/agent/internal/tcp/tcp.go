// Package tcp opens TCP connections within the guest. It stands on system calls and Go's poller alone: package net
// would bring a resolver and a third more memory to a process that every machine has.
package tcp

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Socket is a connected TCP socket.
type Socket struct{ *os.File }

// CloseWrite sends the end of this direction.
func (s Socket) CloseWrite() (err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	if controlled := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); controlled != nil {
		return controlled
	}
	return err
}

// Dial connects to a port of an address. Without an address it is the machine's own port: over IPv4, and where nobody
// listens there, over IPv6, since programs that listen on "localhost" choose either.
func Dial(ctx context.Context, host string, port uint16) (Socket, error) {
	if host != "" {
		address, err := netip.ParseAddr(host)
		if err != nil || address.Zone() != "" {
			return Socket{}, wire.Fail(wire.CodeInvalid, "%q is not an IP address", host)
		}
		return connect(ctx, netip.AddrPortFrom(address.Unmap(), port))
	}
	sock, err := connect(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	if !errors.Is(err, unix.ECONNREFUSED) {
		return sock, err
	}
	if sock, again := connect(ctx, netip.AddrPortFrom(netip.IPv6Loopback(), port)); again == nil {
		return sock, nil
	}
	return Socket{}, err
}

func connect(ctx context.Context, to netip.AddrPort) (Socket, error) {
	family, address := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Socket{}, os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// The poller takes a socket that has not begun to connect for one that was hung up.
	err = unix.Connect(fd, address)
	sock := Socket{os.NewFile(uintptr(fd), "tcp")}
	if err == unix.EINPROGRESS || err == unix.EINTR {
		err = sock.connected(ctx)
	}
	if err != nil {
		sock.Close()
		return Socket{}, err
	}
	return sock, nil
}

func sockaddr(to netip.AddrPort) (int, unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// connected waits until a connection has come about or failed.
func (s Socket) connected(ctx context.Context) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	waited := raw.Write(func(fd uintptr) bool {
		state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(state, 0); n == 0 {
			return false
		}
		code, failed := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed != nil {
			err = failed
		} else if code != 0 {
			err = unix.Errno(code)
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case waited == nil && stop():
		return nil
	case ctx.Err() == context.DeadlineExceeded:
		return unix.ETIMEDOUT
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return waited
}
