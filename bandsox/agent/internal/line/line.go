// Package line carries many byte streams over one serial console, between the relay on the host and
// the agent in the guest: what vsock does where there is one.
//
// The line is slow, others print on it, and whoever floods it makes it lose bytes. So records travel in
// armoured frames (package armour), numbered and acknowledged, and are sent again when they were lost. Streams take turns, and
// each has a credit of its own: a reader that does not read holds up its own stream and no other.
//
// The host opens sessions and streams; the guest only answers. A new session, such as that of
// a relay that was started again, ends every stream of the one before. Nothing that the other side
// sends makes this side hold more than MaxStreams times the credit. docs/protocol.md is the contract.
package line

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"bandsox.dev/agent/internal/armour"
)

// MaxStreams is how many streams may be open at once.
const MaxStreams = 64

// Role is the end of the line that this side is.
type Role uint8

// The two ends.
const (
	Host Role = iota
	Guest
)

// ErrClosed means that the line itself has ended.
var ErrClosed = errors.New("the line has ended")

// Line is one end of a serial line.
type Line struct {
	role Role
	in   io.Reader
	out  io.Writer
	text func([]byte)
	wake chan struct{}

	mu       sync.Mutex
	over     error
	session  uint32 // 0: none yet
	up       bool   // both sides are in it
	syncDue  bool   // SYNC is to be sent
	syncAt   time.Time
	syncWait time.Duration // 0: SYNC is not repeated

	window   window
	expected uint32 // the other side's next record
	ackDue   bool
	nakDue   bool
	nakSent  bool   // for the record that is expected now
	beyond   uint32 // the number of the last record that came too early

	streams map[uint32]*Stream
	newest  uint32 // stream id
	turns   []*Stream
	arrived []*Stream // at the guest, not accepted yet
	arrival sync.Cond
}

// New makes one end of a line. What is printed on it goes to text.
//
// A host waits until the guest says that it is there, unless it knows that it is: resume.
func New(role Role, in io.Reader, out io.Writer, text func([]byte), resume bool) *Line {
	l := &Line{
		role: role, in: in, out: out, text: text,
		wake:    make(chan struct{}, 1),
		streams: map[uint32]*Stream{},
	}
	l.arrival.L = &l.mu
	l.window.reset()
	if role == Guest {
		l.announce()
	} else {
		l.session = newSession()
		if resume {
			l.announce()
		}
	}
	return l
}

func newSession() uint32 {
	var b [4]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint32(b[:]); id != 0 {
			return id
		}
	}
}

// Run carries the streams until one direction of the line fails, and returns why; io.EOF is the line's
// end. Afterwards all streams are reset.
func (l *Line) Run() error {
	go l.write()
	decoder := armour.Decoder{Text: l.text, Frame: l.receive, Broken: l.broken}
	buffer := make([]byte, 4096)
	for {
		n, err := l.in.Read(buffer)
		decoder.Feed(buffer[:n])
		if n == 0 {
			if err == nil {
				err = io.EOF
			}
			l.end(err)
			return l.over
		}
		l.poke()
	}
}

// end makes err the line's, unless it has ended before.
func (l *Line) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		l.over = err
	}
	for _, s := range l.streams {
		s.kill()
	}
	l.arrived = nil
	l.arrival.Broadcast()
	l.poke()
}

// Open begins a stream to one of the guest's ports. It may be used at once; Accepted waits for the guest.
func (l *Line) Open(port uint32) (*Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return nil, ErrClosed
	}
	if len(l.streams) >= MaxStreams {
		return nil, errors.New("too many streams")
	}
	l.newest++
	s := newStream(l, l.newest, port)
	s.openDue = true
	l.streams[s.id] = s
	l.ready(s)
	return s, nil
}

// Accept returns the next stream that the host has opened.
func (l *Line) Accept() (*Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.arrived) == 0 {
		if l.over != nil {
			return nil, ErrClosed
		}
		l.arrival.Wait()
	}
	s := l.arrived[0]
	l.arrived = l.arrived[1:]
	s.acceptDue = true
	l.ready(s)
	return s, nil
}

// ready gives the stream a turn.
func (l *Line) ready(s *Stream) {
	if !s.queued {
		s.queued = true
		l.turns = append(l.turns, s)
	}
	l.poke()
}

func (l *Line) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Line) forget(s *Stream) {
	if l.streams[s.id] == s {
		delete(l.streams, s.id)
	}
}

// reset ends a stream, and tells the other side if that knows it.
func (l *Line) reset(s *Stream) {
	known := l.streams[s.id] == s
	s.kill()
	if known && (l.role == Guest || s.opened) {
		s.resetDue = true
		l.ready(s)
	}
}

// ── sending ──

// write sends what there is, until the line has ended.
func (l *Line) write() {
	var space [armour.MaxFrame]byte
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		frame, wait, err := l.next(space[:0])
		switch {
		case err != nil:
			return
		case len(frame) > 0:
			if err := writeAll(l.out, frame); err != nil {
				l.end(err)
				return
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		}
	}
}

