package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

const (
	// Threads that sleep in a system call keep their place to run for a while; with one place
	// the next goroutine would wait for it, with many the runtime wakes threads to look for
	// work that is not there.
	leastProcs, mostProcs = 2, 4

	// monitorSlack is how late the runtime's monitor thread may wake; see calmMonitor.
	monitorSlack = 5 * time.Millisecond
)

// tuneRuntime fits Go's runtime to its place: PID 1 of a small machine, often with one emulated
// processor, where a switch between threads costs as much as a hundred system calls.
func tuneRuntime() {
	// The heap is small and short-lived; a machine's memory belongs to its programs.
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(min(max(runtime.NumCPU(), leastProcs), mostProcs))
	calmMonitor()
}

// calmMonitor lets the kernel delay the runtime's monitor thread. Whenever a thread is in a system
// call, and ours always are, it wakes every 20 µs to see whether it is still there
// (runtime/proc.go, sysmon): under emulation that took more than half of the processor. All that
// becomes later is that another goroutine gets the place of a thread that sleeps. The monitor is
// the first thread that the runtime starts; should that ever change, nothing breaks.
func calmMonitor() {
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
	slack := strconv.FormatInt(monitorSlack.Nanoseconds(), 10)
	_ = os.WriteFile("/proc/"+strconv.Itoa(slices.Min(ids))+"/timerslack_ns", []byte(slack), 0)
}
