package process

import (
	"os"

	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// ttyGroup is the group that owns terminals, gid 5 in every distribution's devpts.
const ttyGroup = 5

// openTerminal returns a new terminal's master, as a file in Go's poller and as the descriptor
// under it, and its slave, owned by uid. The slave comes from the master itself (TIOCGPTPEER),
// so that no name has to be trusted.
func openTerminal(size wire.Winsize, uid uint32) (file *os.File, master, slave int, err error) {
	master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, -1, -1, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	slave, err = openSlave(master, uid)
	if err == nil {
		err = setWinsize(master, size)
	}
	if err != nil {
		unix.Close(master)
		if slave >= 0 {
			unix.Close(slave)
		}
		return nil, -1, -1, os.NewSyscallError("pty", err)
	}
	return os.NewFile(uintptr(master), "terminal"), master, slave, nil
}

func openSlave(master int, uid uint32) (int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	slave := int(fd)
	if err := unix.Fchown(slave, int(uid), ttyGroup); err != nil {
		return slave, err
	}
	return slave, unix.Fchmod(slave, 0o620)
}

func setWinsize(fd int, size wire.Winsize) error {
	if size.Cols < 0 || size.Rows < 0 || size.Cols > 0xffff || size.Rows > 0xffff {
		return unix.EINVAL
	}
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(size.Cols), Row: uint16(size.Rows)})
}

// resize sets the size; the kernel tells the programs with SIGWINCH.
func resize(master *os.File, size wire.Winsize) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return errEnded
	}
	var set error
	if raw.Control(func(fd uintptr) { set = setWinsize(int(fd), size) }) != nil {
		return errEnded
	}
	if set != nil {
		return wire.AsFailure(os.NewSyscallError("resize", set))
	}
	return nil
}

// eofCharacter is what ends the input of a program that reads lines; a terminal in raw mode
// has none.
func eofCharacter(master *os.File) (byte, bool) {
	raw, err := master.SyscallConn()
	if err != nil {
		return 0, false
	}
	var mode *unix.Termios
	err = raw.Control(func(fd uintptr) { mode, _ = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err != nil || mode == nil || mode.Lflag&unix.ICANON == 0 {
		return 0, false
	}
	return mode.Cc[unix.VEOF], true
}
