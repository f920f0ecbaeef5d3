package serve

import (
	"sync"

	"golang.org/x/sys/unix"
)

// turns lets goroutines take turns at what one of them does at a time and never for long. Who has come upon something that lasts passes the
// turn on and sees to that, in the thread that it has. The next one sleeps in the kernel meanwhile, where one system call wakes
// it: Go's scheduler would wake one thread after the other to look for it, and under emulation that took as long as all else that a
// short command costs.
type turns struct {
	mu      sync.Mutex
	waiting bool // one sleeps; a second one does not need to
	over    bool
	event   int // an eventfd in which it sleeps; 0 as long as none has
}

// pass gives the turn to the one that waits for it, else to a new goroutine, which runs next.
func (t *turns) pass(next func()) {
	t.mu.Lock()
	waiting := t.waiting
	t.waiting = false
	t.mu.Unlock()
	if waiting {
		t.wake()
	} else {
		go next()
	}
}

// await returns when the caller has the turn again. It is false when that is not needed: another one waits already, or there are no
// turns any more.
func (t *turns) await() bool {
	t.mu.Lock()
	wanted := !t.over && !t.waiting && t.open()
	t.waiting = t.waiting || wanted
	t.mu.Unlock()
	if !wanted {
		return false
	}
	t.sleep()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		unix.Close(t.event)
	}
	return !t.over
}

// end is called by who has the turn: there are no more.
func (t *turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.waiting {
		t.wake()
	} else if t.event > 0 {
		unix.Close(t.event)
	}
}

// open makes the eventfd; without one nobody waits.
func (t *turns) open() bool {
	if t.event == 0 {
		event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return false
		}
		t.event = event
	}
	return true
}

func (t *turns) wake() { _, _ = unix.Write(t.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (t *turns) sleep() {
	var count [8]byte
	for {
		if _, err := unix.Read(t.event, count[:]); err != unix.EINTR {
			return
		}
	}
}
