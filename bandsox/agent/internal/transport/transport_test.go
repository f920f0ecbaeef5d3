package transport

import (
	"io"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyTheHostMayConnectOverVsock(t *testing.T) {
	for _, c := range []struct {
		peer unix.Sockaddr
		want bool
	}{
		{&unix.SockaddrVM{CID: unix.VMADDR_CID_HOST}, true},
		{&unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL}, false}, // a process of the guest, by loopback
		{&unix.SockaddrVM{CID: 77}, false},
		{&unix.SockaddrUnix{}, false},
	} {
		if fromHost(c.peer) != c.want {
			t.Errorf("%+v", c.peer)
		}
	}
}

func TestASocketThatIsInterruptedEndsItsReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	socket, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := socket.Read(make([]byte, 1))
		ended <- err
	}()
	socket.Interrupt()
	if err := <-ended; err != io.EOF {
		t.Error(err)
	}
	if socket.AwaitHost() == nil {
		t.Error("nobody comes back on a socket")
	}
	socket.Close()
}

func TestWritingToAClosedSocketIsAnErrorAndNoSignal(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	socket := NewSocket(fds[0])
	defer socket.Close()
	if _, err := socket.Write([]byte("x")); err != unix.EPIPE {
		t.Error(err)
	}
}
