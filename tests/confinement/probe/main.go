// Probe does what a VMM that its guest has taken over would try, and prints as JSON what came of each attempt: "ok" with what
// it got, or the error. It refuses to run as root.
//
//	probe '{"files": [...], "tcp": "127.0.0.1:1", "unix": "...", "abstract": "...", "pid": 1, "bytes": 1}'
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

type targets struct {
	Files    []string `json:"files"`
	TCP      string   `json:"tcp"`
	Unix     string   `json:"unix"`
	Abstract string   `json:"abstract"`
	Pid      int      `json:"pid"`
	Bytes    uintptr  `json:"bytes"`
	Threads  int      `json:"threads"`
}

const (
	sysClone3, sysUnshare, sysSetns, sysBpf, sysPerf, sysUserfaultfd, sysMemfd, sysIoUring, sysFsopen = 435, 272, 308, 321, 298, 323, 319, 425, 430
	sysKeyctl, sysProcessRead, sysShmget                                                              = 250, 310, 29
	newUser, afVsock, afAlg                                                                           = 0x10000000, 40, 38
	prCapbsetRead, prGetSeccomp, prGetNoNewPrivs, prGetDumpable                                       = 23, 21, 39, 3
)

func main() {
	if os.Getuid() == 0 {
		panic("some of these attempts would succeed, and harm the host")
	}
	var to targets
	if err := json.Unmarshal([]byte(os.Args[1]), &to); err != nil {
		panic(err)
	}
	results := map[string]string{"descriptors": descriptors()}
	for _, path := range to.Files {
		results["read "+path] = outcome(open(path))
		results["write "+path] = outcome(create(filepath.Join(path, "probe")))
	}
	results["see"] = everything()
	results["pid"] = fmt.Sprint(os.Getpid(), " of ", os.Getppid())
	results["uid"] = fmt.Sprint(os.Getuid(), " ", os.Getgid())
	results["no new privileges"] = fmt.Sprint(number(syscall.SYS_PRCTL, prGetNoNewPrivs))
	results["seccomp"] = fmt.Sprint(number(syscall.SYS_PRCTL, prGetSeccomp))
	results["bounding set"] = boundingSet()
	calls(results, to.Pid)
	connections(results, to)
	results["map memory"] = outcome(mapMemory(to.Bytes))
	encoded, _ := json.Marshal(results)
	fmt.Println(string(encoded))
	if to.Threads > 0 {
		threads(to.Threads)
	}
}

func outcome(got string, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return "ok: " + got
}

func number(call uintptr, arguments ...uintptr) int {
	padded := append(arguments, 0, 0, 0, 0, 0, 0)
	value, _, _ := syscall.Syscall6(call, padded[0], padded[1], padded[2], padded[3], padded[4], padded[5])
	return int(value)
}

// descriptors lists those open at the start, but for standard streams and what the runtime has opened itself.
func descriptors() string {
	var found []string
	for number := 3; number < 1024; number++ {
		var status syscall.Stat_t
		if syscall.Fstat(number, &status) == nil && status.Mode&syscall.S_IFMT != 0 {
			found = append(found, fmt.Sprint(number))
		}
	}
	return strings.Join(found, " ")
}

func open(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	return "opened", file.Close()
}

func create(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	file.Close()
	return "created", os.Remove(path)
}

// everything lists all files that there are.
func everything() string {
	var found []string
	filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, path)
		}
		if entry != nil && entry.IsDir() && (path == "/proc" || path == "/sys") {
			found = append(found, path)
			return fs.SkipDir
		}
		if len(found) > 2000 {
			return fs.SkipAll
		}
		return nil
	})
	return strings.Join(found, "\n")
}

func boundingSet() string {
	var held []string
	for capability := uintptr(0); capability < 64; capability++ {
		if number(syscall.SYS_PRCTL, prCapbsetRead, capability) == 1 {
			held = append(held, fmt.Sprint(capability))
		}
	}
	return strings.Join(held, " ")
}

