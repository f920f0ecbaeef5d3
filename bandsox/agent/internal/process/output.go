package process

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminalRest bounds what a terminal can still hold when its program has ended: the
// kernel's buffers for it (64 KiB) and the line discipline's (4 KiB).
const terminalRest = 128 << 10

// Sink takes a process's output, i being 0 for stdout and 1 for stderr.
type Sink interface {
	// Space is where the next bytes go. Without space the output waits, until Process.wake.
	Space(i int) []byte
	// Took declares that n bytes of the last Space were filled. An error means that nobody wants
	// the process's output any more.
	Took(i, n int) error
}

// Watcher is who has asked for a process, and looks after more than its output.
type Watcher interface {
	// Watched is a descriptor that Follow waits for as well; -1 when there is none, or none any more.
	Watched() int
	// Stirred is called when something can be read from it, or its other end was closed.
	Stirred()
	// Settled is called once, unless the process has ended soon after its start.
	Settled()
}

// output is the reading end of a pipe or terminal; fd is -1 when there is none.
type output struct {
	fd   int
	read bool // to its end, as far as it is the process's
	rest int  // once the process has ended: how much of what it wrote is still to be read

	// other is the writing end, held open until the process has ended: its end alone wakes us,
	// not also that of each pipe, and a program may close all that it has of a terminal and
	// open it again.
	other int
}

// Follow carries the output to the sink until the process has ended and everything that it had
// written by then was delivered. It is one thread that sleeps in poll(2) and is woken by the
// kernel itself: neither Go's poller nor another goroutine stands between a program's output
// or end and the host. Nor does one read meanwhile what a watcher, which may be nil, has watched. What Follow has opened is left
// to Close.
func (p *Process) Follow(sink Sink, watcher Watcher) Exit {
	exited, busy := false, false
	unsettled := settleTime
	for {
		if exited && !p.outputs[0].open() && !p.outputs[1].open() {
			return p.exitOnce()
		}
		var fds [5]unix.PollFd
		n := p.pollSet(fds[:], sink, exited)
		watched := -1
		if watcher != nil && !exited {
			watched = watcher.Watched()
			fds[n] = unix.PollFd{Fd: int32(watched), Events: unix.POLLIN} // poll ignores -1
			n++
		}
		_, err := unix.Poll(fds[:n], pollTimeout(unsettled))
		if unsettled > 0 {
			if unsettled = settleTime - time.Since(p.Started); unsettled <= 0 {
				p.table.lookAfter()
				if watcher != nil {
					watcher.Settled()
				}
			}
		}
		if err != nil {
			continue // EINTR
		}
		if busy && !exited {
			yield()
		}
		busy = false
		for _, f := range fds[:n] {
			switch fd := int(f.Fd); {
			case f.Revents == 0:
			case fd == p.exitFD:
				if exited = p.table.collect(p); exited {
					p.measureRest()
					unsettled = 0
				}
			case fd == p.wakeFD:
				drainEvent(fd)
			case fd == watched:
				watcher.Stirred()
			default:
				p.transfer(fd, &sink)
				busy = true
			}
		}
	}
}

// settleTime is how long a process has run that is no passing one. Most are, on a machine that answers one command after the other, and
// what is not done for them saves switches between threads, which are dear under emulation; the shortest program takes 25 ms there.
const settleTime = 50 * time.Millisecond

// pollTimeout is what poll(2) takes: milliseconds, -1 for as long as it lasts.
func pollTimeout(left time.Duration) int {
	if left <= 0 {
		return -1
	}
	return int(left.Milliseconds()) + 1
}

// yield lets a program that has begun to write go on writing. The kernel wakes us at its first
// page; on a machine with one processor every page would otherwise cost two switches between
// processes, which are very dear under emulation.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// pollSet lists what to wait for.
func (p *Process) pollSet(fds []unix.PollFd, sink Sink, exited bool) (n int) {
	add := func(fd int) {
		fds[n] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n++
	}
	for i := range p.outputs {
		if p.outputs[i].open() && len(sink.Space(i)) > 0 {
			add(p.outputs[i].fd)
		}
	}
	if !exited {
		add(p.exitFD)
	}
	if p.wakeFD >= 0 {
		add(p.wakeFD)
	}
	return n
}

// transfer reads once from the output that has become readable.
func (p *Process) transfer(fd int, sink *Sink) {
	i := 0
	if fd == p.outputs[1].fd {
		i = 1
	}
	out := &p.outputs[i]
	if !out.open() {
		return // since poll
	}
	space := (*sink).Space(i)
	n, err := unix.Read(fd, space[:min(len(space), out.rest)])
	switch {
	case n > 0:
		out.rest -= n
		if (*sink).Took(i, n) != nil {
			p.Kill()
			*sink = &nowhere{}
		}
		if out.rest == 0 || p.TTY && out.rest < terminalRest && !readable(fd) {
			p.outputs[i].read = true
		}
	case err != unix.EINTR && err != unix.EAGAIN: // the end; a terminal that was hung up says EIO
		p.outputs[i].read = true
	}
}

// endless is the rest of an output whose process has not ended.
const endless = 1 << 62

// measureRest is called when the process has ended. What it has written is still to be read;
// what background children write from now on is not. A terminal cannot tell how much it holds:
// it is read until it has nothing.
func (p *Process) measureRest() {
	for i := range p.outputs {
		switch out := &p.outputs[i]; {
		case !out.open():
		case p.TTY:
			out.rest, out.read = terminalRest, !readable(out.fd)
		default:
			rest, err := unix.IoctlGetInt(out.fd, unix.TIOCINQ)
			out.rest, out.read = rest, err != nil || rest == 0
		}
	}
}

// closeOutputs must not come before the process's end, which would get SIGHUP or SIGPIPE.
func (p *Process) closeOutputs() {
	for i := range p.outputs {
		switch out := &p.outputs[i]; {
		case out.fd < 0:
		case p.TTY:
			p.terminal.Close()
			out.closeOther()
		default:
			out.closeOther()
			out.leave()
		}
		p.outputs[i] = noOutput
	}
}

// open tells whether there is more to come.
func (o *output) open() bool { return o.fd >= 0 && !o.read }

// leave gives up the reading end. Background children that still hold the pipe must not die of writing to it: what they write is
// thrown away from here on.
func (o *output) leave() {
	if heldOpen(o.fd) && unix.SetNonblock(o.fd, true) == nil {
		go discard(os.NewFile(uintptr(o.fd), "pipe"))
	} else {
		unix.Close(o.fd)
	}
}

func (o *output) closeOther() {
	if o.other >= 0 {
		unix.Close(o.other)
		o.other = -1
	}
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
}

// heldOpen tells whether somebody can still write into the pipe.
func heldOpen(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP == 0
}

// discard reads a pipe to its end.
func discard(file *os.File) {
	defer file.Close()
	var scratch [4096]byte
	for {
		if _, err := file.Read(scratch[:]); err != nil {
			return
		}
	}
}

// nowhere is the sink of a process whose output nobody wants.
type nowhere struct{ scratch [4096]byte }

func (n *nowhere) Space(int) []byte    { return n.scratch[:] }
func (n *nowhere) Took(int, int) error { return nil }

func drainEvent(fd int) {
	var count [8]byte
	_, _ = unix.Read(fd, count[:])
}

func raiseEvent(fd int) {
	if fd >= 0 {
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func (p *Process) exitOnce() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.exit
}
