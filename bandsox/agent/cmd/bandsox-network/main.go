// Command bandsox-network keeps the network of one machine on the host: a namespace with a TAP device
// and an uplink, as long as the machine's VMM runs. bandsox/network/__init__.py says how it fits in.
//
// It talks to the library over a socket that is its standard input, and reports what goes wrong later on
// standard error. As "bandsox-network sweep NFT GROUP NAME…" it removes what others that were killed have left on the host.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"bandsox.dev/agent/internal/keeper"

	"golang.org/x/sys/unix"
)

// lease is the descriptor of the keeper that holds the lease of the machine's addresses.
const lease = 3

func main() {
	if len(os.Args) == 2 && os.Args[1] == "keep" {
		unix.CloseOnExec(lease)
		if err := keeper.Keep(); err != nil {
			fmt.Fprintln(os.Stderr, "bandsox-network:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 3 && os.Args[1] == "sweep" {
		if err := sweep(os.Args[2], os.Args[3], os.Args[4:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	held, err := strconv.ParseUint(strings.Join(os.Args[1:], " "), 10, 16)
	if err == nil {
		err = detach(uintptr(held))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bandsox-network:", err)
		os.Exit(1)
	}
}

func sweep(nft, group string, names []string) error {
	number, err := strconv.Atoi(group)
	if err != nil {
		return err
	}
	return keeper.Sweep(nft, number, names)
}

// detach starts the keeper as the first process of a process namespace, and leaves it alone. So whatever it
// starts ends with it, however it ends. An ordinary user's is root of a user namespace besides, with mounts of its own.
func detach(held uintptr) error {
	attributes := &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		attributes.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	files := []uintptr{0, 1, 2, lease: held}
	_, err := syscall.ForkExec("/proc/self/exe", []string{os.Args[0], "keep"}, &syscall.ProcAttr{Files: files, Env: os.Environ(), Sys: attributes})
	if err != nil {
		return fmt.Errorf("starting the keeper in namespaces of its own: %w", err)
	}
	return nil
}