func calls(results map[string]string, pid int) {
	text := func(s string) uintptr {
		pointer, _ := syscall.BytePtrFromString(s)
		return uintptr(unsafe.Pointer(pointer))
	}
	page := make([]byte, 4096)
	buffer := uintptr(unsafe.Pointer(&page[0]))
	attempts := []struct {
		name      string
		call      uintptr
		arguments []uintptr
	}{
		{"signal a process of the host", syscall.SYS_KILL, []uintptr{uintptr(pid), 0}},
		{"trace a process of the host", syscall.SYS_PTRACE, []uintptr{syscall.PTRACE_ATTACH, uintptr(pid)}},
		{"read a process's memory", sysProcessRead, []uintptr{uintptr(os.Getpid()), 0, 0, 0, 0, 0}},
		{"make a user namespace", sysUnshare, []uintptr{newUser}},
		{"make a mount namespace", sysUnshare, []uintptr{syscall.CLONE_NEWNS}},
		{"enter a namespace", sysSetns, []uintptr{0, 0}},
		{"mount", syscall.SYS_MOUNT, []uintptr{text("none"), text("/"), text("tmpfs"), 0, 0}},
		{"mount by the new interface", sysFsopen, []uintptr{text("tmpfs"), 0}},
		{"unmount", syscall.SYS_UMOUNT2, []uintptr{text("/"), 2}},
		{"change the root", syscall.SYS_CHROOT, []uintptr{text("/")}},
		{"make a device", syscall.SYS_MKNOD, []uintptr{text("/device"), syscall.S_IFCHR | 0o600, 0x0101}},
		{"become root", syscall.SYS_SETUID, []uintptr{0}},
		{"use the kernel's keyrings", sysKeyctl, []uintptr{0, ^uintptr(2), 0}},
		{"load a BPF program", sysBpf, []uintptr{5, buffer, 64}},
		{"count performance events", sysPerf, []uintptr{buffer, 0, ^uintptr(0), ^uintptr(0), 0}},
		{"handle page faults", sysUserfaultfd, []uintptr{1}},
		{"set up an io_uring", sysIoUring, []uintptr{1, buffer}},
		{"hold memory in a file", sysMemfd, []uintptr{text("memory"), 0}},
		{"share memory of System V", sysShmget, []uintptr{0, 4096, 0o1600}},
		{"speak vsock", syscall.SYS_SOCKET, []uintptr{afVsock, syscall.SOCK_STREAM, 0}},
		{"speak netlink", syscall.SYS_SOCKET, []uintptr{syscall.AF_NETLINK, syscall.SOCK_RAW, 0}},
		{"speak raw packets", syscall.SYS_SOCKET, []uintptr{syscall.AF_PACKET, syscall.SOCK_RAW, 0}},
		{"use the kernel's ciphers", syscall.SYS_SOCKET, []uintptr{afAlg, 5, 0}},
		{"make a process by clone3", sysClone3, []uintptr{buffer, 0}},
	}
	for _, attempt := range attempts {
		padded := append(attempt.arguments, 0, 0, 0, 0, 0, 0)
		value, _, errno := syscall.Syscall6(attempt.call, padded[0], padded[1], padded[2], padded[3], padded[4], padded[5])
		if errno != 0 {
			results[attempt.name] = "error: " + errno.Error()
		} else {
			results[attempt.name] = fmt.Sprint("ok: ", value)
		}
	}
	results["make a process"] = outcome(makeProcess())
	limit := syscall.Rlimit{Cur: 1 << 50, Max: 1 << 50}
	results["raise a limit"] = outcome("raised", syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	results["take precedence"] = outcome("taken", syscall.Setpriority(syscall.PRIO_PROCESS, 0, -20))
	runtime.KeepAlive(page)
}

// makeProcess makes a child that ends at once.
func makeProcess() (string, error) {
	child, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return "", errno
	}
	if child == 0 {
		syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	}
	return fmt.Sprint(child), nil
}

func connections(results map[string]string, to targets) {
	try := func(network, address string) string {
		connection, err := net.DialTimeout(network, address, 2*time.Second)
		if err != nil {
			return "error: " + err.Error()
		}
		connection.Close()
		return "ok: connected"
	}
	results["reach the host over TCP"] = try("tcp", to.TCP)
	results["reach another host"] = try("udp", "192.0.2.1:53")
	results["reach a Unix socket of the host"] = try("unix", to.Unix)
	results["reach an abstract socket of the host"] = try("unix", "@"+to.Abstract)
}

func mapMemory(size uintptr) (string, error) {
	_, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	return "mapped", err
}

// threads starts so many; where the kernel refuses one, Go's runtime says so and ends the process.
func threads(count int) {
	started := make(chan struct{})
	for range count {
		go func() {
			runtime.LockOSThread()
			started <- struct{}{}
			select {}
		}()
	}
	for range count {
		<-started
	}
	fmt.Println("all threads")
}
