package serve

import (
	"context"
	"strings"
	"sync"

	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/wire"
)

// grantStep is how much a program must have read before the host hears of it.
const grantStep = inputWindow / 4

func exec(k *call) (any, error) {
	r, err := request[wire.ExecRequest](k)
	if err != nil {
		return nil, err
	}
	if wanders(r) {
		k.letRead()
	}
	server := k.conn.server
	p, err := server.Processes.Start(k, r, server.Machine.Defaults(), k.letRead)
	if err != nil {
		return nil, err
	}
	if r.Detached {
		return wire.DetachedResult{Session: p.ID, Pid: p.Pid}, nil
	}
	k.after = p.Close
	stop := context.AfterFunc(k, p.Kill)
	defer stop()
	started, err := wire.MessageFrame(wire.Event, wire.StartedEvent{Kind: "started", Pid: p.Pid})
	if err != nil {
		return nil, err
	}
	k.hold(started)
	k.handleControl(func(m wire.ControlMessage) { applyControl(p, m) })
	client := &execClient{call: k, process: p}
	if !r.Terse {
		client.Settled()
	}
	if p.TakesInput() {
		k.letRead()
		go k.feedToEnd(p)
	}
	sink := newOutputSink(k)
	defer sink.close()
	exit := p.Follow(sink, client)
	if k.Err() != nil {
		return nil, context.Cause(k)
	}
	return exitResult(&exit), nil
}

// wanders tells whether the caller has named where the command is to be looked for or run, which may be a file system that does not
// answer.
func wanders(r *wire.ExecRequest) bool {
	_, path := r.Env["PATH"]
	return path || r.Cwd != "" || len(r.Argv) > 0 && strings.Contains(r.Argv[0], "/")
}

// execClient is the host as long as its command runs. Most commands end soon and print little: what the host still sends, or that it has
// gone, is noticed in the same wait as their end, and a reader is only woken for it.
type execClient struct {
	call    *call
	process *process.Process
}

// Watched is the connection as long as nobody reads it.
func (e *execClient) Watched() int {
	c := e.call.conn
	if !e.call.read && (c.in.Buffered() > 0 || c.ch.Descriptor() < 0) {
		e.call.letRead()
	}
	if e.call.read {
		return -1
	}
	return c.ch.Descriptor()
}

func (e *execClient) Stirred() { e.call.letRead() }

// Settled tells the host that the command has started, whose end does not tell that soon enough.
func (e *execClient) Settled() {
	e.call.letRead()
	if e.call.frame(nil) != nil {
		e.process.Kill()
	}
}

// smallOutput is what is read at once from a process that does not write much: most do not,
// and a buffer for bulk data is dear to make.
const smallOutput = 4 << 10

// outputSink sends a process's output as it is read. While the host does not take it the
// process waits: its pipe is not read.
type outputSink struct {
	call  *call
	small [wire.HeaderSize + smallOutput]byte
	bulk  *wire.Buffer // once the process has written much at once
}

var outputSinks = sync.Pool{New: func() any { return new(outputSink) }}

func newOutputSink(k *call) *outputSink {
	s := outputSinks.Get().(*outputSink)
	s.call = k
	return s
}

func (s *outputSink) Space(int) []byte {
	if s.bulk != nil {
		return s.bulk.Space()
	}
	return s.small[wire.HeaderSize:]
}

func (s *outputSink) Took(i, n int) error {
	s.call.letRead() // the host may not take it soon
	if s.bulk != nil {
		s.bulk.Advance(n)
		err := s.call.frame(s.bulk.Seal(outputTypes[i]))
		s.bulk.Clear()
		return err
	}
	wire.PutHeader(s.small[:], outputTypes[i], n)
	if n == smallOutput {
		s.bulk = wire.NewBuffer()
	}
	return s.call.frame(s.small[:wire.HeaderSize+n])
}

func (s *outputSink) close() {
	if s.bulk != nil {
		s.bulk.Free()
	}
	s.call, s.bulk = nil, nil
	outputSinks.Put(s)
}

// outputTypes are the frames of stdout and stderr.
var outputTypes = [2]wire.Type{wire.GuestData, wire.Stderr}

