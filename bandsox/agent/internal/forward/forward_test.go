package forward

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// started is a running forwarder, its control socket, and the guest's end of its link; ended has what Run returned.
func started(t *testing.T) (control *net.UnixConn, guest net.Conn, ended chan error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	f := New(ends[0])
	ended = make(chan error, 1)
	go func() { ended <- f.Run() }()
	path := filepath.Join(t.TempDir(), "ports.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	go f.Obey(listener)
	control, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	control.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() {
		control.Close()
		listener.Close()
		for _, end := range ends {
			end.Close()
		}
	})
	return control, ends[1], ended
}

// serveGuest is a guest in which a program on port 7 sends back what it gets, and nobody listens elsewhere.
func serveGuest(t *testing.T, link net.Conn) {
	session := mux.NewGuest(func(frame []byte) error {
		_, err := link.Write(frame)
		return err
	}, func(s *mux.Stream) {
		if s.Target.Port != 7 {
			s.Refuse(wire.Fail(wire.CodeRefused, "nobody"))
			return
		}
		inner, program := tcpPair(t)
		go func() {
			io.Copy(program, program)
			program.CloseWrite()
		}()
		if s.Accept() == nil {
			mux.Carry(s, inner)
		}
	})
	go func() {
		defer session.Close()
		for {
			var header [wire.HeaderSize]byte
			if _, err := io.ReadFull(link, header[:]); err != nil {
				return
			}
			record := make([]byte, int(header[2])<<16|int(header[3])<<8|int(header[4]))
			if _, err := io.ReadFull(link, record); err != nil || session.Put(record) != nil {
				return
			}
		}
	}()
}

func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	defer listener.Close()
	a, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err == nil {
		b, err = listener.AcceptTCP()
	}
	if err != nil {
		t.Error(err)
	}
	return a, b
}

// tell sends a command, with a listening socket where there is one, and returns the answer.
func tell(t *testing.T, control *net.UnixConn, message string, listener *net.TCPListener) reply {
	t.Helper()
	var rights []byte
	if listener != nil {
		file, err := listener.File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		rights = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := control.WriteMsgUnix([]byte(message), rights, nil); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64<<10)
	n, err := control.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	var answer reply
	if err := json.Unmarshal(buffer[:n], &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// published has the forwarder carry a new port to the guest's port 7 or, as the second one, 8.
func published(t *testing.T, control *net.UnixConn) (echo, nobody string) {
	t.Helper()
	var addresses [2]string
	for i, message := range []string{
		`{"op": "add", "host": "127.0.0.1", "host_port": 1007, "guest_port": 7}`,
		`{"op": "add", "host": "127.0.0.1", "host_port": 1008, "guest_port": 8}`,
	} {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = listener.Addr().String()
		if answer := tell(t, control, message, listener); answer.Error != "" || len(answer.Ports) != i+1 {
			t.Fatalf("%+v", answer)
		}
		listener.Close() // the forwarder has its own
	}
	return addresses[0], addresses[1]
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { client.Close() })
	return client.(*net.TCPConn)
}

// refused connects to a port where nobody listens; the reset comes in the middle of connecting or after it.
func refused(address string) error {
	client, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = client.Read(make([]byte, 1))
	return err
}

func TestConnectionsAreCarriedToTheGuestOrReset(t *testing.T) {
	control, link, _ := started(t)
	serveGuest(t, link)
	echo, nobody := published(t, control)
	client := dial(t, echo)
	client.Write([]byte("there and back"))
	client.CloseWrite()
	if back, err := io.ReadAll(client); err != nil || string(back) != "there and back" {
		t.Errorf("%q, %v", back, err)
	}
	if err := refused(nobody); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a port where nobody listens: %v", err)
	}
	for _, p := range tell(t, control, `{"op": "list"}`, nil).Ports {
		if p.Accepted != 1 || (p.Guest == 8) != (p.Refused == 1) {
			t.Errorf("%+v", p)
		}
	}
}

func TestAPortThatWasRemovedRefusesAndItsConnectionsGoOn(t *testing.T) {
	control, link, _ := started(t)
	serveGuest(t, link)
	echo, _ := published(t, control)
	client := dial(t, echo)
	client.Write([]byte("a"))
	one := make([]byte, 1)
	if _, err := io.ReadFull(client, one); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to remove
		message := `{"op": "remove", "host": "127.0.0.1", "host_port": 1007}`
		if answer := tell(t, control, message, nil); answer.Error != "" || len(answer.Ports) != 1 {
			t.Fatalf("%+v", answer)
		}
	}
	if _, err := net.Dial("tcp", echo); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that was removed: %v", err)
	}
	client.Write([]byte("b"))
	if _, err := io.ReadFull(client, one); err != nil || one[0] != 'b' {
		t.Errorf("%q, %v", one, err)
	}
}

func TestCommandsThatAreNone(t *testing.T) {
	control, _, _ := started(t)
	for _, message := range []string{"", "x", "[]", `{"op": "other"}`, `{"op": "add"}`, string(make([]byte, 2*maxCommand))} {
		if message == "" {
			continue // an empty datagram is the end
		}
		if answer := tell(t, control, message, nil); answer.Error == "" || len(answer.Ports) != 0 {
			t.Errorf("%.20q: %+v", message, answer)
		}
	}
}

func TestAGuestThatBreaksTheRulesEndsTheForwarder(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"garbage":          []byte("garbage!"),
		"another frame":    wire.Frame(wire.Stderr, []byte("x")),
		"a frame too long": {byte(wire.GuestData), 0xff, 0xff, 0xff, 0xff},
		"an OPEN":          wire.Frame(wire.GuestData, []byte{1, 0, 0, 0, 1, 0, 80}),
		"a stranger":       wire.Frame(wire.GuestData, []byte{4, 0, 0, 0, 9, 1}),
	} {
		t.Run(name, func(t *testing.T) {
			control, link, ended := started(t)
			echo, _ := published(t, control)
			client := dial(t, echo)
			if _, err := io.ReadFull(link, make([]byte, 12)); err != nil { // OPEN: the client waits for the guest
				t.Fatal(err)
			}
			link.Write(bytes)
			if err := <-ended; !errors.Is(err, wire.ErrViolation) {
				t.Error(err)
			}
			if _, err := client.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on")
			}
		})
	}
}
