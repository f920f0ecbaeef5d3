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

func TestPortsThatNobodyReadsLeaveAMachineItsMemory(t *testing.T) {
	const MiB = 1 << 20
	for _, c := range []struct {
		memory, most uint64
	}{{128 * MiB, 40 * MiB}, {256 * MiB, 80 * MiB}, {1024 * MiB, 192 * MiB}} {
		queued := uint64(0)
		for ports := int64(1); ports <= 6; ports++ { // as many as long operations may have
			queued += uint64(writeSize(c.memory, ports)) * queueLength
		}
		if queued > c.most {
			t.Errorf("%d MiB of memory, of which %d MiB may be queued", c.memory/MiB, queued/MiB)
		}
	}
	if size := writeSize(256*MiB, 1); size != mostWrite {
		t.Errorf("one transfer could be faster: writes of %d bytes", size)
	}
}
