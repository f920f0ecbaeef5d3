package main

import (
	"errors"
	"sync"
	"sync/atomic"

	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"
)

// line is one connection, or one port.
type line struct {
	transport.Channel
	vsock bool
	node  string // a port's device
}

// guest answers requests with the present misbehaviour, and the set-up with one of its own if there is any.
type guest struct {
	prepare string
	setup   string
	present atomic.Pointer[string]
}

func (g *guest) choose(name string) { g.present.Store(&name) }

// call is one request that is being answered, until the host has gone or says HELLO again.
type call struct {
	line     *line
	greeting wire.Greeting
	op       string
	request  []byte
	over     chan struct{}
	done     sync.WaitGroup
}

// serve reads what the host says on one line until it is closed.
func (g *guest) serve(l *line) {
	reader := wire.NewReader(l)
	var greeting wire.Greeting
	var present *call
	stop := func() {
		if present != nil {
			close(present.over)
			present.done.Wait()
			present = nil
		}
	}
	for {
		header, err := reader.Next()
		var payload []byte
		if err == nil && (header.Type == wire.Hello || header.Type == wire.Request) {
			payload, err = reader.Payload()
		}
		switch {
		case err != nil && !isViolation(err):
			if l.vsock {
				l.Interrupt()
				stop()
				l.Close()
				return
			}
			// A write that blocks ends when the next host is there, so it is left alone until the next HELLO.
			if l.AwaitHost() != nil {
				return
			}
			reader.Reset()
		case err != nil:
			if err := reader.Resync(); err != nil {
				reader.Reset()
			}
		case header.Type == wire.Hello:
			stop()
			greeting, _ = wire.ParseHello(payload)
		case header.Type == wire.Request:
			stop()
			present = g.begin(l, greeting, payload)
		}
	}
}

// begin starts to answer a request. One whose answer is not to read runs at once: then the line is not read.
func (g *guest) begin(l *line, greeting wire.Greeting, request []byte) *call {
	c := &call{line: l, greeting: greeting, request: request, over: make(chan struct{})}
	c.op, _ = wire.Operation(request)
	if g.obey(c) {
		return nil
	}
	name := *g.present.Load()
	switch c.op {
	case "prepare":
		name = g.prepare
	case "setup":
		name = g.setup
	}
	way := misbehaviours[name]
	if way == nil {
		way = answerShortly
	}
	if inline[name] {
		way(c)
		return nil
	}
	c.done.Add(1)
	go func() {
		defer c.done.Done()
		way(c)
	}()
	return c
}

// obey answers the requests that have to work: the set-up of the machine, and the choice of a misbehaviour. It is not to be saved
// before that.
func (g *guest) obey(c *call) bool {
	if c.op == "prepare" && g.prepare == "" {
		c.welcome()
		c.message(wire.Error, wire.Fail(wire.CodeUnsupported, "this guest has looked at its disks"))
		return true
	}
	if c.op == "setup" && g.setup == "" {
		c.welcome()
		c.message(wire.Result, wire.Done{})
		return true
	}
	var exec wire.ExecRequest
	if c.op != "exec" || wire.Decode(c.request, &exec) != nil || len(exec.Argv) != 2 || exec.Argv[0] != "misbehave" {
		return false
	}
	g.choose(exec.Argv[1])
	c.welcome()
	c.message(wire.Event, wire.StartedEvent{Kind: "started", Pid: 2})
	exit := wire.ExitResult{}
	if misbehaviours[exec.Argv[1]] == nil && exec.Argv[1] != "" {
		exit.ExitCode = 127
	}
	c.message(wire.Result, exit)
	return true
}

// isOver tells whether nobody waits for the answer any more.
func (c *call) isOver() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// send writes bytes; false when there is no use in writing more.
func (c *call) send(p []byte) bool {
	for len(p) > 0 {
		n, err := c.line.Write(p)
		if err != nil || (n == 0 && c.isOver()) {
			return false
		}
		p = p[n:]
	}
	return !c.isOver()
}

// forever writes the same bytes until the host has gone.
func (c *call) forever(p []byte) {
	for c.send(p) {
	}
}

func (c *call) welcome() bool { return c.send(wire.WelcomeFrame(c.greeting.Nonce, [16]byte{1})) }

// message sends a frame with a message.
func (c *call) message(t wire.Type, message any) bool {
	frame, err := wire.MessageFrame(t, message)
	if err != nil {
		panic(err)
	}
	return c.send(frame)
}

func isViolation(err error) bool { return errors.Is(err, wire.ErrViolation) }
