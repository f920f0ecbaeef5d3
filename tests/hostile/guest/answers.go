package main

import (
	"archive/tar"
	"bytes"
	"math"
	"strings"

	"bandsox.dev/agent/internal/wire"
)

func pointer[T any](value T) *T { return &value }

func file(name string) wire.FileStat {
	return wire.FileStat{Name: []byte(name), Type: "file", Size: 1, Mode: 0o644, Nlink: 1, Ino: 1}
}

// start sends the correct beginning of an answer, and the end of what such an operation may send for ever.
func start(c *call) (more []byte) {
	var exec wire.ExecRequest
	switch c.op {
	case "exec":
		if _ = wire.Decode(c.request, &exec); exec.Detached {
			return repeated(wire.Event, wire.StartedEvent{Kind: "started"})
		}
		c.message(wire.Event, wire.StartedEvent{Kind: "started", Pid: 2})
		return append(wire.Frame(wire.GuestData, garbage()), wire.WindowFrame(1<<31)...)
	case "attach":
		c.message(wire.Event, wire.AttachedEvent{Kind: "attached", Pid: 2})
		return append(wire.Frame(wire.GuestData, garbage()), wire.Frame(wire.Stderr, garbage())...)
	case "read", "lines":
		return wire.Frame(wire.GuestData, bytes.Repeat([]byte("line\n"), bulk/5))
	case "tar", "layer":
		return wire.Frame(wire.GuestData, entry(base(c)+"/directory/", tar.TypeDir, "", 0))
	case "list":
		long := file("a link")
		long.Type, long.Target = "symlink", bytes.Repeat([]byte("x"), 60_000)
		frame, _ := wire.MessageFrame(wire.Event, wire.EntriesEvent{Entries: []wire.FileStat{long, long, long, long}})
		return frame
	case "watch":
		c.message(wire.Event, wire.ChangeEvent{Kind: "ready"})
		return repeated(wire.Event, wire.ChangeEvent{Kind: "change", Type: "created", Path: []byte("/x")})
	case "freeze":
		c.message(wire.Event, wire.FrozenEvent{Kind: "frozen", Complete: true})
	case "renew":
		return repeated(wire.Event, wire.ClockEvent{Kind: "clock"})
	case "input", "write", "untar":
		return bytes.Repeat(wire.WindowFrame(1<<32-1), 1000)
	}
	return repeated(wire.Event, wire.ChangeEvent{Kind: "ready"})
}

// generous never ends what it has begun well.
func generous(c *call) {
	switch more := start(c); c.op {
	case "sessions":
		session := wire.SessionEntry{Session: "s", Argv: make([][]byte, 900_000)}
		c.message(wire.Result, wire.SessionsResult{Sessions: []wire.SessionEntry{session}})
	case "metrics":
		process := wire.ProcessEntry{State: "R", Argv: make([][]byte, 900_000)}
		c.message(wire.Result, wire.MetricsResult{ProcessList: []wire.ProcessEntry{process}})
	default:
		c.forever(more)
	}
}

// breaking hangs up in the middle of what it has begun well.
func breaking(c *call) {
	c.send(start(c))
	c.hangUp()
}

// lying answers in the right form with what cannot be.
func lying(c *call) {
	huge := uint64(math.MaxUint64)
	switch c.op {
	case "exec", "attach":
		start(c)
		c.message(wire.Result, wire.ExitResult{ExitCode: -7, CPUMS: math.MinInt64})
	case "stat":
		c.message(wire.Result, wire.FileStat{Type: "portal", Size: -1, Mode: 0o170777, MTime: math.NaN()})
	case "list":
		for _, name := range []string{"../../escape", "/etc/passwd", "..", ".", "a\x00b", "\x1b[2J"} {
			c.message(wire.Event, wire.EntriesEvent{Entries: []wire.FileStat{file(name)}})
		}
		c.message(wire.Result, wire.Done{})
	case "read", "lines":
		c.send(wire.Frame(wire.GuestData, []byte("data")))
		c.message(wire.GuestEnd, wire.End{Size: &huge, XXH64: &huge})
		c.message(wire.Result, wire.ReadResult{FileSize: -1})
	case "tar", "layer":
		for _, e := range escapes(base(c)) {
			c.send(wire.Frame(wire.GuestData, e))
		}
		c.send(wire.Frame(wire.GuestData, make([]byte, 1024)))
		c.message(wire.GuestEnd, wire.End{})
		c.message(wire.Result, wire.ArchiveResult{Entries: -1, Bytes: -1})
	case "watch":
		c.message(wire.Event, wire.ChangeEvent{Kind: "ready"})
		c.message(wire.Event, wire.ChangeEvent{Kind: "change", Type: "exploded", Path: []byte("\x1b[2J")})
	case "sessions":
		c.message(wire.Result, wire.SessionsResult{Sessions: []wire.SessionEntry{{Session: strings.Repeat("s", 100), Pid: -1}}})
	case "info":
		c.message(wire.Result, wire.InfoResult{Agent: strings.Repeat("\x1b", 2000), UptimeMS: -1, Time: math.Inf(1)})
	case "freeze":
		c.message(wire.Event, wire.FrozenEvent{Kind: "frozen", TookUS: -1})
	case "renew":
		c.message(wire.Event, wire.ClockEvent{Kind: "clock"})
		hook := &wire.HookResult{ExitCode: -1, Output: make([]byte, 100_000)}
		c.message(wire.Result, wire.RenewResult{Frozen: true, Closed: -1, Steps: make([]wire.RenewStep, 10_000), Hook: hook})
	case "metrics":
		c.message(wire.Result, wire.MetricsResult{Load: [3]float64{math.NaN()}, Processes: -1})
	default:
		c.message(wire.Result, map[string]any{"size": -1, "written": -1, "entries": -1, "bytes": -1, "session": 7, "pid": -1})
	}
}

// otherAnswers answers with what another request would have got.
func otherAnswers(c *call) {
	if c.op == "metrics" || c.op == "list" {
		c.message(wire.Result, wire.SessionsResult{})
	} else {
		c.message(wire.Event, wire.EntriesEvent{Entries: []wire.FileStat{file("x")}})
	}
	c.message(wire.Result, wire.MetricsResult{})
}

// answerShortly answers a request that nothing was asked to go wrong with.
func answerShortly(c *call) {
	c.welcome()
	c.message(wire.Result, wire.Done{})
}
