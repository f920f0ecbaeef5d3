package mux

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"net"
	"sync"
	"testing"
	"time"

	"bandsox.dev/agent/internal/wire"
)

// pair is both ends of a session, with pipes of frames between them.
type pair struct {
	host, guest *Session
	broken      chan error
}

// connect makes a pair whose guest end serves streams with serve.
func connect(t *testing.T, serve func(*Stream)) *pair {
	t.Helper()
	p := &pair{broken: make(chan error, 2)}
	toGuest, toHost := make(chan []byte), make(chan []byte)
	done := make(chan struct{})
	over := func(to chan []byte) func([]byte) error {
		return func(frame []byte) error {
			select {
			case to <- bytes.Clone(frame[wire.HeaderSize:]):
				return nil
			case <-done:
				return ErrClosed
			}
		}
	}
	p.host = NewHost(over(toGuest))
	p.guest = NewGuest(over(toHost), serve)
	read := func(from chan []byte, s *Session) {
		for {
			select {
			case record := <-from:
				if err := s.Put(record); err != nil {
					p.broken <- err
				}
			case <-done:
				return
			}
		}
	}
	go read(toGuest, p.guest)
	go read(toHost, p.host)
	t.Cleanup(func() {
		close(done)
		p.host.Close()
		p.guest.Close()
		select {
		case err := <-p.broken:
			t.Error("a violation:", err)
		default:
		}
	})
	return p
}

// sockets is a connection over loopback TCP.
func sockets(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = dialled.(*net.TCPConn), accepted.(*net.TCPConn)
	for _, end := range []*net.TCPConn{a, b} {
		end.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { end.Close() })
	}
	return a, b
}

// forward connects a new client through the pair to a new server: what Carry is for.
func (p *pair) forward(t *testing.T, served chan<- *net.TCPConn) (client *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	client, inner := sockets(t)
	inner.SetDeadline(time.Time{})
	stream, err := p.host.Open(Target{Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if stream.Accepted() != nil {
			Abort(inner)
			return
		}
		Carry(stream, inner)
	}()
	return client, over
}

// forwarding is a pair whose streams lead to the servers that come out of the channel.
func forwarding(t *testing.T) (*pair, chan *net.TCPConn) {
	servers := make(chan *net.TCPConn, MaxStreams)
	p := connect(t, func(s *Stream) {
		inner, server := sockets(t)
		inner.SetDeadline(time.Time{})
		servers <- server
		if s.Accept() == nil {
			Carry(s, inner)
		}
	})
	return p, servers
}

func TestBytesAndEndsPassInBothDirections(t *testing.T) {
	p, servers := forwarding(t)
	client, done := p.forward(t, servers)
	server := <-servers
	request, answer := make([]byte, 3<<20), make([]byte, 5<<20)
	rand.New(rand.NewSource(1)).Read(request)
	rand.New(rand.NewSource(2)).Read(answer)
	go func() {
		client.Write(request)
		client.CloseWrite()
	}()
	got, err := io.ReadAll(server) // the request's end comes through, and the answer is still to be sent
	if err != nil || sha256.Sum256(got) != sha256.Sum256(request) {
		t.Fatalf("the server read %d bytes: %v", len(got), err)
	}
	go func() {
		server.Write(answer)
		server.Close()
	}()
	got, err = io.ReadAll(client)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(answer) {
		t.Fatalf("the client read %d bytes: %v", len(got), err)
	}
	<-done
	gone(t, p)
}

// gone waits until neither end has a stream left.
func gone(t *testing.T, p *pair) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for p.host.Streams()+p.guest.Streams() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d and %d streams are left", p.host.Streams(), p.guest.Streams())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAResetArrivesAsAReset(t *testing.T) {
	p, servers := forwarding(t)
	for _, clientResets := range []bool{true, false} {
		client, done := p.forward(t, servers)
		server := <-servers
		first, second := client, server
		if !clientResets {
			first, second = server, client
		}
		first.SetLinger(0)
		first.Close()
		if _, err := second.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a reset was read as %v", err)
		}
		<-done
	}
	gone(t, p)
}

func TestAnAnswerThatDoesNotWaitForTheRequestIsReadWhole(t *testing.T) {
	p, servers := forwarding(t)
	client, _ := p.forward(t, servers)
	server := <-servers
	answer := bytes.Repeat([]byte("too much"), 1000)
	go func() {
		server.Read(make([]byte, 1))
		server.Write(answer)
		server.CloseWrite()
		io.Copy(io.Discard, server)
		server.Close()
	}()
	client.Write(make([]byte, 1<<20))
	client.CloseWrite()
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	gone(t, p)
}

