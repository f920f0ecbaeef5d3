// Package transport carries bytes between host and guest: virtio-serial ports,
// vsock streams and, for tests outside a machine, Unix sockets.
//
// Every channel uses blocking descriptors, and whoever reads one is a thread of its
// own: a virtio-serial port cannot be used with Go's poller (see Port), and one thread
// that sleeps in read(2) is the shortest way from the device to the reader.
package transport

import (
	"io"

	"golang.org/x/sys/unix"
)

// Channel is one byte stream to the host.
//
// Read and Write may be called by one goroutine each at a time, and each makes one
// system call. Read returns io.EOF when the host's end is closed.
type Channel interface {
	io.Reader
	// Write may write less than it is given without an error.
	io.Writer
	// Greeted is called when a client has greeted, by who reads.
	Greeted()
	// Descriptor is what poll(2) can wait for in the place of Read, -1 where there is none.
	Descriptor() int
	// AwaitHost is called after io.EOF and returns when it is worth reading again,
	// or an error when nobody will ever come back on this channel.
	AwaitHost() error
	// Interrupt ends what can be ended: a socket's stream, with the reads and writes
	// that block on it. A port cannot be closed and stays as it is.
	Interrupt()
	// Close gives the descriptor back. No call may be under way or follow.
	Close()
}

// readFD reads once, and takes the system's zero for the end of the stream.
func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func writeFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		if err == unix.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
