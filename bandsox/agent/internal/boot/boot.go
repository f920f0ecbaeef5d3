// Package boot takes the machine from the kernel's start of /init to a root file system in
// which everything else runs, and at the end down again.
//
// It does so in two halves. Begin loads drivers and mounts what the kernel shows of itself; up to there all machines of one shape are
// alike, and the host may save one that waits and have others go on from it. Only when the host has said whose machine it is does
// Complete look at the disks and make the root.
//
// The stages run in order, each is one line on the console, and the first that fails ends the
// machine with a line that says which and why: the host reads these lines to explain a machine
// that did not come up.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bandsox.dev/agent/internal/uevent"

	"golang.org/x/sys/unix"
)

// deviceDeadline is how long a device that must come may take. Under emulation on a busy host
// seconds are possible.
const deviceDeadline = 30 * time.Second

// Settings are the kernel arguments that begin with "bandsox.".
type Settings struct {
	Root      string // block device of the read-only root; empty: an empty tmpfs
	Overlay   string // block device of the writable layer, or "tmpfs"
	Transport string // "virtio-serial", "vsock", "console", or empty for what there is
	Network   bool   // there is a network device
	MTU       int    // of that device; 0: its own
	Gateway   string // its way to the world over IPv6; empty: it has none yet
	Balloon   bool   // there is a balloon
	Emulated  bool   // the processors are emulated in software
	Doorbell  uint32 // vsock port of the host that gives the token; 0: there is none
	Disks     string // further block devices, between commas, which are only waited for
}

// System is what the boot leaves behind.
type System struct {
	Settings Settings
	Image    *os.File // root of the read-only root file system
	Layer    *Layer   // nil without an overlay
	Cgroup   string   // directory for our cgroups, empty when the kernel has no cgroup v2

	// Paths is held while /dev, /proc and /sys move to the new root: for a moment nothing is found there.
	Paths sync.Mutex

	disksHeld bool // the driver has been kept from the disks
}

// Layer holds the writable layer, which is not reachable by any path of the new root.
type Layer struct {
	Mount *os.File // root of its file system
	Upper *os.File // overlayfs's upper directory
}

type stage struct {
	name string
	run  func(*System) error
}

// Begin runs the stages before the link to the host, which is the caller's. It does not return when one fails.
func Begin() *System {
	s := &System{}
	s.run(stage{"modules", loadModules}, stage{"mounts", mountKernel})
	return s
}

// Complete runs the stages after it. It does not return when one fails.
func (s *System) Complete() {
	s.run(stage{"root", mountRoot}, stage{"overlay", mountOverlay}, stage{"switch", switchRoot})
}

func (s *System) run(stages ...stage) {
	for _, stage := range stages {
		Announce(stage.name)
		if err := stage.run(s); err != nil {
			Fatal(stage.name, err)
		}
	}
}

// errDisksSeen says that the kernel has looked at its disks by itself.
var errDisksSeen = errors.New("the driver of the disks is built into the kernel, which has looked at them already")

// Waits tells whether nothing of the machine depends on its disks yet, so that it can be saved and go on with others.
func (s *System) Waits() error {
	if !s.disksHeld {
		return errDisksSeen
	}
	return nil
}

// Announce prints the stage that begins.
func Announce(stage string) { say("stage: " + stage) }

// Warn prints something that does not keep the machine from working.
func Warn(what string, err error) { say("warning: " + what + ": " + err.Error()) }

// Fatal says why the machine cannot go on, and powers it off.
func Fatal(stage string, err error) {
	say("fatal: " + stage + ": " + err.Error())
	powerOff(false)
}

// say prints one line in one write, so that the kernel's own lines do not get into it.
func say(text string) {
	fmt.Fprint(os.Stderr, "bandsox-agent: "+strings.ReplaceAll(text, "\n", " ")+"\n")
}

// loadModules makes the kernel's own file systems visible, reads the settings, and loads the
// modules of /modules.list. The driver of the disks is kept from them.
func loadModules(s *System) error {
	for _, m := range []mountPoint{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	openConsole()
	arguments, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	s.Settings = parseArguments(string(arguments))
	list, err := os.ReadFile("/modules.list")
	if os.IsNotExist(err) {
		return nil // everything is built in
	}
	if err != nil {
		return err
	}
	for path := range strings.Lines(string(list)) {
		if path = strings.TrimSpace(path); path == "" || s.Settings.spares(path) {
			continue
		}
		load := loadModule
		if moduleName(path) == diskModule {
			load, s.disksHeld = loadAside, true
		}
		if err := load(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// transportModules are those that only one transport needs.
var transportModules = map[string]string{
	"virtio_console":                    "virtio-serial",
	"vsock":                             "vsock",
	"vmw_vsock_virtio_transport_common": "vsock",
	"vmw_vsock_virtio_transport":        "vsock",
}

// networkModules are those that only a network device needs.
var networkModules = []string{"failover", "net_failover", "virtio_net"}

const (
	balloonModule = "virtio_balloon"
	diskModule    = "virtio_blk"
)

func moduleName(path string) string { return strings.TrimSuffix(filepath.Base(path), ".ko") }

// spares tells whether the machine has no use for a module: it belongs to a transport that the
// host has not chosen, or to a device that is not there.
func (s Settings) spares(path string) bool {
	name := moduleName(path)
	if slices.Contains(networkModules, name) {
		return !s.Network
	}
	if name == balloonModule {
		return !s.Balloon
	}
	transport, bound := transportModules[name]
	return bound && s.Transport != "" && s.Transport != transport
}

// openConsole makes the console standard output when the kernel could not: an initramfs
// without /dev/console.
func openConsole() {
	var st unix.Stat_t
	if unix.Fstat(2, &st) == nil && st.Rdev != unix.Mkdev(1, 3) {
		return
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for i := range 3 {
		_ = unix.Dup3(fd, i, 0)
	}
	unix.Close(fd)
}

func parseArguments(line string) (s Settings) {
	for _, argument := range strings.Fields(line) {
		key, value, _ := strings.Cut(argument, "=")
		switch key {
		case "bandsox.root":
			s.Root = value
		case "bandsox.overlay":
			s.Overlay = value
		case "bandsox.transport":
			s.Transport = value
		case "bandsox.network":
			s.Network = true
			s.MTU, _ = strconv.Atoi(value)
		case "bandsox.gateway":
			s.Gateway = value
		case "bandsox.balloon":
			s.Balloon = true
		case "bandsox.doorbell":
			port, _ := strconv.ParseUint(value, 10, 32)
			s.Doorbell = uint32(port)
		case "bandsox.emulated":
			s.Emulated = true
		case "bandsox.disks":
			s.Disks = value
		}
	}
	return s
}

// node is the path of a block device.
func node(name string) string { return "/dev/" + strings.TrimPrefix(name, "/dev/") }

// awaitDevice returns when a block device's node is there.
func awaitDevice(events *uevent.Listener, name string) error {
	err := events.Until(time.Now().Add(deviceDeadline), func() bool {
		return unix.Access(node(name), unix.F_OK) == nil
	})
	if err != nil {
		return fmt.Errorf("no %s: %w", node(name), err)
	}
	return nil
}

type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", m.kind, m.target, err)
	}
	return nil
}
