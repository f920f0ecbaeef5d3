package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
)

// maxCommand is the longest command, in bytes.
const maxCommand = 128 << 10

// command is one datagram of the control socket. "policy" has the one that is to be in force, "secrets" all of them, with their values.
type command struct {
	Op      string   `json:"op"`
	Policy  *Policy  `json:"policy"`
	Secrets []Secret `json:"secrets"`
}

// State is what a command is answered with.
type State struct {
	Error    string `json:"error,omitempty"`
	Pid      int    `json:"pid"`
	Open     int    `json:"open"`     // connections that the filter carries
	Opened   int64  `json:"opened"`   // connections, since the filter was started
	Refused  int64  `json:"refused"`  // connections and names, as far as they were written down
	Sent     uint64 `json:"sent"`     // bytes of packets from the machine
	Received uint64 `json:"received"` // and to it
}

// Obey takes commands until the listener is closed. It is a socket of datagrams (SOCK_SEQPACKET) that only its owner can open.
func (f *Filter) Obey(commands *net.UnixListener) error {
	for {
		conn, err := commands.AcceptUnix()
		if err != nil {
			return fmt.Errorf("the control socket: %w", err)
		}
		go f.obey(conn)
	}
}

func (f *Filter) obey(conn *net.UnixConn) {
	defer conn.Close()
	message := make([]byte, maxCommand)
	for {
		n, err := conn.Read(message)
		if err != nil || n == 0 {
			return
		}
		var c command
		if err := json.Unmarshal(message[:n], &c); err != nil {
			return
		}
		entries, stop := (<-chan []byte)(nil), func() {}
		if c.Op == "follow" {
			entries, stop = f.log.follow()
		}
		err = f.do(&c)
		state := f.state()
		if err != nil {
			state.Error = err.Error()
		}
		text, err := json.Marshal(state)
		if err == nil {
			_, err = conn.Write(text)
		}
		if entries != nil && err == nil {
			give(conn, entries, stop)
			return
		}
		stop()
		if err != nil {
			return
		}
	}
}

// give sends entries of the log until the other side has had enough, which it shows by closing.
func give(conn *net.UnixConn, entries <-chan []byte, stop func()) {
	go func() {
		_, _ = conn.Read(make([]byte, 1))
		stop()
	}()
	defer stop()
	for entry := range entries {
		if _, err := conn.Write(entry); err != nil {
			return
		}
	}
}

func (f *Filter) do(c *command) error {
	switch c.Op {
	case "state", "follow":
		return nil
	case "policy":
		if c.Policy == nil {
			return errors.New("a policy is missing")
		}
		return f.apply(c.Policy)
	case "secrets":
		if f.vault == nil {
			return errors.New("this machine was started without secrets")
		}
		return f.vault.replace(c.Secrets)
	}
	return errors.New("an unknown command")
}

func (f *Filter) state() State {
	f.proxy.mu.Lock()
	open := len(f.proxy.open)
	f.proxy.mu.Unlock()
	sent, received := traffic(f.place.TAP)
	return State{
		Pid: os.Getpid(), Open: open, Opened: f.log.opened.Load(), Refused: f.log.refusals.Load(), Sent: sent, Received: received,
	}
}
