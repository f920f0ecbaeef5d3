// Package serve answers the host: it runs the connections and maps each request to the
// package that does the work.
package serve

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"bandsox.dev/agent/internal/freezer"
	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"
)

// maxConnections bounds the connections at once; the next ones wait to be accepted.
const maxConnections = 64

// Server is what all connections share.
type Server struct {
	Version   string
	Transport string
	Machine   *machine.Machine

	Processes *process.Table

	Freezer    *freezer.Freezer // nil: without cgroups nothing can be frozen
	HookGroups *process.Groups  // where the guest's own program for a restore runs; nil: without cgroups

	// Complete makes the machine whole, and sets what follows; the first setup calls it. Until then the machine does nothing
	// else. nil: it is whole.
	Complete func()

	// Waits tells whether the machine can be saved before it is whole.
	Waits func() error

	Capabilities []string
	BootID       [16]byte
	Image        *os.File // root of the read-only root file system; nil: the agent has not booted the machine
	Layer        *os.File // overlayfs's upper directory; nil: no writable layer

	// Shutdown ends the machine. It is called after the host was told.
	Shutdown func(request wire.ShutdownRequest)

	completing sync.Mutex
	complete   atomic.Bool

	token atomic.Pointer[[32]byte]

	mu          sync.Mutex
	connections map[*conn]struct{}
}

// RequireToken makes token the one that a host must have. Until then, or a setup with one, any will do.
func (s *Server) RequireToken(token *[32]byte) { s.token.Store(token) }

// whole tells whether the machine can be used.
func (s *Server) whole() bool { return s.Complete == nil || s.complete.Load() }

// makeWhole completes the machine if nobody has.
func (s *Server) makeWhole() {
	s.completing.Lock()
	defer s.completing.Unlock()
	if !s.whole() {
		s.Complete()
		s.complete.Store(true)
	}
}

// bootID is the kernel's random name for this boot: zeros before the machine is whole, since all that go on from one that was saved
// would have the same.
func (s *Server) bootID() (id [16]byte) {
	if s.whole() {
		id = s.BootID
	}
	return id
}

// Serve runs one connection to its end, in the caller's goroutine.
func (s *Server) Serve(ch transport.Channel) {
	c := &conn{server: s, ch: ch, in: wire.NewReader(ch), ended: make(chan struct{})}
	s.mu.Lock()
	if s.connections == nil {
		s.connections = map[*conn]struct{}{}
	}
	s.connections[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.connections, c)
	}()
	c.serve()
}

// expelOthers ends every connection but one, and tells how many of them had an operation.
func (s *Server) expelOthers(but *conn) (closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.connections {
		if c != but && c.expel() {
			closed++
		}
	}
	return closed
}

// Listener is where connections come from.
type Listener interface {
	Accept() (transport.Channel, error)
}

// Listen accepts connections until the listener fails.
func (s *Server) Listen(listener Listener) error {
	places := make(chan struct{}, maxConnections)
	for {
		places <- struct{}{}
		channel, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { <-places }()
			s.Serve(channel)
		}()
	}
}

// guarded runs an operation and makes a panic in it an answer: the agent is PID 1, and
// one operation's mistake must not take the machine down.
func guarded(op func() (any, error)) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "bandsox-agent: panic: %v\n%s", p, debug.Stack())
			err = wire.Fail(wire.CodeInternal, "the agent failed: %v", p)
		}
	}()
	return op()
}
