package mux

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"bandsox.dev/agent/internal/wire"
)

// ErrReset means that the stream ended before its time.
var ErrReset = errors.New("the stream was reset")

// Stream is one byte stream in both directions. One goroutine at a time may read, and one may write.
type Stream struct {
	Target  Target
	session *Session
	id      uint32

	mu      sync.Mutex
	changed sync.Cond

	accepted bool
	refused  *wire.Failure
	dead     bool // over, whatever was under way
	released bool // over, and nothing was lost
	onDeath  func()

	credit   int  // bytes the other end takes
	finished bool // we have sent FIN or CLOSE
	unwanted bool // the other end reads no more

	received []byte
	allowed  int  // bytes the other end may still send
	taken    int  // bytes read since the last CREDIT
	ended    bool // the other end has sent FIN or CLOSE
}

func newStream(session *Session, id uint32, target Target) *Stream {
	s := &Stream{Target: target, session: session, id: id, credit: CreditSize, allowed: CreditSize}
	s.changed.L = &s.mu
	return s
}

// Accept tells the host that the stream leads where it wanted.
func (s *Stream) Accept() error {
	s.mu.Lock()
	s.accepted = true
	s.mu.Unlock()
	return s.session.send(kindAccept, s.id, nil)
}

// Refuse ends a stream that leads nowhere.
func (s *Stream) Refuse(failure *wire.Failure) {
	frame, err := wire.MessageFrame(s.session.frameType, failure)
	if err == nil && s.die() {
		_ = s.session.send(kindRefuse, s.id, frame[wire.HeaderSize:])
	}
}

// Accepted waits until the guest has accepted the stream, or gives the reason why it has not.
func (s *Stream) Accepted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.accepted && !s.dead {
		s.changed.Wait()
	}
	switch {
	case s.accepted:
		return nil
	case s.refused != nil:
		return s.refused
	}
	return ErrReset
}

// OnDeath has f called once when the stream ends before its time; at once if it has.
func (s *Stream) OnDeath(f func()) {
	s.mu.Lock()
	dead := s.dead
	if !dead {
		s.onDeath = f
	}
	s.mu.Unlock()
	if dead {
		f()
	}
}

// Take waits for data and returns what is there: io.EOF after the last byte, ErrReset when there is no last byte
// any more. The caller says with Took when it has made room for as much again.
func (s *Stream) Take() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.dead:
			return nil, ErrReset
		case len(s.received) > 0:
			data := s.received
			s.received = nil // an idle stream holds no memory
			return data, nil
		case s.ended:
			return nil, io.EOF
		}
		s.changed.Wait()
	}
}

// Took grants the other end n bytes more, which were taken.
func (s *Stream) Took(n int) error {
	s.mu.Lock()
	s.taken += n
	due := 0
	if s.taken >= CreditSize/4 && !s.ended && !s.dead {
		due, s.taken = s.taken, 0
		s.allowed += due
	}
	s.mu.Unlock()
	if due == 0 {
		return nil
	}
	return s.session.send(kindCredit, s.id, binary.BigEndian.AppendUint32(nil, uint32(due)))
}

// Room waits until the other end takes data, and returns how much may be sent now.
func (s *Stream) Room() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credit == 0 && !s.dead && !s.unwanted {
		s.changed.Wait()
	}
	switch {
	case s.dead:
		return 0, ErrReset
	case s.unwanted:
		return 0, ErrClosed
	}
	return min(s.credit, dataSize), nil
}

// Send sends the n bytes in a chunk's space; n is at most what Room has returned.
func (s *Stream) Send(c *Chunk, n int) error {
	s.mu.Lock()
	s.credit -= n
	s.mu.Unlock()
	s.session.putHeader(c[:], kindData, s.id, n)
	return s.session.transmit(c[:wire.HeaderSize+headerSize+n])
}

// Finish tells the other end that no more data comes.
func (s *Stream) Finish() error {
	s.mu.Lock()
	if s.finished || s.dead {
		s.mu.Unlock()
		return nil
	}
	s.finished = true
	s.mu.Unlock()
	return s.session.send(kindFin, s.id, nil)
}

// Reset ends the stream at once, with what is under way.
func (s *Stream) Reset() {
	if s.die() {
		_ = s.session.send(kindReset, s.id, nil)
	}
}

// release ends a stream of which nothing is left to be moved at this end.
func (s *Stream) release() {
	s.mu.Lock()
	s.released = true
	s.mu.Unlock()
	s.session.forget(s.id)
}

// over tells whether neither end has anything to say any more.
func (s *Stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finished && s.ended
}

// die ends the stream at this end, and tells whether it was still there.
func (s *Stream) die() bool {
	s.mu.Lock()
	if s.dead || s.released {
		s.mu.Unlock()
		return false
	}
	s.dead, s.received = true, nil
	f := s.onDeath
	s.changed.Broadcast()
	s.mu.Unlock()
	s.session.forget(s.id)
	if f != nil {
		f()
	}
	return true
}

// put takes a record of the other end.
func (s *Stream) put(k kind, rest []byte) error {
	switch k {
	case kindData:
		return s.putData(rest)
	case kindCredit:
		n, err := number(rest)
		if err != nil {
			return err
		}
		return s.putCredit(n)
	case kindAccept, kindRefuse:
		return s.answered(k, rest)
	}
	if len(rest) != 0 {
		return wire.Violation("a record of kind %d with %d bytes", k, len(rest))
	}
	if k == kindReset {
		s.die()
		return nil
	}
	return s.putEnd(k)
}

func (s *Stream) putData(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(data) == 0 || len(data) > s.allowed || s.ended || !s.open() {
		return wire.Violation("%d bytes of DATA for stream %d, which takes %d", len(data), s.id, s.allowed)
	}
	s.allowed -= len(data)
	if len(s.received) == 0 {
		s.received = data
	} else {
		s.received = append(s.received, data...)
	}
	s.changed.Broadcast()
	return nil
}

func (s *Stream) putCredit(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credit+n > CreditSize || !s.open() {
		return wire.Violation("a credit of %d bytes on top of %d", n, s.credit)
	}
	s.credit += n
	s.changed.Broadcast()
	return nil
}

// putEnd takes FIN, after which the other end still reads, or CLOSE.
func (s *Stream) putEnd(k kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open() || s.ended && (k == kindFin || s.unwanted) {
		return wire.Violation("stream %d ended twice", s.id)
	}
	s.ended = true
	if k == kindClose {
		s.unwanted, s.finished = true, true
	}
	s.changed.Broadcast()
	return nil
}

func (s *Stream) answered(k kind, rest []byte) error {
	s.mu.Lock()
	again := s.accepted
	s.mu.Unlock()
	if s.session.serve != nil || again {
		return wire.Violation("an answer for stream %d, which expects none", s.id)
	}
	if k == kindRefuse {
		failure := &wire.Failure{}
		if err := wire.Decode(rest, failure); err != nil {
			return wire.Violation("REFUSE: %v", err)
		}
		s.mu.Lock()
		s.refused = failure
		s.mu.Unlock()
		s.die()
		return nil
	}
	if len(rest) != 0 {
		return wire.Violation("an ACCEPT with %d bytes", len(rest))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = true
	s.changed.Broadcast()
	return nil
}

// open tells whether the other end may use the stream: the guest only after it has accepted it.
func (s *Stream) open() bool { return s.session.serve != nil || s.accepted }
