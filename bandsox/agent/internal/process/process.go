// Package process starts programs and looks after them until their end: their output, input,
// terminal, cgroup, time limit and exit status. It owns every wait for a child, also for the
// orphans that the kernel hands to PID 1.
package process

import (
	"context"
	"os"
	"sync"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Code     int // 128 + signal when a signal ended it
	Signal   int // 0 when it exited by itself
	TimedOut bool
	CPU      time.Duration
	MaxRSS   int64 // bytes
}

// Process is a program that was started; it stays valid after its end. Follow must be called
// for it once.
type Process struct {
	ID      string // empty when it belongs to a connection
	Pid     int
	Argv    []string
	TTY     bool
	Started time.Time

	table    *Table
	groups   *Groups  // where its cgroup is from
	rings    *[2]ring // of a session
	outputs  [2]output
	terminal *os.File // with TTY
	input    *input   // nil when it reads from /dev/null
	timer    *time.Timer
	exitFD   int // readable when the process has ended: a pidfd, else an eventfd
	hasPidfd bool

	mu       sync.Mutex
	group    *group // until the end
	exit     *Exit
	timedOut bool
	attached int
	wakeFD   int // makes Follow look at its sink's space again; -1 when nobody needs that
}

// Running tells whether the process has not ended yet.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit == nil
}

// Kill ends the process and everything that it has started.
func (p *Process) Kill() {
	p.mu.Lock()
	running, group := p.exit == nil, p.group
	if running && group != nil {
		group.kill()
	}
	p.mu.Unlock()
	if running && group == nil {
		_ = p.send(-p.Pid, unix.SIGKILL)
	}
}

// Signal sends a signal to the process, or with group to its process group; KILL then means
// everything it has started.
func (p *Process) Signal(number int, group bool) error {
	if number < 0 || number > 64 {
		return wire.Fail(wire.CodeInvalid, "no signal %d", number)
	}
	if !p.Running() {
		return errEnded
	}
	switch {
	case number == int(unix.SIGKILL) && group:
		p.Kill()
		return nil
	case group:
		return p.send(-p.Pid, unix.Signal(number))
	}
	return p.send(p.Pid, unix.Signal(number))
}

// send signals the pid while nothing is reaped, so that it still means this process.
func (p *Process) send(pid int, number unix.Signal) error {
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	if p.table.byPid[p.Pid] != p {
		return errEnded
	}
	if err := unix.Kill(pid, number); err != nil {
		return wire.AsFailure(os.NewSyscallError("kill", err))
	}
	return nil
}

var errEnded = wire.Fail(wire.CodeNotFound, "the process has ended")

// Resize sets the terminal's size.
func (p *Process) Resize(cols, rows int) error {
	if !p.TTY {
		return wire.Fail(wire.CodeInvalid, "the process has no terminal")
	}
	return resize(p.terminal, wire.Winsize{Cols: cols, Rows: rows})
}

// TakesInput tells whether Input can be used.
func (p *Process) TakesInput() bool { return p.input != nil }

// Input writes to the process's stdin or terminal and returns when it took everything.
func (p *Process) Input(ctx context.Context, data []byte) (int, error) {
	if p.input == nil {
		return 0, wire.Fail(wire.CodeInvalid, "the process was started without stdin")
	}
	if !p.Running() {
		return 0, errEnded
	}
	return p.input.write(ctx, data)
}

// CloseInput ends stdin; on a terminal it types the end-of-file character.
func (p *Process) CloseInput(ctx context.Context) error {
	if p.input == nil {
		return nil
	}
	return p.input.end(ctx)
}

// timeOut is called when the time limit has passed.
func (p *Process) timeOut() {
	p.mu.Lock()
	p.timedOut = p.exit == nil
	p.mu.Unlock()
	p.Kill()
}

// noteExit is called once, with what wait4 said.
func (p *Process) noteExit(status unix.WaitStatus, usage *unix.Rusage) {
	exit := &Exit{
		Code:   status.ExitStatus(),
		CPU:    time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		MaxRSS: usage.Maxrss << 10,
	}
	if status.Signaled() {
		exit.Signal = int(status.Signal())
		exit.Code = 128 + exit.Signal
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	exit.TimedOut = p.timedOut
	p.exit = exit
	if p.timer != nil {
		p.timer.Stop()
	}
}

// Close gives back what the process held, after Follow.
func (p *Process) Close() {
	if p.input != nil {
		p.input.close()
	}
	p.closeOutputs()
	unix.Close(p.exitFD)
	p.mu.Lock()
	group := p.group
	p.group = nil
	if p.wakeFD >= 0 {
		unix.Close(p.wakeFD)
		p.wakeFD = -1
	}
	p.mu.Unlock()
	if group != nil {
		p.groups.put(group)
	}
	p.table.lookAfter()
}

// wake makes Follow ask its sink for space again.
func (p *Process) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wakeFD >= 0 {
		raiseEvent(p.wakeFD)
	}
}
