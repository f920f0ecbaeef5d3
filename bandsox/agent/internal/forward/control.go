package forward

import (
	"encoding/json"
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxCommand is the longest command.
	maxCommand = 4096

	// maxPorts is how many ports there may be.
	maxPorts = 256
)

// command is one datagram of the control socket: "add" comes with a listening socket; "list" has no fields.
type command struct {
	Op    string `json:"op"`
	Guest uint16 `json:"guest_port"`
	Address
}

// reply answers each command.
type reply struct {
	Error string  `json:"error,omitempty"`
	Pid   int     `json:"pid"`
	Ports []state `json:"ports"`
}

type state struct {
	Address
	Guest    uint16 `json:"guest_port"`
	Open     int64  `json:"open"`
	Accepted int64  `json:"accepted"`
	Refused  int64  `json:"refused"`
}

// Obey takes commands until the listener is closed. It is a socket of datagrams (SOCK_SEQPACKET) that only its owner can open.
func (f *Forwarder) Obey(commands *net.UnixListener) {
	for {
		conn, err := commands.AcceptUnix()
		if err != nil {
			return
		}
		go f.obey(conn)
	}
}

func (f *Forwarder) obey(conn *net.UnixConn) {
	defer conn.Close()
	message, rights := make([]byte, maxCommand), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, flags, _, err := conn.ReadMsgUnix(message, rights)
		if err != nil || n == 0 {
			return
		}
		file := received(rights[:m])
		answer := reply{Pid: os.Getpid()}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			answer.Error = "a command that is too long"
		} else if err := f.do(message[:n], file); err != nil {
			answer.Error = err.Error()
		}
		if file != nil {
			file.Close()
		}
		answer.Ports = f.list()
		text, err := json.Marshal(answer)
		if err != nil {
			return
		}
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

func (f *Forwarder) do(message []byte, file *os.File) error {
	var c command
	if err := json.Unmarshal(message, &c); err != nil {
		return err
	}
	switch c.Op {
	case "list":
		return nil
	case "remove":
		f.remove(c.Address)
		return nil
	case "add":
		if file == nil {
			return errors.New("a port without a socket")
		}
		if len(f.list()) >= maxPorts {
			return errors.New("too many ports")
		}
		listener, err := net.FileListener(file)
		if err != nil {
			return err
		}
		tcp, ok := listener.(*net.TCPListener)
		if !ok {
			listener.Close()
			return errors.New("not a TCP socket")
		}
		f.add(c.Address, c.Guest, tcp)
		return nil
	}
	return errors.New("an unknown command")
}

func (f *Forwarder) list() []state {
	f.mu.Lock()
	defer f.mu.Unlock()
	states := make([]state, 0, len(f.ports))
	for address, p := range f.ports {
		states = append(states, state{address, p.guest, p.open.Load(), p.accepted.Load(), p.refused.Load()})
	}
	return states
}

// received is the descriptor that came with a message, or nil.
func received(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "port")
}
