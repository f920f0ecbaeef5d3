package line

import (
	"encoding/binary"
	"io"
	"testing"
	"time"

	"bandsox.dev/agent/internal/armour"
)

// session returns a host that is in a session with a guest which has taken one stream, and the stream.
func session(t testing.TB) (*Line, *Stream) {
	t.Helper()
	l := New(Host, nil, io.Discard, func([]byte) {}, false)
	l.receive(guestFrame(l, kindSync, 0, 0, nil))
	s, err := l.Open(1024)
	if err != nil || !l.up {
		t.Fatal("no session")
	}
	sendDue(t, l)
	l.receive(guestFrame(l, kindRecord, 0, 1, (&record{op: opAccept, stream: s.id}).append(nil)))
	if !s.Served() {
		t.Fatal("not served")
	}
	return l, s
}

func guestFrame(l *Line, k kind, seq, ack uint32, content []byte) []byte {
	b := []byte{byte(k | fromGuest)}
	for _, n := range []uint32{l.session, seq, ack} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(b, content...)
}

// sendDue takes the frames that the line would send now.
func sendDue(t testing.TB, l *Line) {
	t.Helper()
	for {
		frame, _, err := l.next(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(frame) == 0 {
			return
		}
	}
}

func TestWhatAGuestMayNotSendEndsItsSession(t *testing.T) {
	data := func(n int) []byte { return (&record{op: opData, stream: 1, data: make([]byte, n)}).append(nil) }
	for name, frames := range map[string][][]byte{
		"an empty record":         {{}},
		"an unknown operation":    {{9, 0, 0, 0, 1}},
		"a stream of its own":     {(&record{op: opOpen, stream: 2, number: 1}).append(nil)},
		"a stream nobody opened":  {(&record{op: opFin, stream: 77}).append(nil)},
		"accepted twice":          {(&record{op: opAccept, stream: 1}).append(nil)},
		"no data":                 {data(0)},
		"too much data":           {data(dataSize + 1)},
		"too much credit":         {(&record{op: opCredit, stream: 1, number: 1}).append(nil)},
		"no credit":               {(&record{op: opCredit, stream: 1}).append(nil)},
		"huge credit":             {(&record{op: opCredit, stream: 1, number: 1<<32 - 1}).append(nil)},
		"data after the end":      {(&record{op: opFin, stream: 1}).append(nil), data(1)},
		"two ends":                {(&record{op: opFin, stream: 1}).append(nil), (&record{op: opFin, stream: 1}).append(nil)},
		"a record with a surplus": {append((&record{op: opFin, stream: 1}).append(nil), 0)},
	} {
		l, s := session(t)
		before := l.session
		for i, content := range frames {
			if !l.up {
				t.Errorf("%s: ended too early", name)
			}
			l.receive(guestFrame(l, kindRecord, uint32(1+i), 1, content))
		}
		if l.up || l.session == before || !s.dead {
			t.Errorf("%s: was allowed", name)
		}
	}
}

func TestAnAcknowledgementOfWhatWasNeverSentEndsTheSession(t *testing.T) {
	l, _ := session(t)
	l.receive(guestFrame(l, kindAck, 0, 2, nil))
	if l.up {
		t.Error("was allowed")
	}
}

func TestAGuestThatIgnoresItsCreditIsStopped(t *testing.T) {
	l, s := session(t)
	content := (&record{op: opData, stream: 1, data: make([]byte, dataSize)}).append(nil)
	sent := 0
	for seq := uint32(1); l.up; seq++ {
		l.receive(guestFrame(l, kindRecord, seq, 1, content))
		sent += dataSize
		if len(s.received) > creditSize {
			t.Fatal("held", len(s.received))
		}
	}
	if sent != creditSize+dataSize {
		t.Error("after", sent)
	}
}

func TestTheHostsOwnFramesAreNoGuests(t *testing.T) {
	l, _ := session(t)
	before := l.session
	echo := guestFrame(l, kindSync, 0, 0, nil)
	echo[0] &^= byte(fromGuest)
	binary.BigEndian.PutUint32(echo[1:], 0)
	l.receive(echo)
	if !l.up || l.session != before {
		t.Error("an echo was believed")
	}
}

// FuzzHost feeds a host in the middle of a session with whatever a guest may print, some of it
// with the right session and number.
func FuzzHost(f *testing.F) {
	f.Add([]byte{byte(kindRecord), byte(opData), 0, 0, 0, 1, 7}, true)
	f.Add([]byte{byte(kindRecord), byte(opCredit), 0, 0, 0, 1, 0, 0, 0, 1}, true)
	f.Add([]byte{byte(kindRecord), byte(opClose), 0, 0, 0, 1}, true)
	f.Add([]byte{byte(kindNak)}, true)
	f.Add([]byte{byte(kindSync)}, true)
	f.Add([]byte("text \x1e\x80\x80\x1f"), false)
	f.Fuzz(func(t *testing.T, input []byte, framed bool) {
		l, s := session(t)
		decoder := armour.Decoder{Text: l.text, Frame: l.receive, Broken: l.broken}
		for round := range 3 {
			line := input
			if framed && len(input) > 0 && len(input) < armour.MaxBody-headerSize {
				line = armour.Append(nil, guestFrame(l, kind(input[0]), l.expected, 1, input[1:]))
			}
			decoder.Feed(line)
			for range 2 * windowSize {
				if frame, _, err := l.next(nil); err != nil || len(frame) > armour.MaxFrame {
					t.Fatal(len(frame), err)
				}
			}
			if len(s.received) > creditSize || len(l.streams) > 1 || len(l.turns) > 2 || l.window.end-l.window.oldest > windowSize {
				t.Fatal("out of bounds in round", round)
			}
		}
		end := make(chan struct{})
		go func() { // whatever was sent, the stream can be ended
			s.Close()
			s.Reset()
			_, _ = io.ReadAll(s)
			close(end)
		}()
		select {
		case <-end:
		case <-time.After(10 * time.Second):
			t.Fatal("the stream hangs")
		}
	})
}
