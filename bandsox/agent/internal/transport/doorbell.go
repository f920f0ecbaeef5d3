package transport

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// DoorbellPort is where the host listens while the machine boots, when the kernel's arguments name no port.
const DoorbellPort = 1025

// TokenSize is the length in bytes of the token that a host gives.
const TokenSize = 32

// connectSeconds is how long a host may be too busy to accept; the kernel would give up after two seconds.
const connectSeconds = 30

// RingHost tells the host that the agent listens, by connecting to it over vsock. A host that
// does not wait for that refuses, and nothing is lost.
func RingHost() {
	if fd, err := connectHost(DoorbellPort); err == nil {
		unix.Close(fd)
	}
}

// AskHost tells the host that the agent listens, and returns the token that it gives. Whoever listens
// at that port is the host that started the machine: it had the port before the machine was there.
func AskHost(port uint32) (*[TokenSize]byte, error) {
	fd, err := connectHost(port)
	if err != nil {
		return nil, fmt.Errorf("no answer at the door: %w", err)
	}
	defer unix.Close(fd)
	var token [TokenSize]byte
	if _, err := io.ReadFull(NewSocket(fd), token[:]); err != nil {
		return nil, fmt.Errorf("no token from the host: %w", err)
	}
	return &token, nil
}

func connectHost(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &unix.Timeval{Sec: connectSeconds})
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
