package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

// tuning is what the cost of a switch between threads decides.
type tuning struct {
	// places is how many goroutines run at once. A thread that sleeps in a system call keeps its place
	// until the runtime's monitor takes it away; with all places kept the next goroutine waits for
	// that. Places that nobody needs cost little.
	places int

	// monitorSlack is how late the monitor may wake; see calmMonitor.
	monitorSlack time.Duration
}

var (
	onHardware = tuning{places: 8, monitorSlack: 20 * time.Millisecond}

	// The shortest program takes 25 ms under emulation: with so many places none waits for the monitor.
	underEmulation = tuning{places: 16, monitorSlack: 100 * time.Millisecond}
)

// tuneRuntime fits Go's runtime to its place: PID 1 of a small machine, often with one emulated
// processor, where a switch between threads costs as much as a hundred system calls.
func tuneRuntime(emulated bool) {
	t := onHardware
	if emulated {
		t = underEmulation
	}
	// The heap is small and short-lived; a machine's memory belongs to its programs.
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(max(runtime.NumCPU(), t.places))
	calmMonitor(t.monitorSlack)
}

// calmMonitor lets the kernel delay the runtime's monitor thread. Whenever a thread is in a system
// call, and ours always are, it wakes every 20 µs to see whether it is still there
// (runtime/proc.go, sysmon): under emulation that took more than half of the processor. Each visit while a
// program runs costs two switches of address space on top, 0.3 ms. All that becomes later is that another
// goroutine gets the place of a thread that sleeps. The monitor is the first thread that the runtime
// starts; should that ever change, nothing breaks. Threads that it starts inherit the slack,
// and their programs would (process.Table sees to that).
func calmMonitor(slack time.Duration) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil || len(entries) < 2 {
		return
	}
	var ids []int
	for _, entry := range entries {
		if id, err := strconv.Atoi(entry.Name()); err == nil && id != os.Getpid() {
			ids = append(ids, id)
		}
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(slices.Min(ids))+"/timerslack_ns", []byte(strconv.FormatInt(slack.Nanoseconds(), 10)), 0)
}
