package line

import (
	"errors"
	"io"
	"sync"
)

const (
	// creditSize is how many bytes of a stream may be under way to a reader that does not read.
	creditSize = 32 << 10

	// sendSize is how many bytes of a stream wait for the line.
	sendSize = 16 << 10
)

// ErrReset means that the stream ended before its time.
var ErrReset = errors.New("the stream was reset")

// Stream is one of the byte streams on a line. One goroutine at a time may read, and one may write.
type Stream struct {
	line    *Line
	id      uint32
	port    uint32
	changed sync.Cond // on line.mu

	queued bool // in line.ready

	openDue, opened     bool // the host's OPEN is to be sent; was sent
	acceptDue, accepted bool
	resetDue            bool
	closing             bool // by our side: FIN or CLOSE follows the last byte
	ended               op   // which of the two was sent
	abandoned           bool // our side reads no more
	dead                bool // over, whatever was under way

	send   []byte
	credit int // bytes the other side takes

	received []byte
	taken    int // bytes read since the last CREDIT
	allowed  int // bytes the other side may still send
	finished bool
}

func newStream(l *Line, id, port uint32) *Stream {
	s := &Stream{line: l, id: id, port: port, credit: creditSize, allowed: creditSize}
	s.changed.L = &l.mu
	return s
}

// ID is the stream's number; the line never uses it again in this session.
func (s *Stream) ID() uint32 { return s.id }

// Port is what the host asked for.
func (s *Stream) Port() uint32 { return s.port }

// Served tells whether the guest serves the stream, or has served it.
func (s *Stream) Served() bool {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	return s.accepted
}

// Ended tells whether the other side neither sends nor reads any more.
func (s *Stream) Ended() bool {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	return s.dead || s.line.streams[s.id] != s
}

// Accepted waits until the guest serves the stream, and tells whether it does.
func (s *Stream) Accepted() bool {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	for !s.accepted && !s.dead {
		s.changed.Wait()
	}
	return s.accepted
}

// Read returns io.EOF after the last byte, and ErrReset when there is no last byte any more.
func (s *Stream) Read(p []byte) (int, error) {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	for len(s.received) == 0 {
		switch {
		case s.dead:
			return 0, ErrReset
		case s.finished || s.abandoned:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
	n := copy(p, s.received)
	s.received = s.received[n:]
	if len(s.received) == 0 {
		s.received = nil // an idle stream holds no memory
	}
	if s.taken += n; s.taken >= creditSize/4 && !s.finished {
		s.line.ready(s)
	}
	return n, nil
}

// Write waits until the line has room for all of p.
func (s *Stream) Write(p []byte) (int, error) {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	written := 0
	for written < len(p) {
		for len(s.send) >= sendSize && !s.closing && !s.dead {
			s.changed.Wait()
		}
		if s.closing || s.dead {
			return written, ErrReset
		}
		n := min(len(p)-written, sendSize-len(s.send))
		s.send = append(s.send, p[written:written+n]...)
		written += n
		s.line.ready(s)
	}
	return written, nil
}

// CloseWrite tells the other side that no more data comes, after what was written.
func (s *Stream) CloseWrite() {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	s.closing = true
	s.line.ready(s)
	s.changed.Broadcast()
}

// Close ends the stream in both directions; what was written still goes out.
func (s *Stream) Close() {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	s.closing, s.abandoned = true, true
	s.received = nil
	s.line.ready(s)
	s.changed.Broadcast()
}

// Reset ends the stream at once, with what is under way.
func (s *Stream) Reset() {
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	s.line.reset(s)
}

// take returns the stream's next record, if it has one now.
func (s *Stream) take() (r record, ok bool) {
	switch {
	case s.resetDue:
		s.resetDue = false
		s.line.forget(s)
		return record{op: opReset, stream: s.id}, true
	case s.dead:
		return r, false
	case s.openDue:
		s.openDue, s.opened = false, true
		return record{op: opOpen, stream: s.id, number: s.port}, true
	case s.acceptDue:
		s.acceptDue = false
		return record{op: opAccept, stream: s.id}, true
	case s.taken >= creditSize/4 && !s.finished && !s.abandoned:
		r = record{op: opCredit, stream: s.id, number: uint32(s.taken)}
		s.allowed += s.taken
		s.taken = 0
		return r, true
	case len(s.send) > 0 && s.credit > 0:
		n := min(len(s.send), s.credit, dataSize)
		r = record{op: opData, stream: s.id, data: s.send[:n]}
		s.send = s.send[n:]
		s.credit -= n
		s.changed.Broadcast()
		return r, true
	case len(s.send) == 0 && s.closing && s.ended < s.last():
		s.ended = s.last()
		if s.ended == opClose || s.finished {
			s.line.forget(s)
		}
		return record{op: s.ended, stream: s.id}, true
	}
	return r, false
}

// last is the operation that ends our direction. After CLOSE, or the second FIN, nothing follows.
func (s *Stream) last() op {
	if s.abandoned {
		return opClose
	}
	return opFin
}

// put takes a record of the other side; false: it is not allowed.
func (s *Stream) put(r *record) bool {
	if s.line.role == Host && !s.accepted && r.op != opAccept && r.op != opReset {
		return false
	}
	switch r.op {
	case opAccept:
		if s.line.role != Host || s.accepted {
			return false
		}
		s.accepted = true
	case opCredit:
		if r.number == 0 || r.number > creditSize || s.credit+int(r.number) > creditSize {
			return false
		}
		s.credit += int(r.number)
		s.line.ready(s)
	case opData:
		if s.finished || len(r.data) > s.allowed {
			return false
		}
		s.allowed -= len(r.data)
		if !s.abandoned {
			s.received = append(s.received, r.data...)
		}
	case opFin:
		if s.finished {
			return false
		}
		s.finished = true
		if s.ended == opFin {
			s.line.forget(s)
		}
	case opClose:
		// What was received can still be read; what we would send is not wanted.
		s.finished, s.closing, s.ended = true, true, opClose
		s.send = nil
		s.line.forget(s)
	case opReset:
		s.kill()
	default:
		return false
	}
	s.changed.Broadcast()
	return true
}

// kill ends the stream on this side alone.
func (s *Stream) kill() {
	s.dead = true
	s.send, s.received = nil, nil
	s.line.forget(s)
	s.changed.Broadcast()
}
