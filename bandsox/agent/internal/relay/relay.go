// Package relay stands between a machine's serial console and the processes of its host that want to talk to
// the agent: it offers a Unix socket that speaks as Firecracker's vsock socket does, and
// carries each connection as a stream of the line.
package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"bandsox.dev/agent/internal/line"

	"golang.org/x/sys/unix"
)

const (
	// greetingTime is how long a client may take to say where it wants to go.
	greetingTime = 10 * time.Second

	// greetingSize is the longest greeting: "CONNECT 4294967295\n".
	greetingSize = 19

	// chunkSize is how much is moved at once between a client and its stream.
	chunkSize = 16 << 10
)

// Serve accepts clients until the listener is closed. As many as there are streams are served at once; the others
// wait in the socket's queue.
func Serve(listener *net.UnixListener, l *line.Line) error {
	places := make(chan struct{}, line.MaxStreams)
	for {
		places <- struct{}{}
		client, err := listener.AcceptUnix()
		if err != nil {
			return err
		}
		go func() {
			defer func() { <-places }()
			defer client.Close()
			carry(client, l)
		}()
	}
}

// carry serves one client to its end.
func carry(client *net.UnixConn, l *line.Line) {
	port, early, err := greet(client)
	if err != nil {
		return
	}
	stream, err := l.Open(port)
	if err != nil {
		return
	}
	inward := make(chan struct{})
	defer func() {
		stream.Reset() // does nothing where both directions have ended
		client.Close()
		<-inward
	}()
	go func() {
		defer close(inward)
		moveIn(client, stream, early)
	}()
	if !stream.Accepted() {
		return // closed without a byte, as Firecracker does
	}
	if _, err := fmt.Fprintf(client, "OK %d\n", stream.ID()); err != nil {
		return
	}
	if moveOut(stream, client) == nil && !stream.Ended() {
		_ = client.CloseWrite()
		<-inward
	}
}

// greet reads "CONNECT <port>\n", and what came with it.
func greet(client *net.UnixConn) (port uint32, early []byte, err error) {
	if err := client.SetReadDeadline(time.Now().Add(greetingTime)); err != nil {
		return 0, nil, err
	}
	buffer := make([]byte, 4096)
	n := 0
	for bytes.IndexByte(buffer[:n], '\n') < 0 {
		if n >= greetingSize {
			return 0, nil, errors.New("no greeting")
		}
		m, err := client.Read(buffer[n:])
		if err != nil {
			return 0, nil, err
		}
		n += m
	}
	first, rest, _ := bytes.Cut(buffer[:n], []byte("\n"))
	word, ok := bytes.CutPrefix(first, []byte("CONNECT "))
	number, err := strconv.ParseUint(string(word), 10, 32)
	if !ok || err != nil {
		return 0, nil, errors.New("not a greeting")
	}
	return uint32(number), rest, client.SetReadDeadline(time.Time{})
}

// moveIn carries what the client sends. A client that leaves before the guest has taken it has not been there.
func moveIn(client *net.UnixConn, stream *line.Stream, early []byte) {
	if _, err := stream.Write(early); err != nil {
		return
	}
	buffer := make([]byte, chunkSize)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			if _, err := stream.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err == nil {
			continue
		}
		if err == io.EOF && (stream.Served() || !hasLeft(client)) {
			stream.CloseWrite()
		} else {
			stream.Reset()
		}
		return
	}
}

// hasLeft tells whether the client has closed its socket, and not only one direction of it.
func hasLeft(client *net.UnixConn) bool {
	raw, err := client.SyscallConn()
	if err != nil {
		return true
	}
	state := []unix.PollFd{{}}
	err = raw.Control(func(fd uintptr) {
		state[0].Fd = int32(fd)
		_, _ = unix.Poll(state, 0)
	})
	return err != nil || state[0].Revents&unix.POLLHUP != 0
}

// moveOut carries what the guest sends, and returns nil at its end.
func moveOut(stream *line.Stream, client *net.UnixConn) error {
	buffer := make([]byte, chunkSize)
	for {
		n, err := stream.Read(buffer)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return err
		}
	}
}

// Log keeps the first bytes of a console: at most room of them, and none after a write that failed. A full disk
// costs the log, and not the machine.
func Log(file io.Writer, room int64) func([]byte) {
	return func(text []byte) {
		text = text[:min(int64(len(text)), max(room, 0))]
		if len(text) == 0 {
			return
		}
		room -= int64(len(text))
		if _, err := file.Write(text); err != nil {
			room = 0
		}
	}
}
