package mux

import (
	"io"
	"sync"
	"syscall"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Socket is a connected, non-blocking stream socket.
type Socket interface {
	io.WriteCloser
	syscall.Conn
	CloseWrite() error
}

// Chunk is a frame with room for as much data as a record may have.
type Chunk [frameSize]byte

// Space is where the data stands.
func (c *Chunk) Space() []byte { return c[wire.HeaderSize+headerSize:] }

var chunks = sync.Pool{New: func() any { return new(Chunk) }}

// Carry moves bytes between a stream and a socket until both directions have ended, and closes both. An end of one direction is
// handed on as such, and whatever breaks off is a reset at the other side.
func Carry(s *Stream, sock Socket) {
	defer sock.Close()
	defer s.release()
	s.OnDeath(func() { Abort(sock) })
	inward := make(chan error, 1)
	go func() { inward <- carryIn(s, sock) }()
	if carryOut(sock, s) != nil {
		s.Reset()
	}
	// A socket that takes nothing any more may still have had something to say; that has been carried by now.
	if <-inward != nil {
		s.Reset()
	}
}

// carryIn writes to the socket what the stream brings.
func carryIn(s *Stream, sock Socket) error {
	for {
		data, err := s.Take()
		if err == io.EOF {
			if s.isUnwanted() {
				return sock.Close() // wakes carryOut
			}
			_ = sock.CloseWrite() // it fails where the other side has reset the connection, which carryOut sees
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := sock.Write(data); err != nil {
			return err
		}
		if err := s.Took(len(data)); err != nil {
			return err
		}
	}
}

// carryOut sends on the stream what the socket brings.
func carryOut(sock Socket, s *Stream) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	for {
		room, err := s.Room()
		if err == ErrClosed {
			return nil
		}
		if err != nil {
			return err
		}
		chunk, n, err := receive(raw, room)
		if err != nil {
			if s.isUnwanted() {
				return nil
			}
			return err
		}
		if n == 0 {
			return s.Finish()
		}
		err = s.Send(chunk, n)
		chunks.Put(chunk)
		if err != nil {
			return err
		}
	}
}

// receive waits for data and reads up to limit bytes of it; none at the end. While it waits it holds no chunk.
func receive(raw syscall.RawConn, limit int) (chunk *Chunk, n int, err error) {
	waited := raw.Read(func(fd uintptr) bool {
		chunk = chunks.Get().(*Chunk)
		for {
			n, err = unix.Read(int(fd), chunk.Space()[:limit])
			if err != unix.EINTR {
				break
			}
		}
		if err == nil && n > 0 {
			return true
		}
		chunks.Put(chunk)
		chunk = nil
		return err != unix.EAGAIN
	})
	if waited != nil {
		return nil, 0, waited
	}
	return chunk, max(n, 0), err
}

// Abort closes a socket so that its other side sees a reset, where it has one.
func Abort(sock Socket) {
	if raw, err := sock.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	_ = sock.Close()
}

func (s *Stream) isUnwanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unwanted
}
