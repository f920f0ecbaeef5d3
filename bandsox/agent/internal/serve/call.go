package serve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"bandsox.dev/agent/internal/mux"
	"bandsox.dev/agent/internal/wire"
)

// call is one running operation, as its handler sees it.
type call struct {
	context.Context
	cancel  context.CancelCauseFunc
	conn    *conn
	epoch   uint64
	op      operation
	request []byte
	inbox   *inbox        // nil when the operation takes no DATA, or records
	streams *mux.Session  // nil when its DATA are not records
	begun   chan struct{} // closed when the host was told that streams can be opened

	read   bool // whether another goroutine reads the connection meanwhile; only the operation's own asks
	ending atomic.Bool
	after  func() // what is left to do when the host has its answer

	controlMu sync.Mutex
	onControl func(wire.ControlMessage)
	early     []wire.ControlMessage // arrived before onControl was set
}

// maxEarly bounds the CONTROL frames kept for an operation that is still starting.
const maxEarly = 64

func newCall(c *conn, op operation, request []byte) *call {
	k := &call{conn: c, epoch: c.epoch.Load(), op: op, request: request}
	k.Context, k.cancel = context.WithCancelCause(context.Background())
	switch op.input {
	case recordInput:
		k.begun = make(chan struct{})
		k.streams = mux.NewGuest(k.frame, k.serveStream)
	case bulkInput, windowInput:
		k.inbox = newInbox(op.input == windowInput)
	}
	return k
}

// running tells whether the operation's RESULT or ERROR is still to come.
func (k *call) running() bool { return k != nil && !k.ending.Load() }

// run executes the operation and answers. Whatever the host still sends for it is ignored
// from the moment the answer is decided.
func (k *call) run() {
	defer k.cancel(nil)
	if !k.op.prompt {
		_ = k.conn.send(k.epoch, nil)
	}
	result, err := guarded(func() (any, error) { return k.op.run(k) })
	k.ending.Store(true)
	if k.inbox != nil {
		k.inbox.close()
	}
	if !errors.Is(err, errLost) { // else nobody is there
		k.answer(result, err)
	}
	if k.after != nil {
		k.after()
	}
}

// letRead has another goroutine read the connection from now on. Until then nobody does, and the operation must neither block nor last
// without watching it.
func (k *call) letRead() {
	if !k.read {
		k.read = true
		k.conn.turns.pass(k.conn.work)
	}
}

func (k *call) answer(result any, err error) {
	var frame []byte
	if err == nil {
		frame, err = wire.MessageFrame(wire.Result, result)
	}
	if err != nil {
		frame, err = wire.MessageFrame(wire.Error, wire.AsFailure(err))
	}
	if err == nil {
		_ = k.conn.send(k.epoch, frame)
	}
}

func (k *call) decode(out any) error {
	err := wire.Decode(k.request, out)
	k.request = nil
	return err
}

// event sends an EVENT.
func (k *call) event(message any) error {
	frame, err := wire.MessageFrame(wire.Event, message)
	if err != nil {
		return err
	}
	return k.conn.send(k.epoch, frame)
}

// frame sends a whole frame.
func (k *call) frame(frame []byte) error { return k.conn.send(k.epoch, frame) }

// hold keeps a small frame back until the next one.
func (k *call) hold(frame []byte) { k.conn.hold(k.epoch, frame) }

// control hands a CONTROL to the operation, in the reader's goroutine.
func (k *call) control(message wire.ControlMessage) {
	k.controlMu.Lock()
	defer k.controlMu.Unlock()
	switch {
	case k.onControl != nil:
		k.onControl(message)
	case len(k.early) < maxEarly:
		k.early = append(k.early, message)
	}
}

// handleControl sets what happens with CONTROL frames. The handler must not block.
func (k *call) handleControl(handler func(wire.ControlMessage)) {
	k.controlMu.Lock()
	defer k.controlMu.Unlock()
	for _, message := range k.early {
		handler(message)
	}
	k.early, k.onControl = nil, handler
}
