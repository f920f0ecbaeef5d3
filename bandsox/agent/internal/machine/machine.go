// Package machine is what the host sets and asks about the guest as a whole: its name,
// clock, entropy, and the defaults for every process.
package machine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	prepared map[string]bool   // files that are in the writable layer already, for a renewal to overwrite
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
	m.remember(path, content)
	return nil
}

func (m *Machine) remember(path string, content []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrote == nil {
		m.wrote = map[string][]byte{}
	}
	m.wrote[path] = content
}

// PrepareRenewal puts the files that hold the machine's id into the writable layer, as they are, so that a copy has only to overwrite
// them. No program runs meanwhile.
func (m *Machine) PrepareRenewal() {
	for _, path := range machineIDFiles {
		m.mu.Lock()
		_, own := m.wrote[path]
		there := own || m.prepared[path]
		m.mu.Unlock()
		var st unix.Stat_t
		if there || unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > mostMachineID {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil || ReplaceFile(path, content) != nil {
			continue // the copy tries it again, and tells
		}
		m.mu.Lock()
		if m.prepared == nil {
			m.prepared = map[string]bool{}
		}
		m.prepared[path] = true
		m.mu.Unlock()
	}
}

// renewFile is replaceFile for a copy of the machine in which no program runs, so that nobody sees a file half written. There one that
// is missing is written under its name at once, and one that setup has written is overwritten where it stands: an emulated processor, for
// which all code of a copy is new, is spared the allocators of the file system. What setup would write again stays as it is.
func (m *Machine) renewFile(path string, content []byte) error {
	m.mu.Lock()
	before, own := m.wrote[path]
	there := own || m.prepared[path]
	m.mu.Unlock()
	if own && bytes.Equal(before, content) {
		return nil
	}
	if writeInPlace(path, content, there) != nil {
		return m.replaceFile(path, content)
	}
	m.remember(path, content)
	return nil
}

// errNotOurs is told of a file that cannot be overwritten without changing another.
var errNotOurs = errors.New("not a file of one name")

// writeInPlace gives a file of one name its content: one that is there, or one that is not.
func writeInPlace(path string, content []byte, there bool) error {
	flags := unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !there {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	fd, err := unix.Open(path, flags, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errNotOurs
	}
	if n, err := unix.Pwrite(fd, content, 0); err != nil || n < len(content) {
		return errors.Join(err, io.ErrShortWrite)
	}
	if st.Size <= int64(len(content)) {
		return nil
	}
	return unix.Ftruncate(fd, int64(len(content)))
}

// Defaults are those of every process that is started from now on.
func (m *Machine) Defaults() process.Defaults {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.defaults
}

// Setup sets what the request gives, but for entropy and the token, which are the caller's: what is set here may already depend on fresh
// random numbers.
func (m *Machine) Setup(request *wire.SetupRequest) error {
	if request.Time != nil {
		if err := setClock(int64(*request.Time * 1e9)); err != nil {
			return err
		}
	}
	if request.Hostname != nil {
		if err := setHostname(*request.Hostname, m.replaceFile); err != nil {
			return err
		}
	}
	if err := setNames(request.Hosts, request.Resolv, m.replaceFile); err != nil {
		return err
	}
	if err := m.setTrust(request.Trust, m.replaceFile); err != nil {
		return err
	}
	m.SetDefaults(request.Env, request.User, request.Workdir)
	if request.Network == nil {
		return nil
	}
	// At the end, since the kernel tells others of a new address a moment later, while the host has its answer.
	return network.Configure(request.Network)
}

// writer is replaceFile, or renewFile.
type writer func(path string, content []byte) error

// RenewHostname names a machine in which no program runs, to the kernel and in /etc/hostname.
func (m *Machine) RenewHostname(name string) error { return setHostname(name, m.renewFile) }

func setHostname(name string, write writer) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return wire.AsFailure(os.NewSyscallError("sethostname", err))
	}
	return write("/etc/hostname", []byte(name+"\n"))
}

// RenewNames writes the files by which names become addresses in a machine in which no program runs; nil leaves one as it is.
func (m *Machine) RenewNames(hosts, resolv []byte) error { return setNames(hosts, resolv, m.renewFile) }

func setNames(hosts, resolv []byte, write writer) error {
	if hosts != nil {
		if err := write("/etc/hosts", hosts); err != nil {
			return err
		}
	}
	if resolv == nil {
		return nil
	}
	return write("/etc/resolv.conf", resolv)
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

// mostMachineID is the longest file that may be one with a machine's id, with whatever its user has added.
const mostMachineID = 4 << 10

// RenewMachineID gives a machine in which no program runs another id: in /run, where one may always be, and in the files that the
// image has for it.
func (m *Machine) RenewMachineID(id []byte) error {
	content := []byte(hex.EncodeToString(id) + "\n")
	if err := m.renewFile("/run/machine-id", content); err != nil {
		return err
	}
	for _, path := range machineIDFiles {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if err := m.renewFile(path, content); err != nil {
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
