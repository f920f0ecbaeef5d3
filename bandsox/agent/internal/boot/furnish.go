package boot

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// defaultHostname is the machine's name until the host gives it one.
const defaultHostname = "bandsox"

// furnishing is a mount; an optional one is not offered by every kernel or image.
type furnishing struct {
	mountPoint
	optional bool
}

// mountKernel mounts the rest of what the kernel offers, sets what the machine has whatever its disks hold, and frees the initramfs.
func mountKernel(s *System) error {
	for _, f := range []furnishing{
		{mountPoint{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"}, false},
		{mountPoint{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"}, false},
		{mountPoint{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}, true},
		{mountPoint{"cgroup2", cgroupRoot, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"}, true},
	} {
		mounted, err := f.furnish()
		if err != nil {
			return err
		}
		if mounted && f.target == cgroupRoot {
			s.Cgroup = cgroupRoot + "/bandsox"
		}
	}
	linkDevices()
	if err := unix.Sethostname([]byte(defaultHostname)); err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		Warn("loopback", err)
	}
	// What children get: room for many descriptors, but few unless they ask, because old
	// programs close every possible one.
	_ = syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1024, Max: 524288})
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return err
	}
	return freeInitramfs()
}

// furnish completes the root file system the way programs expect it.
func furnish() error {
	run := furnishing{mountPoint{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}, true}
	if _, err := run.furnish(); err != nil {
		return err
	}
	if err := stickyDirectory("/tmp"); err != nil && !errors.Is(err, unix.EROFS) {
		Warn("/tmp", err)
	}
	return nil
}

// furnish mounts, and tells whether there is something mounted.
func (f furnishing) furnish() (mounted bool, err error) {
	if err = f.mount(); err != nil && f.optional {
		Warn("mount", err)
		return false, nil
	}
	return err == nil, err
}

// freeInitramfs deletes what the initramfs brought; its memory is the machine's again.
func freeInitramfs() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return err
	}
	if fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return nil // not an initramfs: nothing here is ours to delete
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch name := "/" + entry.Name(); name {
		case "/dev", "/proc", "/sys":
		default:
			if err := os.RemoveAll(name); err != nil && !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
	}
	return nil
}

// linkDevices makes the names that devtmpfs leaves to user space.
func linkDevices() {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !os.IsExist(err) {
			Warn(name, err)
		}
	}
}

func stickyDirectory(path string) error {
	err := os.Mkdir(path, 0o755)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Chmod(path, 0o1777)
}

// raiseLoopback brings lo up; the kernel gives it its addresses.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct { // struct ifreq
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = unix.IFF_UP | unix.IFF_RUNNING
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
