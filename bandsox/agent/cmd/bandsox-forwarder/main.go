// Command bandsox-forwarder carries TCP connections to this host's ports to ports of one machine's guest. There is one for each machine
// with such ports; it is started by whoever publishes one (bandsox/engine/forwarder.py) and ends with the machine.
//
// It inherits a connection to the machine's agent on which the operation `streams` runs, so it knows no token and no
// path; ports, as listening sockets, come through its control socket.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"bandsox.dev/agent/internal/forward"
)

func main() {
	link := flag.Int("link", -1, "descriptor of the connection to the agent")
	control := flag.Int("control", -1, "descriptor of the listening control socket")
	flag.Parse()
	runtime.GOMAXPROCS(min(runtime.NumCPU(), 2))
	debug.SetGCPercent(50)
	if err := run(*link, *control); err != nil && err != io.EOF {
		fmt.Fprintln(os.Stderr, "bandsox-forwarder:", err)
		os.Exit(1)
	}
}

func run(link, control int) error {
	linkFile := os.NewFile(uintptr(link), "link")
	agent, err := net.FileConn(linkFile)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	linkFile.Close() // FileConn has its own copy
	controlFile := os.NewFile(uintptr(control), "control")
	listener, err := net.FileListener(controlFile)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	controlFile.Close()
	commands, ok := listener.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("control: not a Unix socket")
	}
	commands.SetUnlinkOnClose(false)
	forwarder := forward.New(agent)
	go forwarder.Obey(commands)
	return forwarder.Run()
}