func TestAStreamThatNobodyReadsDelaysNoOther(t *testing.T) {
	p, servers := forwarding(t)
	stuck, _ := p.forward(t, servers)
	<-servers
	go func() {
		for {
			if _, err := stuck.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	client, _ := p.forward(t, servers)
	server := <-servers
	go func() {
		io.Copy(server, server)
		server.CloseWrite()
	}()
	sent := make([]byte, 8<<20)
	go func() {
		client.Write(sent)
		client.CloseWrite()
	}()
	if got, err := io.ReadAll(client); err != nil || len(got) != len(sent) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	stuck.SetLinger(0)
	stuck.Close()
}

func TestAHundredStreamsAtOnce(t *testing.T) {
	p, servers := forwarding(t)
	go func() {
		for server := range servers {
			go func() {
				io.Copy(server, server)
				server.CloseWrite()
			}()
		}
	}()
	defer close(servers)
	var all sync.WaitGroup
	for i := range 100 {
		client, _ := p.forward(t, servers)
		all.Add(1)
		go func() {
			defer all.Done()
			sent := bytes.Repeat([]byte{byte(i)}, 300_000+i)
			go func() {
				client.Write(sent)
				client.CloseWrite()
			}()
			if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		}()
	}
	all.Wait()
	gone(t, p)
}

func TestRefusalSaysWhy(t *testing.T) {
	p := connect(t, func(s *Stream) { s.Refuse(wire.Fail(wire.CodeRefused, "nobody there")) })
	stream, err := p.host.Open(Target{Port: 1})
	if err != nil {
		t.Fatal(err)
	}
	var failure *wire.Failure
	if err := stream.Accepted(); !errors.As(err, &failure) || failure.Code != wire.CodeRefused {
		t.Errorf("refused with %v", err)
	}
	gone(t, p)
}

func TestMoreStreamsThanThereMayBeAreRefused(t *testing.T) {
	p := connect(t, func(s *Stream) { s.Accept() })
	for range MaxStreams {
		if _, err := p.host.Open(Target{Port: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.host.Open(Target{Port: 1}); err != ErrBusy {
		t.Errorf("one more: %v", err)
	}
}

func TestTheEndOfTheSessionEndsEveryStream(t *testing.T) {
	p, servers := forwarding(t)
	client, done := p.forward(t, servers)
	server := <-servers
	p.guest.Close()
	p.host.Close()
	for _, end := range []*net.TCPConn{client, server} {
		if _, err := end.Read(make([]byte, 1)); err == nil {
			t.Error("the connection goes on")
		}
	}
	<-done
	if _, err := p.host.Open(Target{}); err != ErrClosed {
		t.Error("a stream of a session that is over:", err)
	}
}

// record builds one from its parts.
func record(k kind, stream uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{byte(k)}, stream), rest...)
}

func TestAGuestMayNotDoWhatItMayNot(t *testing.T) {
	accepted := [][]byte{record(kindAccept, 1)}
	full := record(kindData, 1, make([]byte, dataSize)...)
	for name, records := range map[string][][]byte{
		"nothing at all":              {{}},
		"half a header":               {{1, 0, 0}},
		"an unknown kind":             {record(99, 1)},
		"kind zero":                   {record(0, 1)},
		"a record that is too long":   {append(accepted[0], make([]byte, MaxRecord)...)},
		"opening a stream":            {record(kindOpen, 2, 0, 80)},
		"a stream nobody opened":      {record(kindData, 7, 1)},
		"data before ACCEPT":          {record(kindData, 1, 1)},
		"an end before ACCEPT":        {record(kindFin, 1)},
		"credit before ACCEPT":        {record(kindCredit, 1, 0, 0, 0, 1)},
		"accepting twice":             {accepted[0], accepted[0]},
		"refusing what was accepted":  {accepted[0], record(kindRefuse, 1, 0x80)},
		"a refusal that is no map":    {record(kindRefuse, 1, 0xc1)},
		"no data":                     {accepted[0], record(kindData, 1)},
		"data after the end":          {accepted[0], record(kindFin, 1), record(kindData, 1, 1)},
		"ending twice":                {accepted[0], record(kindFin, 1), record(kindFin, 1)},
		"more data than was granted":  {accepted[0], full, full, full},
		"more credit than there is":   {accepted[0], record(kindCredit, 1, 0, 0, 0, 1)},
		"a credit of nothing":         {accepted[0], record(kindCredit, 1, 0, 0, 0, 0)},
		"a credit of three bytes":     {accepted[0], record(kindCredit, 1, 0, 0, 1)},
		"an end with something in it": {accepted[0], record(kindReset, 1, 1)},
	} {
		s := NewHost(func([]byte) error { return nil })
		if _, err := s.Open(Target{Port: 80}); err != nil {
			t.Fatal(err)
		}
		var err error
		for _, r := range records {
			if err == nil {
				err = s.Put(r)
			}
		}
		if !errors.Is(err, wire.ErrViolation) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

func TestRecordsForAStreamThatIsOverAreIgnored(t *testing.T) {
	s := NewHost(func([]byte) error { return nil })
	stream, err := s.Open(Target{Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	stream.Reset()
	for _, r := range [][]byte{record(kindAccept, 1), record(kindData, 1, 1), record(kindFin, 1), record(kindReset, 1)} {
		if err := s.Put(r); err != nil {
			t.Error(err)
		}
	}
}

func FuzzAnyRecordsLeaveTheSessionWhole(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 4, 0, 0, 0, 1, 65})
	f.Fuzz(func(t *testing.T, script []byte) {
		s := NewHost(func([]byte) error { return nil })
		defer s.Close()
		for range 3 {
			if _, err := s.Open(Target{Port: 80}); err != nil {
				t.Fatal(err)
			}
		}
		for len(script) > 0 {
			n := min(len(script), 1+int(script[0])%16)
			if s.Put(bytes.Clone(script[:n])) != nil {
				return
			}
			script = script[n:]
		}
	})
}
