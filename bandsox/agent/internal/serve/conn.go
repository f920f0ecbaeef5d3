package serve

import (
	"crypto/subtle"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"
)

var (
	errLost      = errors.New("the host's end was closed")
	errCancelled = wire.Fail(wire.CodeCancelled, "cancelled by the host")
)

// conn is one connection: a reader, which never waits for an operation, and at most one operation. Goroutines
// take turns at reading: who has read the request for an operation runs it, while the next one reads; or reads on itself, where
// the operation is over soon and has watched that nothing comes meanwhile.
//
// Whoever writes names the epoch it belongs to. A new HELLO or the loss of the host begins
// a new epoch, after which nothing of an earlier one is sent any more, but for the system call
// that is under way.
type conn struct {
	server *Server
	ch     transport.Channel
	in     *wire.Reader
	turns  turns         // at reading
	ended  chan struct{} // closed when nobody reads any more

	greeted bool  // a HELLO with the right token was seen, and the host has not gone since
	call    *call // the operation that was started last, or nil; only the reader changes it

	expelled atomic.Bool          // by another connection's renewal; the next HELLO is a new beginning
	current  atomic.Pointer[call] // the same as call, for other connections

	epoch   atomic.Uint64
	writing sync.Mutex // held for the length of a frame
	heldMu  sync.Mutex
	held    []byte // goes out in front of the next frame
}

// serve runs the connection until nobody can come back on it.
func (c *conn) serve() {
	c.work()
	<-c.ended
}

// work reads, runs what was asked for while another one reads or nothing is to be read, and so on.
func (c *conn) work() {
	for {
		k := c.nextCall()
		if k == nil {
			c.turns.end()
			c.close()
			close(c.ended)
			return
		}
		if !k.op.watches {
			k.letRead()
		}
		k.run()
		if k.read && !c.turns.await() {
			return
		}
	}
}

// nextCall returns the next operation that may take time, or nil when nobody can come back.
func (c *conn) nextCall() *call {
	for {
		k, err := c.readFrames()
		if err == nil {
			return k
		}
		c.abandon(errLost)
		switch {
		case errors.Is(err, io.EOF):
			c.in.Reset()
			c.greeted = false
			if c.ch.AwaitHost() != nil {
				return nil
			}
		case errors.Is(err, wire.ErrViolation):
			c.refuse(wire.AsFailure(err))
			if c.in.Resync() != nil {
				c.in.Reset()
			}
		default:
			return nil
		}
	}
}

// close waits for the write that is under way; a later one sees that its epoch is over.
func (c *conn) close() {
	c.abandon(errLost)
	c.ch.Interrupt()
	c.writing.Lock()
	defer c.writing.Unlock()
	c.ch.Close()
}

// refuse ends the connection with an ERROR. A port cannot be closed: there it means that
// everything until the next HELLO is ignored.
func (c *conn) refuse(failure *wire.Failure) {
	told := c.greeted
	c.greeted = false
	epoch := c.epoch.Load()
	go func() {
		if frame, err := wire.MessageFrame(wire.Error, failure); err == nil && told {
			_ = c.send(epoch, frame)
		}
		c.writing.Lock()
		defer c.writing.Unlock()
		if c.epoch.Load() == epoch {
			c.ch.Interrupt()
		}
	}()
}

// abandon ends the running operation and begins a new epoch.
func (c *conn) abandon(cause error) {
	c.epoch.Add(1)
	if c.call != nil {
		c.call.cancel(cause)
		c.setCall(nil)
	}
}

func (c *conn) setCall(k *call) {
	c.call = k
	c.current.Store(k)
}

// expel ends the connection's operation, and tells whether there was one. Its client has to greet again. It is called by another
// connection's goroutine.
func (c *conn) expel() bool {
	c.expelled.Store(true)
	c.epoch.Add(1)
	k := c.current.Load()
	running := k.running()
	if k != nil {
		k.cancel(errLost)
	}
	c.ch.Interrupt()
	return running
}

// readFrames handles frames until one asks for an operation that is no instant one, or something is wrong.
func (c *conn) readFrames() (*call, error) {
	for {
		h, err := c.in.Next()
		if err != nil {
			return nil, err
		}
		if c.expelled.Swap(false) {
			c.greeted = false
		}
		if !c.greeted && h.Type != wire.Hello {
			return nil, wire.Violation("a frame before HELLO")
		}
		var k *call
		switch h.Type {
		case wire.Hello:
			err = c.onHello()
		case wire.Request:
			k, err = c.onRequest()
		case wire.HostData:
			err = c.onData()
		case wire.HostEnd:
			err = c.onEnd()
		case wire.Control:
			err = c.onControl()
		}
		if k != nil || err != nil {
			return k, err
		}
	}
}

