package transport

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// VsockPort is where the agent listens.
const VsockPort = 1024

// Socket is a connected stream socket.
type Socket struct{ fd int }

// NewSocket takes over a connected, blocking stream socket.
func NewSocket(fd int) *Socket { return &Socket{fd: fd} }

func (s *Socket) Read(b []byte) (int, error) {
	n, err := readFD(s.fd, b)
	if err == unix.ECONNRESET || err == unix.ENOTCONN {
		err = io.EOF
	}
	return n, err
}

func (s *Socket) Write(b []byte) (int, error) {
	for {
		n, err := unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Greeted does nothing: a socket has one client.
func (s *Socket) Greeted() {}

// Descriptor is the socket.
func (s *Socket) Descriptor() int { return s.fd }

// AwaitHost returns an error: a socket's peer does not come back.
func (s *Socket) AwaitHost() error { return io.EOF }

// Interrupt ends the stream in both directions.
func (s *Socket) Interrupt() { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }

// Close gives the descriptor back.
func (s *Socket) Close() { unix.Close(s.fd) }

// HasVsock tells whether the kernel has a way to the host over vsock: the family alone, which it may have
// without one, has no address of its own (Linux, net/vmw_vsock/af_vsock.c, vsock_dev_do_ioctl).
func HasVsock() bool {
	fd, err := unix.Open("/dev/vsock", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	cid, err := unix.IoctlGetUint32(fd, unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	return err == nil && cid != unix.VMADDR_CID_ANY && cid != unix.VMADDR_CID_LOCAL
}

// Listener accepts connections on a socket.
type Listener struct {
	fd     int
	accept func(peer unix.Sockaddr) bool
}

// ListenVsock listens for the host, and for nobody else: a process of the guest could
// otherwise reach the agent through the loopback CID.
func ListenVsock() (*Listener, error) {
	return listen(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: VsockPort}, fromHost)
}

func fromHost(peer unix.Sockaddr) bool {
	vm, ok := peer.(*unix.SockaddrVM)
	return ok && vm.CID == unix.VMADDR_CID_HOST
}

func fromAnybody(unix.Sockaddr) bool { return true }

// ListenLocalVsock listens on a vsock port for everybody, for tests outside a machine.
func ListenLocalVsock(port uint32) (*Listener, error) {
	return listen(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}, fromAnybody)
}

// ListenUnix listens on a Unix socket, for tests outside a machine.
func ListenUnix(path string) (*Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return listen(unix.AF_UNIX, &unix.SockaddrUnix{Name: path}, fromAnybody)
}

func listen(family int, address unix.Sockaddr, accept func(unix.Sockaddr) bool) (*Listener, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Bind(fd, address); err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &Listener{fd: fd, accept: accept}, nil
}

// Accept returns the next connection from a peer that may connect.
func (l *Listener) Accept() (Channel, error) {
	for {
		fd, peer, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC)
		switch {
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err != nil:
			return nil, fmt.Errorf("accept: %w", err)
		case !l.accept(peer):
			unix.Close(fd)
			continue
		}
		return NewSocket(fd), nil
	}
}
