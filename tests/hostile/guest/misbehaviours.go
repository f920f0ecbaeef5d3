package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"time"

	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// bulk is the payload of the frames of floods.
const bulk = 64 << 10

// misbehaviours are the ways in which a request is answered. tests/hostile/test_misbehaviour.py lists them.
var misbehaviours = map[string]func(*call){
	// instead of WELCOME
	"garbage": func(c *call) { c.forever(garbage()) },
	"padding": func(c *call) { c.forever(make([]byte, bulk)) },
	"silent":  func(c *call) {},
	"wrong-nonce": func(c *call) {
		c.send(wire.WelcomeFrame([16]byte{9}, [16]byte{1}))
		c.message(wire.Result, wire.Done{})
	},
	"wrong-version": wrongVersion,
	"half-welcome":  func(c *call) { c.send(wire.WelcomeFrame(c.greeting.Nonce, [16]byte{1})[:30]) },
	"no-welcome":    func(c *call) { c.message(wire.Result, wire.Done{}) },
	"deaf":          func(c *call) { time.Sleep(3 * time.Second) },
	"hang-up":       func(c *call) { c.hangUp() },
	"flap":          flap,

	// after WELCOME
	"garbage-after":    welcomed(func(c *call) { c.forever(garbage()) }),
	"padding-after":    welcomed(func(c *call) { c.forever(make([]byte, bulk)) }),
	"silent-after":     welcomed(func(c *call) {}),
	"hang-up-after":    welcomed(func(c *call) { c.hangUp() }),
	"half-frame":       welcomed(func(c *call) { c.send(resultHead(1000)); c.send([]byte{0x81, 0xa1}) }),
	"oversized":        welcomed(func(c *call) { c.send(resultHead(wire.MaxPayload + 1)); c.forever(make([]byte, bulk)) }),
	"gigantic":         welcomed(func(c *call) { c.send(resultHead(1<<32 - 1)); c.forever(garbage()) }),
	"creeping":         welcomed(creeping),
	"data-flood":       welcomed(func(c *call) { c.forever(wire.Frame(wire.GuestData, garbage())) }),
	"stderr-flood":     welcomed(func(c *call) { c.forever(wire.Frame(wire.Stderr, garbage())) }),
	"empty-data-flood": welcomed(func(c *call) { c.forever(bytes.Repeat(wire.Frame(wire.GuestData, nil), 10_000)) }),
	"event-flood":      welcomed(func(c *call) { c.forever(repeated(wire.Event, wire.StartedEvent{Kind: "started", Pid: 2})) }),
	"window-flood":     welcomed(func(c *call) { c.forever(bytes.Repeat(wire.WindowFrame(1<<32-1), 5_000)) }),
	"welcome-flood":    welcomed(func(c *call) { c.forever(wire.WelcomeFrame(c.greeting.Nonce, [16]byte{1})) }),
	"result-flood":     welcomed(func(c *call) { c.forever(repeated(wire.Result, wire.Done{})) }),
	"host-frames":      welcomed(func(c *call) { c.forever(wire.Frame(wire.Request, c.request)) }),
	"not-messagepack":  welcomed(func(c *call) { c.send(wire.Frame(wire.Result, []byte{0xc1})) }),
	"deep": welcomed(func(c *call) {
		c.send(wire.Frame(wire.Result, append([]byte{0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 500_000)...)))
	}),
	"wide":          welcomed(func(c *call) { c.send(wire.Frame(wire.Result, []byte{0xdf, 0xff, 0xff, 0xff, 0xff})) }),
	"ugly-error":    welcomed(uglyError),
	"other-answers": welcomed(otherAnswers),

	"restart": func(c *call) { end(unix.LINUX_REBOOT_CMD_RESTART) },

	// what fits the request, and then too much or not enough of it
	"generous": welcomed(generous),
	"lying":    welcomed(lying),
	"breaking": welcomed(breaking),
}

// inline are the misbehaviours during which the line is not read.
var inline = map[string]bool{"deaf": true, "hang-up": true, "hang-up-after": true, "flap": true}

func welcomed(then func(*call)) func(*call) {
	return func(c *call) {
		if c.welcome() {
			then(c)
		}
	}
}

func garbage() []byte {
	p := make([]byte, bulk)
	_, _ = rand.Read(p)
	return p
}

func repeated(t wire.Type, message any) []byte {
	frame, _ := wire.MessageFrame(t, message)
	return bytes.Repeat(frame, bulk/len(frame))
}

func resultHead(length uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(wire.Result)}, length)
}

func wrongVersion(c *call) {
	welcome := wire.WelcomeFrame(c.greeting.Nonce, [16]byte{1})
	binary.BigEndian.PutUint16(welcome[wire.HeaderSize+8:], 2)
	c.send(welcome)
}

// creeping sends an answer that never ends, a byte at a time.
func creeping(c *call) {
	for c.send(resultHead(wire.MaxPayload)); c.send([]byte{0x80}); {
		time.Sleep(10 * time.Millisecond)
	}
}

func uglyError(c *call) {
	errno := "\x1b[31mE\n"
	c.message(wire.Error, wire.Failure{
		Code: "\x1b[2Jio\r\n", Message: "\x1b]0;owned\x07" + string(bytes.Repeat([]byte("\u202e\n\x9b31m"), 100_000)),
		Errno: &errno, Path: []byte("/\x1b[2J\xff"),
	})
}

// hangUp closes the line. A port is opened again, as a driver would that was loaded again.
func (c *call) hangUp() {
	if c.line.vsock {
		c.line.Interrupt()
		return
	}
	c.line.Close()
	for {
		if port, err := transport.OpenPort(c.line.node); err == nil {
			c.line.Channel = port
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// flap opens a thousand connections: to the host where the guest can, else its own port again and again.
func flap(c *call) {
	for range 1000 {
		if !c.line.vsock {
			c.hangUp()
			continue
		}
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			break
		}
		_ = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: transport.VsockPort})
		defer unix.Close(fd)
	}
	time.Sleep(time.Second)
}