func attach(k *call) (any, error) {
	r, p, err := k.session()
	if err != nil {
		return nil, err
	}
	a := p.Attach(orZero(r.Stdout), orZero(r.Stderr))
	defer a.Release()
	err = k.event(wire.AttachedEvent{Kind: "attached", Pid: p.Pid, Stdout: a.Offset(0), Stderr: a.Offset(1)})
	if err != nil {
		return nil, err
	}
	k.handleControl(func(m wire.ControlMessage) { applyControl(p, m) })
	if wanted := r.Input == nil || *r.Input; wanted && p.TakesInput() && p.Running() {
		go k.feedToEnd(p)
	}
	for {
		sent, err := k.sendKept(a)
		if err != nil {
			return nil, err
		}
		if exit := a.Exit(); exit != nil {
			return exitResult(exit), nil
		}
		if sent {
			continue
		}
		select {
		case <-a.Wake:
		case <-k.Done():
			return nil, context.Cause(k)
		}
	}
}

// sendKept sends at most one frame of each output of a session.
func (k *call) sendKept(a *process.Attachment) (sent bool, err error) {
	for i, frameType := range outputTypes {
		if !a.Ready(i) {
			continue
		}
		buf := wire.NewBuffer()
		buf.Advance(a.Read(i, buf.Space()))
		err := k.frame(buf.Seal(frameType))
		buf.Free()
		if err != nil {
			return true, err
		}
		sent = true
	}
	return sent, nil
}

func exitResult(exit *process.Exit) wire.ExitResult {
	r := wire.ExitResult{
		ExitCode: exit.Code, TimedOut: exit.TimedOut, CPUMS: exit.CPU.Milliseconds(), MaxRSS: exit.MaxRSS,
	}
	if exit.Signal != 0 {
		r.Signal = &exit.Signal
	}
	return r
}

// applyControl runs in the connection's reader. A signal for a process that has just ended
// is as if it had come a moment later: nothing.
func applyControl(p *process.Process, m wire.ControlMessage) {
	switch m.Kind {
	case "signal":
		_ = p.Signal(m.Signal, true)
	case "resize":
		_ = p.Resize(m.Cols, m.Rows)
	}
}

// feed carries the host's input to the process until END, and grants the host what the process
// has read.
func (k *call) feed(p *process.Process) (written uint64, end *wire.End, err error) {
	if err := k.frame(wire.WindowFrame(inputWindow)); err != nil {
		return 0, nil, err
	}
	granted := 0
	for {
		piece, end, err := k.inbox.take(k)
		if end != nil || err != nil {
			return written, end, err
		}
		n, err := p.Input(k, piece.data)
		written += uint64(n)
		if err != nil {
			return written, nil, err
		}
		if granted += len(piece.data); granted >= grantStep {
			k.inbox.granted(granted)
			if err := k.frame(wire.WindowFrame(granted)); err != nil {
				return written, nil, err
			}
			granted = 0
		}
	}
}

// feedToEnd carries input until the host closes it.
func (k *call) feedToEnd(p *process.Process) {
	if _, _, err := k.feed(p); err == nil {
		_ = p.CloseInput(k)
	}
}

// input writes to a session without being attached to it.
func input(k *call) (any, error) {
	_, p, err := k.session()
	if err != nil {
		return nil, err
	}
	written, end, err := k.feed(p)
	if err == nil && end.Close {
		err = p.CloseInput(k)
	}
	return wire.InputResult{Written: written}, err
}

// session decodes the request and finds the session that it names.
func (k *call) session() (*wire.SessionRequest, *process.Process, error) {
	r, err := request[wire.SessionRequest](k)
	if err != nil {
		return nil, nil, err
	}
	p, err := k.conn.server.Processes.Session(r.Session)
	return r, p, err
}

func signal(k *call) (any, error) {
	r, p, err := k.session()
	if err != nil {
		return nil, err
	}
	return done(p.Signal(r.Signal, r.Group == nil || *r.Group))
}

func resize(k *call) (any, error) {
	r, p, err := k.session()
	if err != nil {
		return nil, err
	}
	return done(p.Resize(r.Cols, r.Rows))
}

func sessions(k *call) (any, error) {
	return wire.SessionsResult{Sessions: k.conn.server.Processes.Sessions()}, nil
}

func forget(k *call) (any, error) {
	r, err := request[wire.SessionRequest](k)
	if err != nil {
		return nil, err
	}
	return done(k.conn.server.Processes.Forget(r.Session))
}

func orZero(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}