func (c *conn) onHello() error {
	payload, err := c.in.Payload()
	if err != nil {
		return err
	}
	hello, err := wire.ParseHello(payload)
	if err != nil {
		return err
	}
	c.ch.Greeted()
	c.abandon(errLost)
	epoch := c.epoch.Load()
	c.greeted = true
	c.hold(epoch, wire.WelcomeFrame(hello.Nonce, c.server.bootID()))
	if hello.Version != wire.Version {
		c.refuse(wire.Fail(wire.CodeUnsupported, "protocol version %d; this agent speaks %d", hello.Version, wire.Version))
		return c.in.Resync()
	}
	token := c.server.token.Load()
	if token != nil && subtle.ConstantTimeCompare(token[:], hello.Token[:]) != 1 {
		c.refuse(wire.Fail(wire.CodeUnauthorized, "wrong token"))
		return c.in.Resync()
	}
	if c.in.Buffered() == 0 {
		go func() { _ = c.send(epoch, nil) }()
	}
	return nil
}

// onRequest returns the operation that was asked for, unless it was an instant one and has been answered.
func (c *conn) onRequest() (*call, error) {
	if c.call.running() {
		return nil, wire.Violation("a REQUEST while an operation runs")
	}
	payload, err := c.in.Payload()
	if err != nil {
		return nil, err
	}
	name, err := wire.Operation(payload)
	if errors.Is(err, wire.ErrViolation) {
		return nil, err
	}
	op, known := operations[name]
	if !known {
		op = operation{run: func(*call) (any, error) {
			return nil, wire.Fail(wire.CodeUnsupported, "no operation %q", name)
		}}
	} else if !op.early && !c.server.whole() {
		op = operation{run: func(*call) (any, error) {
			return nil, wire.Fail(wire.CodeInvalid, "the machine has not been set up")
		}}
	}
	k := newCall(c, op, payload)
	c.setCall(k)
	if c.expelled.Load() { // since its frame was read
		k.cancel(errLost)
	}
	if op.instant {
		k.run()
		return nil, nil
	}
	return k, nil
}

func (c *conn) onData() error {
	if !c.call.running() {
		return nil // was under way when the operation ended; Next skips it
	}
	if c.call.streams != nil {
		return c.onRecord()
	}
	box := c.call.inbox
	if box == nil {
		return wire.Violation("DATA for an operation that takes none")
	}
	for c.in.Left() > 0 {
		piece, err := c.readChunk(box.windowed)
		if err != nil {
			piece.free()
			return err
		}
		if !box.put(piece) {
			return wire.Violation("more DATA than was granted")
		}
	}
	return nil
}

func (c *conn) onRecord() error {
	if c.in.Left() > mux.MaxRecord {
		return wire.Violation("a record of %d bytes", c.in.Left())
	}
	record, err := c.in.Payload()
	if err != nil {
		return err
	}
	return c.call.streams.Put(record)
}

// readChunk reads a piece of the current payload: bulk data in pooled memory, whatever the
// size of the host's frames; input in memory of its own size, since it may wait long.
func (c *conn) readChunk(exact bool) (chunk, error) {
	var piece chunk
	var space []byte
	if exact {
		space = make([]byte, c.in.Left())
	} else {
		piece.buf = wire.NewBuffer()
		space = piece.buf.Space()
		space = space[:min(len(space), c.in.Left())]
	}
	for n := 0; n < len(space); {
		m, err := c.in.ReadSome(space[n:])
		if err != nil {
			return piece, err
		}
		n += m
	}
	piece.data = space
	return piece, nil
}

func (c *conn) onEnd() error {
	payload, err := c.in.Payload()
	if err != nil {
		return err
	}
	if !c.call.running() {
		return nil
	}
	var end wire.End
	if len(payload) > 0 {
		if err := wire.Decode(payload, &end); err != nil {
			return wire.Violation("END: %v", err)
		}
	}
	if c.call.inbox == nil || !c.call.inbox.finish(end) {
		return wire.Violation("END at a wrong place")
	}
	return nil
}

func (c *conn) onControl() error {
	payload, err := c.in.Payload()
	if err != nil {
		return err
	}
	if !c.call.running() {
		return nil
	}
	var message wire.ControlMessage
	if err := wire.Decode(payload, &message); err != nil {
		return wire.Violation("CONTROL: %v", err)
	}
	if message.Kind == "cancel" {
		c.call.cancel(errCancelled)
	} else {
		c.call.control(message)
	}
	return nil
}

// hold keeps a frame back until the next one goes out with it.
func (c *conn) hold(epoch uint64, frame []byte) {
	c.heldMu.Lock()
	defer c.heldMu.Unlock()
	if c.epoch.Load() != epoch {
		return
	}
	if frame[0] == byte(wire.Welcome) {
		c.held = nil // of an earlier epoch
	}
	c.held = append(c.held, frame...)
}

// send writes what is held, then the frame, unless the epoch is over. It is the only place
// that writes to the channel.
func (c *conn) send(epoch uint64, frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.heldMu.Lock()
	if c.epoch.Load() != epoch {
		c.heldMu.Unlock()
		return errLost
	}
	held := c.held
	c.held = nil
	c.heldMu.Unlock()
	if len(held) > 0 && len(frame) < 4096 {
		held, frame = append(held, frame...), nil
	}
	if err := c.writeAll(epoch, held); err != nil {
		return err
	}
	return c.writeAll(epoch, frame)
}

func (c *conn) writeAll(epoch uint64, p []byte) error {
	for len(p) > 0 {
		if c.epoch.Load() != epoch {
			return errLost
		}
		n, err := c.ch.Write(p)
		if err != nil {
			return errLost
		}
		p = p[n:]
	}
	return nil
}
