package network

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"bandsox.dev/agent/internal/netlink"

	"golang.org/x/sys/unix"
)

// stateBits are the states, as /proc/net/tcp numbers them, of a connection whose end a program would learn of from the other side
// (Linux, include/net/tcp_states.h): established, SYN sent, FIN waits, and waiting for its own close.
const stateBits = 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<8

// CloseDead resets the TCP connections of programs from addresses that the machine has no more, which nobody would ever tell
// them of: whatever they do with them next fails with ECONNRESET. It returns how many those were.
func CloseDead() (int, error) {
	dead, err := deadSockets()
	if err != nil || len(dead) == 0 {
		return 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	closed, failed := 0, error(nil)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		count, err := resetIn(pid, dead)
		closed, failed = closed+count, errors.Join(failed, err)
		if len(dead) == 0 {
			break
		}
	}
	return closed, failed
}

// deadSockets are the inodes of the sockets of such connections.
func deadSockets() (map[uint64]bool, error) {
	conn, err := netlink.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	present, err := conn.Addresses()
	if err != nil {
		return nil, err
	}
	own := map[netip.Addr]bool{}
	for _, address := range present {
		own[address.Prefix.Addr().WithZone("")] = true
	}
	dead := map[uint64]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if err := readSockets(name, own, dead); err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return nil, err
		}
	}
	return dead, nil
}

// readSockets looks for them in a table of sockets (Linux, Documentation/networking/proc_net_tcp.rst).
func readSockets(name string, own map[netip.Addr]bool, dead map[uint64]bool) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 10 || words[0] == "sl" {
			continue
		}
		state, err := strconv.ParseUint(words[3], 16, 5)
		address, ok := tableAddress(words[1])
		if err != nil || !ok || stateBits>>state&1 == 0 || address.IsLoopback() || own[address] {
			continue
		}
		if inode, err := strconv.ParseUint(words[9], 10, 64); err == nil && inode != 0 {
			dead[inode] = true
		}
	}
	return lines.Err()
}

// tableAddress reads an address of such a table: words of 32 bits in the host's order, in hexadecimal, before a colon.
func tableAddress(text string) (netip.Addr, bool) {
	digits, _, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	address, ok := netip.AddrFromSlice(raw)
	return address.Unmap(), ok
}

// resetIn resets those that a process has, and takes them from the map.
func resetIn(pid int, dead map[uint64]bool) (closed int, err error) {
	directory := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(directory) // none: it has ended
	for _, entry := range entries {
		target, _ := os.Readlink(filepath.Join(directory, entry.Name()))
		inode, ok := strings.CutPrefix(target, "socket:[")
		number, failed := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 64)
		descriptor, malformed := strconv.Atoi(entry.Name())
		if !ok || failed != nil || malformed != nil || !dead[number] {
			continue
		}
		if failed := reset(pid, descriptor, number); failed != nil {
			err = errors.Join(err, fmt.Errorf("a connection of process %d: %w", pid, failed))
			continue
		}
		delete(dead, number)
		closed++
	}
	return closed, err
}

// reset ends the connection of another process's socket, if the descriptor still is that socket's.
func reset(pid, descriptor int, inode uint64) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	sock, err := unix.PidfdGetfd(process, descriptor, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_getfd", err)
	}
	defer unix.Close(sock)
	var status unix.Stat_t
	if err := unix.Fstat(sock, &status); err != nil || status.Ino != inode {
		return err
	}
	var nowhere unix.RawSockaddr // of the family AF_UNSPEC: the connection is dissolved (connect(2))
	if _, _, failed := unix.Syscall(unix.SYS_CONNECT, uintptr(sock), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere)); failed != 0 {
		return os.NewSyscallError("connect", failed)
	}
	return nil
}
