// Package metrics reads the machine's figures from /proc (Linux, proc(5)) and /sys.
package metrics

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

const (
	// maxProcesses bounds the process list.
	maxProcesses = 4096
	// maxArgv bounds one process's arguments in it.
	maxArgv = 4096
	// maxList bounds what all names and arguments take, so that the answer fits in a frame.
	maxList = 512 << 10
	// userHZ is the unit of times in /proc, the same on every architecture we run on.
	userHZ = 100
)

// Measure reads everything, with the process list only when asked for.
func Measure(processes bool) (*wire.MetricsResult, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, err
	}
	m := &wire.MetricsResult{UptimeMS: up.Nano() / int64(time.Millisecond), Load: load()}
	m.CPU = cpu()
	m.Memory = memory()
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err == nil {
		m.Disk = wire.DiskMetrics{Total: fs.Blocks * uint64(fs.Bsize), Free: fs.Bavail * uint64(fs.Bsize)}
	}
	m.Disk.Read, m.Disk.Written = transferred("/sys")
	m.Network = traffic("/sys")
	pids, err := pids()
	if err != nil {
		return nil, err
	}
	m.Processes = len(pids)
	if processes {
		m.ProcessList = list(pids)
	}
	return m, nil
}

func load() (averages [3]float64) {
	content, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(content))
	for i := range min(len(fields), len(averages)) {
		averages[i], _ = strconv.ParseFloat(fields[i], 64)
	}
	return averages
}

func cpu() wire.CPUMetrics {
	m := wire.CPUMetrics{Count: runtime.NumCPU()}
	content, _ := os.ReadFile("/proc/stat")
	line, _, _ := bytes.Cut(content, []byte("\n"))
	fields := strings.Fields(string(line)) // cpu user nice system idle iowait irq softirq steal …
	if len(fields) < 9 {
		return m
	}
	ms := func(columns ...int) (sum int64) {
		for _, i := range columns {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			sum += n * 1000 / userHZ
		}
		return sum
	}
	m.UserMS, m.SystemMS, m.IdleMS, m.StealMS = ms(1, 2), ms(3, 6, 7), ms(4, 5), ms(8)
	return m
}

func memory() (m wire.MemoryMetrics) {
	content, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseUint(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			m.Total = kib << 10
		case "MemAvailable:":
			m.Available = kib << 10
		case "MemFree:":
			m.Free = kib << 10
		case "Cached:":
			m.Cached = kib << 10
		}
	}
	return m
}

func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// list describes the processes that are still there when it is their turn.
func list(pids []int) []wire.ProcessEntry {
	entries := make([]wire.ProcessEntry, 0, min(len(pids), maxProcesses))
	budget := maxList
	for _, pid := range pids {
		if len(entries) == maxProcesses {
			break
		}
		entry, ok := describe(pid)
		if !ok {
			continue
		}
		if budget > 0 {
			entry.Argv = arguments(pid)
		}
		for _, arg := range entry.Argv {
			budget -= len(arg)
		}
		entries = append(entries, entry)
	}
	return entries
}

// describe reads /proc/<pid>/stat. The name in it may hold anything, also parentheses, so the
// fields are counted from its end.
func describe(pid int) (e wire.ProcessEntry, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	content, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return e, false
	}
	from, to := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if from < 0 || to < from {
		return e, false
	}
	fields := strings.Fields(string(content[to+1:])) // state is the file's third field
	if len(fields) < 22 {
		return e, false
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return n
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return e, false
	}
	return wire.ProcessEntry{
		Pid: pid, PPid: int(number(1)), UID: st.Uid, Argv: [][]byte{},
		Name: bytes.Clone(content[from+1 : to]), State: fields[0],
		RSS:   uint64(number(21)) * uint64(os.Getpagesize()),
		CPUMS: (number(11) + number(12)) * 1000 / userHZ,
	}, true
}

func arguments(pid int) [][]byte {
	file, err := os.Open("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return [][]byte{}
	}
	defer file.Close()
	content := make([]byte, maxArgv)
	n, _ := file.Read(content)
	content = bytes.TrimSuffix(content[:n], []byte{0})
	if len(content) == 0 {
		return [][]byte{}
	}
	return bytes.Split(content, []byte{0})
}
