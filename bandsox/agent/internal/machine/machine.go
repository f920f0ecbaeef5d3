// Package machine is what the host sets and asks about the guest as a whole: its name,
// clock, entropy, and the defaults for every process.
package machine

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// Machine holds what setup has set.
type Machine struct {
	mu       sync.Mutex
	defaults process.Defaults
	wrote    map[string][]byte // files that setup has written, by path
}

// Wrote tells whether the file is as setup has written it: the machine's and not its user's.
func (m *Machine) Wrote(path string) bool {
	m.mu.Lock()
	content, ok := m.wrote[path]
	m.mu.Unlock()
	if !ok {
		return false
	}
	now, err := os.ReadFile(path)
	return err == nil && bytes.Equal(now, content)
}

// replaceFile remembers what it has written.
func (m *Machine) replaceFile(path string, content []byte) error {
	if err := ReplaceFile(path, content); err != nil {
		return wire.FailPath(path, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrote == nil {
		m.wrote = map[string][]byte{}
	}
	m.wrote[path] = content
	return nil
}

// Defaults are those of every process that is started from now on.
func (m *Machine) Defaults() process.Defaults {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.defaults
}

// Setup sets what the request gives. Entropy comes first and the token is the caller's: what
// follows may already depend on fresh random numbers.
func (m *Machine) Setup(request *wire.SetupRequest) error {
	if len(request.Entropy) > 0 {
		if err := addEntropy(request.Entropy); err != nil {
			return err
		}
	}
	if request.Time != nil {
		if err := stepClock(*request.Time); err != nil {
			return err
		}
	}
	if request.Hostname != nil {
		if err := unix.Sethostname([]byte(*request.Hostname)); err != nil {
			return wire.AsFailure(os.NewSyscallError("sethostname", err))
		}
		if err := m.replaceFile("/etc/hostname", []byte(*request.Hostname+"\n")); err != nil {
			return err
		}
	}
	for path, content := range map[string][]byte{"/etc/hosts": request.Hosts, "/etc/resolv.conf": request.Resolv} {
		if content != nil {
			if err := m.replaceFile(path, content); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if request.Env != nil {
		m.defaults.Env = maps.Clone(request.Env)
	}
	if request.User != nil {
		m.defaults.User = *request.User
	}
	if request.Workdir != nil {
		m.defaults.Workdir = *request.Workdir
	}
	return nil
}

func stepClock(seconds float64) error {
	ts := unix.NsecToTimespec(int64(seconds * 1e9))
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return wire.AsFailure(os.NewSyscallError("clock_settime", err))
	}
	return nil
}

// addEntropy mixes the bytes into the kernel's pool, credits them, and makes the kernel's
// generator take them up at once: two machines restored from one snapshot share its state
// until then (Linux, drivers/char/random.c).
func addEntropy(entropy []byte) error {
	const most = 512 // the ioctl takes an int of bits; more than this adds nothing
	entropy = entropy[:min(len(entropy), most)]
	var request struct { // struct rand_pool_info
		bits, size int32
		buf        [most]byte
	}
	request.bits, request.size = int32(8*len(entropy)), int32(len(entropy))
	copy(request.buf[:], entropy)
	fd, err := unix.Open("/dev/urandom", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return wire.FailPath("/dev/urandom", err)
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&request)))
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0)
	}
	if errno != 0 {
		return wire.AsFailure(os.NewSyscallError("adding entropy", errno))
	}
	return nil
}

// ReplaceFile puts a file under a name that an image may have made a symlink, such as
// /etc/resolv.conf: the symlink itself is replaced, and nothing is written where it led.
func ReplaceFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(dir, ".bandsox-*.tmp")
	if err != nil {
		return err
	}
	defer temporary.Close()
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Chmod(0o644)
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}

// BootID is the kernel's random name for this boot.
func BootID() (id [16]byte, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, err
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("boot id %q", text)
	}
	return [16]byte(raw), nil
}

// Info describes the machine; agent, transport and capabilities are the caller's to add.
func Info() (*wire.InfoResult, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, err
	}
	return &wire.InfoResult{
		Kernel:   unix.ByteSliceToString(name.Release[:]),
		Arch:     unix.ByteSliceToString(name.Machine[:]),
		UptimeMS: up.Nano() / int64(time.Millisecond),
		Time:     float64(time.Now().UnixMicro()) / 1e6,
	}, nil
}
