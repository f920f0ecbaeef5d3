// Command bandsox-cni attaches a machine's network namespace to a CNI network, "bandsox-cni attach", and detaches it, "bandsox-cni detach"
// (internal/cni). It reads a request as JSON from standard input and writes the result to standard output; an error to standard error.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"bandsox.dev/agent/internal/cni"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	request := new(cni.Request)
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 1<<20)).Decode(request); err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	if err := seeOwnProcesses(); err != nil {
		return err
	}
	if len(os.Args) == 2 && os.Args[1] == "detach" {
		return cni.Detach(request)
	}
	result, err := cni.Attach(request)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// seeOwnProcesses mounts the /proc of this process's namespace where there is another's: plugins look for themselves there. Then the keeper
// has started this, in a mount namespace of its own.
func seeOwnProcesses() error {
	if self, err := os.Readlink("/proc/self"); err == nil && self == strconv.Itoa(os.Getpid()) {
		return nil
	}
	return os.NewSyscallError("mounting /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}
