package serve

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/wire"
)

// streaming begins the operation and gives the host's end of its streams; ended has what came after the last record.
func streaming(t *testing.T) (h *host, session *mux.Session, ended chan wire.Type) {
	t.Helper()
	h = open(t)
	h.request("streams", nil)
	if kind, p := h.read(); kind != wire.Event || decode(t, p)["kind"] != "ready" {
		t.Fatalf("frame 0x%x %q", kind, p)
	}
	session = mux.NewHost(func(frame []byte) error {
		_, err := h.socket.Write(frame)
		return err
	})
	ended = make(chan wire.Type, 1)
	go func() {
		defer session.Close()
		for {
			kind, p := h.read()
			if kind != wire.GuestData || session.Put(p) != nil {
				ended <- kind
				return
			}
		}
	}()
	return h, session, ended
}

// listen serves one connection at a time on a port of this machine.
func listen(t *testing.T, address string, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn.(*net.TCPConn))
		}
	}()
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

func echo(conn *net.TCPConn) {
	io.Copy(conn, conn)
	conn.Close()
}

// exchange sends all of content on a new stream, ends it, and returns what comes back.
func exchange(t *testing.T, session *mux.Session, target mux.Target, content []byte) []byte {
	t.Helper()
	stream, err := session.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Accepted(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for rest := content; len(rest) > 0; {
			room, err := stream.Room()
			if err != nil {
				return
			}
			chunk := new(mux.Chunk)
			n := copy(chunk.Space()[:room], rest)
			if stream.Send(chunk, n) != nil {
				return
			}
			rest = rest[n:]
		}
		stream.Finish()
	}()
	var back bytes.Buffer
	for {
		data, err := stream.Take()
		if err == io.EOF {
			return back.Bytes()
		}
		if err != nil {
			t.Fatal(err)
		}
		back.Write(data)
		stream.Took(len(data))
	}
}

func TestStreamsReachPortsOverEitherLoopback(t *testing.T) {
	_, session, _ := streaming(t)
	content := bytes.Repeat([]byte("over the wire "), 100_000)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			port := listen(t, address, echo)
			if back := exchange(t, session, mux.Target{Port: port}, content); !bytes.Equal(back, content) {
				t.Errorf("%d bytes came back", len(back))
			}
		})
	}
}

func TestAStreamToNobodyIsRefusedAndSaysWhy(t *testing.T) {
	_, session, _ := streaming(t)
	port := listen(t, "127.0.0.1:0", echo)
	for code, target := range map[string]mux.Target{
		wire.CodeRefused: {Port: 1},
		wire.CodeInvalid: {Port: port, Host: "localhost"},
	} {
		stream, err := session.Open(target)
		if err != nil {
			t.Fatal(err)
		}
		var failure *wire.Failure
		if err := stream.Accepted(); !errors.As(err, &failure) || failure.Code != code {
			t.Errorf("%v: %v", target, err)
		}
	}
	if back := exchange(t, session, mux.Target{Port: port}, []byte("still there")); string(back) != "still there" {
		t.Errorf("%q", back)
	}
}

func TestCancelEndsTheStreamsAndKeepsTheConnection(t *testing.T) {
	closed := make(chan error, 1)
	port := listen(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := conn.Read(make([]byte, 1))
		closed <- err
		conn.Close()
	})
	h, session, ended := streaming(t)
	stream, err := session.Open(mux.Target{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Accepted(); err != nil {
		t.Fatal(err)
	}
	h.message(wire.Control, fields{"kind": "cancel"})
	if kind := <-ended; kind != wire.Result {
		t.Errorf("frame 0x%x", kind)
	}
	if err := <-closed; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the server read %v instead of a reset", err)
	}
	h.ok("ping", nil)
}

func TestARecordThatIsTooLongEndsTheConnection(t *testing.T) {
	h, _, ended := streaming(t)
	h.frame(wire.HostData, make([]byte, mux.MaxRecord+1))
	if kind := <-ended; kind != wire.Error {
		t.Errorf("frame 0x%x", kind)
	}
}
