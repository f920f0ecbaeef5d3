package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"bandsox.dev/agent/internal/machine"
	"bandsox.dev/agent/internal/process"
	"bandsox.dev/agent/internal/serve"
	"bandsox.dev/agent/internal/transport"
	"bandsox.dev/agent/internal/wire"

	"golang.org/x/sys/unix"
)

// serveLocally runs the agent as an ordinary process of this machine, for tests without a
// virtual machine. It boots nothing, and shutdown only ends the process. What setup sets is set
// for real: hostname, clock and files are those of the machine it runs on.
func serveLocally(arguments []string) int {
	flags := flag.NewFlagSet("bandsox-agent", flag.ContinueOnError)
	listen := flags.String("listen", "", "serve on a socket: unix:PATH or vsock:PORT")
	cgroup := flags.String("cgroup", "", "cgroup v2 directory for processes; without it they are killed by process group")
	showVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(arguments); err != nil {
		return 2
	}
	if *showVersion {
		fmt.Println(version)
		return 0
	}
	if *listen == "" {
		fmt.Fprintln(os.Stderr, "bandsox-agent: it is the /init of a BandSox machine; elsewhere: --listen unix:PATH or vsock:PORT")
		return 2
	}
	if err := listenLocally(*listen, *cgroup); err != nil {
		fmt.Fprintln(os.Stderr, "bandsox-agent:", err)
		return 1
	}
	return 0
}

func listenLocally(address, cgroup string) error {
	var groups *process.Groups
	if cgroup != "" {
		var err error
		if groups, err = process.NewGroups(cgroup); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	bootID, err := machine.BootID()
	if err != nil {
		return err
	}
	listener, kind, err := openListener(address)
	if err != nil {
		return err
	}
	server := &serve.Server{
		Version: version, Transport: kind, BootID: bootID, Capabilities: capabilities,
		Machine: &machine.Machine{}, Processes: process.NewTable(groups),
		Shutdown: func(wire.ShutdownRequest) { os.Exit(0) },
	}
	fmt.Println("listening")
	return server.Listen(listener)
}

func openListener(address string) (listener *transport.Listener, kind string, err error) {
	kind, place, _ := strings.Cut(address, ":")
	switch {
	case kind == "unix" && place != "":
		listener, err = transport.ListenUnix(place)
	case kind == "vsock":
		var port uint64
		if port, err = strconv.ParseUint(place, 10, 32); err == nil {
			listener, err = transport.ListenLocalVsock(uint32(port))
		}
	default:
		err = fmt.Errorf("no address to listen on: %q", address)
	}
	return listener, kind, err
}
