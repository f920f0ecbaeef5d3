// Package forward stands between TCP ports of the host and those of a machine's guest: each connection is a stream of the
// operation `streams` on the one connection that it has to the agent. The guest is hostile: what breaks the rules ends all.
package forward

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/wire"
)

// openTime is how long the guest may take to accept or refuse a connection; its agent gives up after 10 s.
const openTime = 30 * time.Second

// acceptPause is how long to leave a listener alone on which the kernel gives no connection for want of resources.
const acceptPause = 100 * time.Millisecond

// Forwarder is one machine's.
type Forwarder struct {
	agent   io.ReadWriteCloser
	session *mux.Session
	sending sync.Mutex
	places  chan struct{} // one for each connection that is being carried

	mu    sync.Mutex
	ports map[Address]*port
}

// Address is where a port of this host is.
type Address struct {
	Host string `json:"host"`
	Port int    `json:"host_port"`
}

type port struct {
	listener *net.TCPListener
	guest    uint16
	open     atomic.Int64
	accepted atomic.Int64
	refused  atomic.Int64
}

// New makes a forwarder of a connection to the agent that carries streams already.
func New(agent io.ReadWriteCloser) *Forwarder {
	f := &Forwarder{agent: agent, places: make(chan struct{}, mux.MaxStreams), ports: map[Address]*port{}}
	f.session = mux.NewHost(f.transmit)
	return f
}

func (f *Forwarder) transmit(frame []byte) error {
	f.sending.Lock()
	defer f.sending.Unlock()
	_, err := f.agent.Write(frame)
	return err
}

// Run reads what the guest sends, until it breaks the rules or the connection ends.
func (f *Forwarder) Run() error {
	defer f.session.Close()
	in := bufio.NewReaderSize(f.agent, 64<<10)
	var header [wire.HeaderSize]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return err
		}
		length := int(binary.BigEndian.Uint32(header[1:]))
		if wire.Type(header[0]) != wire.GuestData || length > mux.MaxRecord {
			return wire.Violation("a frame of type 0x%02x and %d bytes", header[0], length)
		}
		record := make([]byte, length)
		if _, err := io.ReadFull(in, record); err != nil {
			return err
		}
		if err := f.session.Put(record); err != nil {
			return err
		}
	}
}

// add begins to carry what a listener accepts. One that was there at the same address is replaced.
func (f *Forwarder) add(address Address, guest uint16, listener *net.TCPListener) {
	p := &port{listener: listener, guest: guest}
	f.mu.Lock()
	old := f.ports[address]
	f.ports[address] = p
	f.mu.Unlock()
	if old != nil {
		old.listener.Close()
	}
	go f.accept(p)
}

// remove stops listening; connections that were made go on.
func (f *Forwarder) remove(address Address) {
	f.mu.Lock()
	p := f.ports[address]
	delete(f.ports, address)
	f.mu.Unlock()
	if p != nil {
		p.listener.Close()
	}
}

// accept serves a port until its listener is closed. Where all places are taken, clients wait in the listener's queue.
func (f *Forwarder) accept(p *port) {
	for {
		client, err := p.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor is free: clients wait in the queue
			time.Sleep(acceptPause)
			continue
		}
		f.places <- struct{}{}
		p.accepted.Add(1)
		p.open.Add(1)
		go func() {
			defer func() { <-f.places }()
			defer p.open.Add(-1)
			if f.carry(client, p.guest) != nil {
				p.refused.Add(1)
				mux.Abort(client) // a client sees that as a connection that was refused a moment later
			}
		}()
	}
}

// carry serves one client to its end; an error means that the guest has not taken it.
func (f *Forwarder) carry(client *net.TCPConn, guest uint16) error {
	stream, err := f.session.Open(mux.Target{Port: guest})
	if err != nil {
		return err
	}
	late := time.AfterFunc(openTime, stream.Reset)
	err = stream.Accepted()
	if !late.Stop() && err == nil {
		err = mux.ErrReset
	}
	if err != nil {
		stream.Reset()
		return err
	}
	mux.Carry(stream, client)
	return nil
}
