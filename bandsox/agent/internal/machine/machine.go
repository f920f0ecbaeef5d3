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

	"bandsox.dev/agent/internal/network"
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
		if err := AddEntropy(request.Entropy); err != nil {
			return err
		}
	}
	if request.Time != nil {
		if err := setClock(int64(*request.Time * 1e9)); err != nil {
			return err
		}
	}
	if request.Hostname != nil {
		if err := m.SetHostname(*request.Hostname); err != nil {
			return err
		}
	}
	if request.Network != nil {
		if err := network.Configure(request.Network); err != nil {
			return err
		}
	}
	if err := m.SetNames(request.Hosts, request.Resolv); err != nil {
		return err
	}
	m.SetDefaults(request.Env, request.User, request.Workdir)
	return nil
}

// SetHostname names the machine, to the kernel and in /etc/hostname.
func (m *Machine) SetHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return wire.AsFailure(os.NewSyscallError("sethostname", err))
	}
	return m.replaceFile("/etc/hostname", []byte(name+"\n"))
}

// SetNames writes the files by which names become addresses; nil leaves one as it is.
func (m *Machine) SetNames(hosts, resolv []byte) error {
	for path, content := range map[string][]byte{"/etc/hosts": hosts, "/etc/resolv.conf": resolv} {
		if content != nil {
			if err := m.replaceFile(path, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetDefaults sets those of every process that is started from now on; nil leaves one as it is.
func (m *Machine) SetDefaults(env map[string]string, user, workdir *string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if env != nil {
		m.defaults.Env = maps.Clone(env)
	}
	if user != nil {
		m.defaults.User = *user
	}
	if workdir != nil {
		m.defaults.Workdir = *workdir
	}
}

// machineIDFiles hold the machine's id: of systemd (machine-id(5)) and of D-Bus, where it often is a link to the first.
var machineIDFiles = []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}

// SetMachineID gives the machine another id: in /run, where one may always be, and in the files that the image has for it.
func (m *Machine) SetMachineID(id []byte) error {
	content := []byte(hex.EncodeToString(id) + "\n")
	if err := ReplaceFile("/run/machine-id", content); err != nil {
		return wire.FailPath("/run/machine-id", err)
	}
	for _, path := range machineIDFiles {
		if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
			continue
		}
		if err := m.replaceFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

// StepClock moves the clock by so much.
func StepClock(by time.Duration) error { return setClock(time.Now().Add(by).UnixNano()) }

func setClock(nanoseconds int64) error {
	ts := unix.NsecToTimespec(nanoseconds)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return wire.AsFailure(os.NewSyscallError("clock_settime", err))
	}
	return nil
}

// AddEntropy mixes the bytes into the kernel's pool, credits them, and makes the kernel's
// generator take them up at once: two machines restored from one snapshot share its state
// until then (Linux, drivers/char/random.c).
func AddEntropy(entropy []byte) error {
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