func writeAll(w io.Writer, p []byte) error {
	for len(p) > 0 {
		n, err := w.Write(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// never is a wait that ends by an event.
const never = time.Hour

// next returns the next frame, or how long nothing is due.
func (l *Line) next(space []byte) ([]byte, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return nil, 0, l.over
	}
	now := time.Now()
	f := frame{session: l.session, ack: l.expected}
	switch {
	case l.takeSync(now):
		f.kind, f.ack = kindSync, 0
	case !l.up:
		return nil, l.untilSync(now), nil
	case l.nakDue:
		f.kind = kindNak
	case l.takeRecord(&f, now):
		f.kind = kindRecord
	case l.ackDue:
		f.kind = kindAck
	default:
		if l.window.underWay() {
			return nil, l.window.deadline.Sub(now), nil
		}
		return nil, never, nil
	}
	if f.kind != kindSync {
		l.ackDue, l.nakDue = false, false
	}
	if l.role == Guest {
		f.kind |= fromGuest
	}
	return f.append(space), 0, nil
}

func (l *Line) takeRecord(f *frame, now time.Time) (ok bool) {
	l.window.expire(now)
	if f.seq, f.record, ok = l.window.next(now); !ok && !l.window.full() && l.takeTurn() {
		f.seq, f.record, ok = l.window.next(now)
	}
	return ok
}

// takeTurn puts one record of the stream whose turn it is into the window.
func (l *Line) takeTurn() bool {
	for len(l.turns) > 0 {
		s := l.turns[0]
		l.turns[0] = nil
		l.turns = l.turns[1:]
		s.queued = false
		if r, ok := s.take(); ok {
			l.window.add(&r)
			l.ready(s)
			return true
		}
	}
	l.turns = nil
	return false
}

// ── the session ──

// announce sends SYNC now, and again until it is answered.
func (l *Line) announce() {
	l.syncDue, l.syncWait = true, leastPatience
	l.poke()
}

// takeSync tells whether SYNC is due. The host repeats it only while somebody waits for a stream.
func (l *Line) takeSync(now time.Time) bool {
	due := l.syncDue || l.syncWait > 0 && l.repeats() && !now.Before(l.syncAt)
	if !due {
		return false
	}
	l.syncDue = false
	l.syncAt = now.Add(l.syncWait)
	l.syncWait = min(2*l.syncWait, mostPatience)
	return true
}

func (l *Line) repeats() bool { return !l.up && (l.role == Guest || len(l.streams) > 0) }

func (l *Line) untilSync(now time.Time) time.Duration {
	if l.syncWait > 0 && l.repeats() {
		return l.syncAt.Sub(now)
	}
	return never
}

// begin is a session's first moment: both sides count from zero.
func (l *Line) begin() {
	l.up, l.syncWait = true, 0
	l.window.reset()
	l.expected, l.beyond = 0, 0
	l.ackDue, l.nakDue, l.nakSent = false, false, false
}

// drop ends every stream that the other side has heard of.
func (l *Line) drop() {
	l.up = false
	for _, s := range l.streams {
		if l.role == Guest || s.opened {
			s.kill()
		}
	}
	turns := l.turns
	l.turns = nil
	for _, s := range turns { // a RESET of the last session must not reach the next one
		s.queued, s.resetDue = false, false
		if !s.dead {
			l.ready(s)
		}
	}
	l.arrived = nil
}

// violated ends the session, because the other side did what is not allowed.
func (l *Line) violated() {
	l.drop()
	l.session = 0
	if l.role == Host {
		l.session = newSession()
	}
	l.announce()
}

// ── receiving ──

// receive takes a frame that arrived whole.
func (l *Line) receive(body []byte) {
	f, ok := parseFrame(body)
	if !ok || (f.kind&fromGuest != 0) != (l.role == Host) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if f.kind &^= fromGuest; f.kind == kindSync {
		l.receiveSync(f.session)
		return
	}
	if !l.up || f.session != l.session {
		if l.role == Guest && !l.up {
			l.syncDue = true // the host believes in a session that this guest has lost
		}
		return
	}
	if !l.window.acknowledge(f.ack, now) {
		l.violated()
		return
	}
	switch f.kind {
	case kindAck:
	case kindNak:
		l.window.goBack()
	case kindRecord:
		l.receiveRecord(&f)
	default:
		l.violated()
	}
}

func (l *Line) receiveSync(session uint32) {
	if l.role == Guest {
		if session == 0 {
			return
		}
		if session != l.session || !l.up {
			l.drop()
			l.session, l.newest = session, 0
			l.begin()
		}
		l.syncDue = true
		return
	}
	switch {
	case session == l.session && !l.up:
		l.begin()
	case session == 0 && l.up:
		l.drop()
		l.session = newSession()
		l.announce()
	case session == 0:
		l.announce()
	}
}

func (l *Line) receiveRecord(f *frame) {
	l.ackDue = true
	if f.seq != l.expected {
		if f.seq-l.expected < windowSize {
			if f.seq-l.beyond-1 >= windowSize { // the sender went back, and it was lost again
				l.nakSent = false
			}
			l.beyond = f.seq
			l.missing()
		}
		return // otherwise it was there before
	}
	r, ok := parseRecord(f.record)
	if !ok || !l.dispatch(&r) {
		l.violated()
		return
	}
	l.beyond = l.expected
	l.expected++
	l.nakSent = false
}

// broken notices that a frame was spoilt.
func (l *Line) broken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up {
		l.missing()
	}
}

// missing asks once for what is expected now. If that is lost too, the sender's patience ends.
func (l *Line) missing() {
	if !l.nakSent {
		l.nakDue, l.nakSent = true, true
	}
}

func (l *Line) dispatch(r *record) bool {
	if r.op == opOpen {
		return l.role == Guest && l.arrive(r)
	}
	s := l.streams[r.stream]
	if s == nil {
		return r.stream != 0 && r.stream <= l.newest // was under way when the stream ended
	}
	if l.role == Host && !s.opened {
		return false
	}
	return s.put(r)
}

// arrive takes a stream that the host opens.
func (l *Line) arrive(r *record) bool {
	if r.stream <= l.newest {
		return false
	}
	l.newest = r.stream
	s := newStream(l, r.stream, r.number)
	if len(l.streams) >= MaxStreams {
		s.dead, s.resetDue = true, true
		l.ready(s)
		return true
	}
	l.streams[s.id] = s
	l.arrived = append(l.arrived, s)
	l.arrival.Signal()
	return true
}
