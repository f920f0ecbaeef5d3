package boot

import (
	"os"
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lastSignal is the highest number of a signal.
const lastSignal = unix.Signal(64)

// TakeSignals keeps PID 1 alive whatever is sent to it (Go's own answer to most signals is to end the process, which would end the machine in
// a panic), and returns those that EndBySignals is for. It is called before any program runs, by a goroutine that is locked to the process's
// first thread and then never runs again.
//
// Each handler is taken away again in every program that is started (Go, runtime.clearSignalHandlers), so there are no more than have to be:
// of signals that end the machine, of those that the runtime makes panics of, and of its own. That of SIGCHLD, say, would run in some thread
// at the end of each child and do nothing, since children are waited for (process.Table).
//
// A signal without a handler does nothing to PID 1, unless the process's first thread blocks it: then the kernel takes it for fatal as soon as
// it finds another thread that does not (Linux, kernel/signal.c: sig_ignored, complete_signal). While a handler runs its thread blocks all
// signals, and so it does while it starts a thread or a program. Hence the first thread does none of these.
func TakeSignals() <-chan os.Signal {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	received := make(chan os.Signal, 8)
	for number := unix.Signal(1); number <= lastSignal; number++ {
		switch number {
		case unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, unix.SIGINT:
			signal.Notify(received, number)
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS:
			signal.Notify(received, number)
		case unix.SIGURG, 33: // the runtime's own: it interrupts a thread, and makes a system call in each
		default:
			signal.Ignore(number) // Go has no handler for it any more
			byDefault(number)
		}
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, caught(), nil); err != nil {
		Warn("signals", err)
	}
	return received
}

// EndBySignals ends the machine by the signals with which people do: those of busybox's poweroff, halt and reboot, and the kernel's word that
// Ctrl-Alt-Del was pressed. It does not return.
func EndBySignals(received <-chan os.Signal, end func(reboot bool)) {
	for got := range received {
		switch got {
		case unix.SIGUSR1, unix.SIGUSR2:
			end(false)
		case unix.SIGTERM, unix.SIGINT:
			end(true)
		}
	}
}

// action is the kernel's struct sigaction.
type action struct {
	handler  uintptr // 0: the default
	flags    uint64
	restorer uintptr
	mask     uint64
}

// byDefault leaves a signal to the kernel. Other than one that is ignored, it is so for programs that are started too.
func byDefault(number unix.Signal) {
	changeAction(number, &action{}, nil)
}

// caught returns the signals that have handlers.
func caught() *unix.Sigset_t {
	const ignored = 1
	var set unix.Sigset_t
	for number := unix.Signal(1); number <= lastSignal; number++ {
		var current action
		if changeAction(number, nil, &current); current.handler > ignored {
			set.Val[0] |= 1 << (number - 1)
		}
	}
	return &set
}

func changeAction(number unix.Signal, next, current *action) {
	const maskBytes = 8
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(next)), uintptr(unsafe.Pointer(current)), maskBytes, 0, 0)
}
