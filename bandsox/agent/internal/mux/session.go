package mux

import (
	"encoding/binary"
	"errors"
	"sync"

	"bandsox.dev/agent/internal/wire"
)

var (
	// ErrClosed means that the session, or this end of the stream, is over.
	ErrClosed = errors.New("the streams are closed")

	// ErrBusy means that MaxStreams are open.
	ErrBusy = errors.New("too many streams are open")
)

// Session is one end of a connection with streams.
type Session struct {
	transmit  func(frame []byte) error
	serve     func(*Stream) // nil at the host's end
	frameType wire.Type

	opening sync.Mutex // so that the numbers on the wire only grow

	mu      sync.Mutex
	streams map[uint32]*Stream
	last    uint32 // the newest stream's number
	closed  bool
}

// NewGuest makes the guest's end. Each stream that the host opens is served in a goroutine of its own, which
// accepts or refuses it. transmit sends a whole frame and may block.
func NewGuest(transmit func(frame []byte) error, serve func(*Stream)) *Session {
	return &Session{transmit: transmit, serve: serve, frameType: wire.GuestData, streams: map[uint32]*Stream{}}
}

// NewHost makes the host's end.
func NewHost(transmit func(frame []byte) error) *Session {
	return &Session{transmit: transmit, frameType: wire.HostData, streams: map[uint32]*Stream{}}
}

// Open begins a stream; data may be sent at once, Accepted tells what became of it.
func (s *Session) Open(target Target) (*Stream, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	stream, err := s.register(target)
	if err != nil {
		return nil, err
	}
	if err := s.send(kindOpen, stream.id, target.append(nil)); err != nil {
		stream.die()
		return nil, err
	}
	return stream, nil
}

func (s *Session) register(target Target) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if len(s.streams) >= MaxStreams {
		return nil, ErrBusy
	}
	s.last++
	stream := newStream(s, s.last, target)
	s.streams[stream.id] = stream
	return stream, nil
}

// Put takes a record of the other end; it never waits. The record's memory is the session's from then on. After an error,
// which is a violation, the session is of no further use.
func (s *Session) Put(record []byte) error {
	k, id, rest, err := parseRecord(record)
	if err != nil {
		return err
	}
	if k == kindOpen {
		return s.opened(id, rest)
	}
	s.mu.Lock()
	stream, last := s.streams[id], s.last
	s.mu.Unlock()
	if id > last {
		return wire.Violation("a record for stream %d, which was never opened", id)
	}
	if stream == nil {
		return nil // over, which the other end did not know yet
	}
	return stream.put(k, rest)
}

func (s *Session) opened(id uint32, rest []byte) error {
	target, err := parseTarget(rest)
	if err != nil {
		return err
	}
	if s.serve == nil {
		return wire.Violation("an OPEN from the guest")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id <= s.last {
		return wire.Violation("stream %d after stream %d", id, s.last)
	}
	s.last = id
	if s.closed {
		return nil
	}
	stream := newStream(s, id, target)
	if len(s.streams) >= MaxStreams {
		go stream.Refuse(wire.Fail(wire.CodeBusy, "%d connections are open", MaxStreams))
		return nil
	}
	s.streams[id] = stream
	go s.serve(stream)
	return nil
}

// Close ends the session at once, and its streams with what is under way. Those that both ends have ended already still
// hand on what has arrived.
func (s *Session) Close() {
	s.mu.Lock()
	s.closed = true
	streams := make([]*Stream, 0, len(s.streams))
	for _, stream := range s.streams {
		streams = append(streams, stream)
	}
	s.mu.Unlock()
	for _, stream := range streams {
		if !stream.over() {
			stream.die()
		}
	}
}

// Streams is how many are open.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *Session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, id)
}

func (s *Session) send(k kind, stream uint32, rest []byte) error {
	return s.transmit(s.frame(k, stream, rest))
}

func number(rest []byte) (int, error) {
	if len(rest) != 4 {
		return 0, wire.Violation("a CREDIT of %d bytes", len(rest))
	}
	n := binary.BigEndian.Uint32(rest)
	if n == 0 || n > CreditSize {
		return 0, wire.Violation("a CREDIT for %d bytes", n)
	}
	return int(n), nil
}
